"""A task without a mistake, of which tests make others with one: words of bits from left to right."""

from __future__ import annotations

import torch
from gfn.env import DiscreteEnv
from gfn.preprocessors import KHotPreprocessor
from torch import nn

from genflow import (
    Environment,
    ExactSolution,
    PolicyArch,
    Reward,
    Schema,
    Structure,
    UnitDescriptions,
    Units,
    described,
    size,
)


class BitsEnv(DiscreteEnv):
    """Words of n bits from left to right: 0 is unset, 1 and 2 the bits; exit where all are set."""

    def __init__(self, n, score, first=2):
        self.score = score
        super().__init__(3, torch.zeros(n, dtype=torch.long), (n,), exit_action=torch.tensor([first]))

    def make_states_class(self):
        """States whose masks are those of this class."""
        masks = {"_compute_forward_masks": self.forward, "_compute_backward_masks": self.backward}
        return type("BitsStates", (super().make_states_class(),), masks)

    @staticmethod
    def forward(states):
        """Any bit until all are set."""
        full = (states.tensor > 0).all(-1, keepdim=True)
        return torch.cat([~full, ~full, full], -1)

    @staticmethod
    def backward(states):
        """The bit that was set last."""
        count = (states.tensor > 0).sum(-1, keepdim=True)
        last = states.tensor.gather(-1, (count - 1).clamp(min=0))
        return torch.cat([last == 1, last == 2], -1)

    def step(self, states, actions):
        """Set the next bit."""
        count = (states.tensor > 0).sum(-1, keepdim=True)
        return self.States(states.tensor.scatter(-1, count, actions.tensor + 1))

    def backward_step(self, states, actions):
        """Unset the last bit."""
        count = (states.tensor > 0).sum(-1, keepdim=True)
        return self.States(states.tensor.scatter(-1, count - 1, 0))

    def reward(self, states):
        """What the reward's class says."""
        return self.score(states.tensor)


class Ones(Reward):
    """It falls with the number of ones."""

    environment = "bits"

    def score(self, objects):
        """(B, n) -> (B,)."""
        return torch.exp(-(objects == 2).double().sum(-1))


class Bits(Environment):
    """The task without a mistake."""

    torchgfn = BitsEnv

    class Config(Schema):
        """Its length, and a number that a mistake may read."""

        n: int = size(3, ge=1)
        beta: float = described(1.0)

    def make(self, device="cpu"):
        """Each bit makes three inputs."""
        return self.torchgfn(self.config.n, self.reward.score), KHotPreprocessor(3, self.config.n)

    def condition(self):
        """The length."""
        return {"n": float(self.config.n)}

    def units(self):
        """A place and a value for each input."""
        return described_as(3 * self.config.n, 3)

    def exact_solution(self, transitions):
        """All prefixes."""
        return ExactSolution(transitions, n_states=2 ** (self.config.n + 1) - 1)


class Linear(PolicyArch):
    """One layer."""

    def build(self, n_inputs, n_outputs):
        """(B, n_inputs) -> (B, n_outputs)."""
        return nn.Sequential(nn.Linear(n_inputs, n_outputs))

    def axes(self):
        """As in `nn.Linear`."""
        return {"0.weight": ("action", "input"), "0.bias": ("action",)}

    def condition(self):
        """It has no size of its own."""
        return {}


def described_as(inputs, actions):
    return Units(UnitDescriptions(torch.eye(inputs)), UnitDescriptions(torch.eye(actions)))


def bits(torchgfn=None, score=None, policy=None, beta=1.0, **members) -> Structure:
    """The task with other members of the torchgfn environment, reward, policy and environment."""
    task = type("Bits", (Bits,), {"torchgfn": type("BitsEnv", (BitsEnv,), torchgfn or {}), **members})
    reward = type("Ones", (Ones,), {"score": lambda self, objects: score(objects)} if score else {})
    arch = type("Linear", (Linear,), policy or {})
    config = task.Config(beta=beta)
    return Structure.of(task(config, reward(None, config)), arch(), "bits", "linear")


def always(value):
    return lambda *_: value


def raises(*_):
    raise KeyError("oops")
