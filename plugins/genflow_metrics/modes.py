"""What sampled objects tell of tasks that are too large to enumerate.

They tell which modes are found, and whether probabilities follow rewards.

Shapes: M policies, N objects each, K trajectories to each, A actions (the last is exit).
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from genflow import GenflowError, Metric, Population, Schema, Structure


class Modes(Metric):
    """Number of different modes among sampled objects."""

    better = "higher"
    fidelity = False

    class Config(Schema):
        """How much is sampled."""

        draws: int = Field(default=1024, ge=1, description="How many trajectories a policy samples.")
        seed: int = Field(default=0, description="The seed of the trajectories.")

    def fits(self, structure: Structure) -> bool:
        """Whether the task says what a mode is."""
        transitions = structure.transitions()
        return transitions.is_mode(transitions.initial_state[None]) is not None

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64.

        Raises:
            GenflowError: the task does not say what a mode is.
        """
        final = population.rollouts(self.config.draws, self.config.seed).final
        hits = population.structure.transitions().is_mode(final.flatten(0, 1))
        if hits is None:
            raise GenflowError(
                f"environment {population.structure.env!r} does not say which objects are modes"
            )
        found = zip(final.flatten(2), hits.reshape(final.shape[:2]), strict=True)
        return torch.tensor(
            [len({tuple(row) for row in objects[hit].tolist()}) for objects, hit in found],
            dtype=torch.float64,
        )


def log_probability(policy: Population, objects: Tensor, trajectories: int, rng: torch.Generator) -> Tensor:
    """Estimate log p(x) by importance sampling.

    Trajectories are drawn from x by the uniform backward policy P_B.

    The log of the mean over K trajectories of P_F(trajectory) / P_B(trajectory | x), of which the mean is
    unbiased. Source: Malkin et al., "Trajectory balance" (2022). Where P_F balances with P_B every trajectory
    gives log p(x) itself.

    Args:
        policy: a population of one.
        objects: (N, *state_shape).
        trajectories: K.
        rng: of the trajectories.

    Returns:
        (N,) float64.
    """
    transitions = policy.structure.transitions()
    env = transitions.env
    states = objects.repeat_interleave(trajectories, dim=0)
    rows, actions = torch.arange(len(states)), torch.full((len(states),), env.n_actions - 1)
    log_ratio = torch.zeros(len(states), dtype=torch.float64)
    while True:
        wrapped, parents = env.States(states), env.States(states).backward_masks
        logits = policy.logits(transitions.inputs(states))[0].masked_fill(~wrapped.forward_masks, -torch.inf)
        log_pf = logits.double().log_softmax(-1).gather(1, actions[:, None]).squeeze(1)
        log_ratio[rows] += log_pf + parents.sum(1).clamp(min=1).log()
        moving = parents.any(1)
        if not moving.any():
            return log_ratio.reshape(-1, trajectories).logsumexp(1) - math.log(trajectories)
        rows, parents = rows[moving], parents[moving]
        actions = torch.rand(parents.shape, generator=rng).masked_fill(~parents, -1).argmax(1)
        states = env.backward_step(
            env.States(states[moving]), env.actions_from_tensor(actions[:, None])
        ).tensor


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation coefficient over the last axis; NaN where `x` or `y` is constant."""
    constant = (x == x[..., :1]).all(-1) | (y == y[..., :1]).all(-1)  # rounding hides it from the quotient
    x, y = (v - v.mean(-1, keepdim=True) for v in (x, y))
    return ((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))).masked_fill(constant, torch.nan)


class RewardCorrelation(Metric):
    """Pearson correlation of log p(x), by importance sampling, and log R(x) over sampled objects.

    The figure of Malkin et al. (2022) and Madan et al. (2023) for tasks without an exact distribution.
    Pearson, not Spearman: rewards that take a few values are ties, which the noise of log p breaks at random,
    so that ranks would punish even a perfect policy.
    """

    better = "higher"

    class Config(Schema):
        """How many objects are drawn, and how often each is reached."""

        draws: int = Field(
            default=128,
            ge=2,
            description="How many objects are drawn, half by the policy and half by random actions.",
        )
        trajectories: int = Field(
            default=16, ge=1, description="How many trajectories are drawn to each object."
        )
        seed: int = Field(default=0, description="The seed of everything random.")

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64; NaN where all objects have the same reward."""
        c, transitions = self.config, population.structure.transitions()
        rng = torch.Generator().manual_seed(c.seed)
        own = population.rollouts(c.draws - c.draws // 2, c.seed).final
        # so that the reward varies; random actions are nobody's, so all policies share them
        foreign = (
            population[:1]
            .rollouts(c.draws // 2, c.seed, epsilon=1.0)
            .final.expand(len(population), *[-1] * (own.ndim - 1))
        )
        objects = torch.cat([own, foreign], dim=1)
        log_reward = transitions.log_reward(objects.flatten(0, 1)).reshape(objects.shape[:2])
        with torch.no_grad():
            log_p = [
                log_probability(policy, x, c.trajectories, rng)
                for policy, x in zip(population, objects, strict=True)
            ]
        return pearson(torch.stack(log_p), log_reward)
