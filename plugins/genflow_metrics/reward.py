"""Figures from sampled trajectories: mean reward and bounds on log Z. They need no enumeration.

Shapes: M policies, B trajectories.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from genflow import Metric, Population, Schema, Structure


class _Sampled(Metric):
    """A figure of trajectories sampled from each policy."""

    class Config(Schema):
        """How much is sampled."""

        draws: int = Field(default=1024, ge=1, description="How many trajectories a policy samples.")
        seed: int = Field(default=0, description="The seed of the trajectories.")

    def bound(self, population: Population) -> Tensor:
        """The mean of log R(x) + log P_B - log P_F of each policy, (M,).

        A lower bound of log Z in expectation (Jensen), tight for a perfect policy.
        """
        rollouts = population.rollouts(self.config.draws, self.config.seed)
        log_pf = rollouts.log_pf(rollouts.rows(rollouts.logits))
        return (rollouts.log_reward + rollouts.total(rollouts.log_pb - log_pf)).double().mean(1)


class MeanReward(_Sampled):
    """Mean reward of sampled objects."""

    brief = True
    better = "higher"

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        return population.rollouts(self.config.draws, self.config.seed).log_reward.double().exp().mean(1)


class LogZBound(_Sampled):
    """Sampled lower bound of log Z."""

    better = "higher"

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        return self.bound(population)


class LogZGap(_Sampled):
    """log Z minus its sampled lower bound, in nats; 0 for a perfect policy.

    Its expectation is the reverse KL over trajectories tau that end in x,
    KL(P_F(tau) || P_B(tau | x) R(x)/Z), and so an upper bound of KL(policy || target). It needs log Z and no
    enumeration.
    """

    primary = True
    brief = True
    better = "lower"
    poor: ClassVar[float | None] = 1.0

    def fits(self, structure: Structure) -> bool:
        """Whether log Z is known, by enumeration or in closed form."""
        return structure.solution.knows_log_partition

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64; within the noise of the draws it may be below 0."""
        return population.structure.solution.log_partition() - self.bound(population)


class LogZError(LogZGap):
    """|log Z - sampled bound|, the gap without its sign."""

    primary = False
    brief = False
    poor = None

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        return super().__call__(population).abs()
