"""A line of positions 0 .. length-1: each action moves one to the right, or exits. The reward has two bumps.

Shapes: L positions, which are the states, in torchgfn tensors of shape (*batch, 1).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from gfn.env import DiscreteEnv
from gfn.preprocessors import KHotPreprocessor
from torch import Tensor

from genflow import Environment, ExactSolution, Schema, UnitDescriptions, Units, fixed, size


class LineEnv(DiscreteEnv):
    """The torchgfn side. Action 0 moves right, action 1 exits; any position may be exited from."""

    def __init__(self, rewards: Tensor) -> None:
        self.rewards = rewards
        s0 = torch.zeros(1, dtype=torch.long, device=rewards.device)
        super().__init__(n_actions=2, s0=s0, state_shape=(1,))

    def make_states_class(self):
        """States that know which actions are allowed."""
        last = len(self.rewards) - 1

        class LineStates(super().make_states_class()):
            def _compute_forward_masks(self):
                move = self.tensor < last
                return torch.cat([move, torch.ones_like(move)], dim=-1)

            def _compute_backward_masks(self):
                return self.tensor > 0

        return LineStates

    def step(self, states, actions):
        """One position to the right; torchgfn itself handles the exit."""
        return self.states_from_tensor(states.tensor + 1)

    def backward_step(self, states, actions):
        """One position to the left."""
        return self.states_from_tensor(states.tensor - 1)

    def reward(self, states):
        """(*batch,) R."""
        return self.rewards[states.tensor.squeeze(-1)]


class Line(Environment):
    """The genflow side: the task's options, and what each number of its policy means."""

    class Config(Schema):
        """`length`: positions L. `floor`: the reward far from both bumps."""

        length: int = size(ge=2, le=1000)
        floor: float = fixed(0.05, reward_only=True, gt=0)

    presets: ClassVar = {"short": {"length": 8}, "long": {"length": 24}}
    default_structures: ClassVar = ("short", "long")

    def rewards(self) -> tuple[Tensor, Tensor]:
        """(L,) place u on [0, 1] and (L,) reward there: bumps of height 1 at u = 1/4 and 2 at u = 3/4."""
        u = torch.linspace(0, 1, self.config.length)
        first, second = (torch.exp(-(((u - centre) / 0.1) ** 2)) for centre in (0.25, 0.75))
        return u, self.config.floor + first + 2 * second

    def make(self, device="cpu"):
        """The environment, and one input a position."""
        _, rewards = self.rewards()
        return LineEnv(rewards.to(device)), KHotPreprocessor(height=self.config.length, ndim=1)

    def condition(self) -> dict[str, float]:
        """What the networks are told of the whole task."""
        return {"length": float(self.config.length)}

    def units(self) -> Units:
        """An input is a place and its reward; an action moves by one, or exits."""
        inputs = UnitDescriptions(torch.stack(self.rewards(), dim=1))
        return Units(inputs, UnitDescriptions(torch.eye(2)))

    def exact_solution(self, transitions):
        """A known number of states gives the exact metrics; no more code is needed for them."""
        return ExactSolution(transitions, n_states=self.config.length)
