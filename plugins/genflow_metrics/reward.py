"""Figures from sampled trajectories: mean reward and bounds on log Z. They need no enumeration.

Shapes: M policies, B trajectories.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genflow import GenflowError, Metric, Population, Schema, Structure, log_pf_of, sample_backwards


class _Sampled(Metric):
    """A figure of trajectories sampled from each policy."""

    class Config(Schema):
        """How much is sampled."""

        draws: int = Field(default=1024, ge=1, description="How many trajectories a policy samples.")
        seed: int = Field(default=0, description="The seed of the trajectories.")

    def log_weights(self, population: Population) -> Tensor:
        """log R(x) + log P_B - log P_F of trajectories that each policy samples, (M, draws) float64.

        Their mean is a lower bound of log Z in expectation (Jensen), tight for a perfect policy.
        """
        rollouts = population.rollouts(self.config.draws, self.config.seed)
        log_pf = rollouts.log_pf(rollouts.logits)
        return (rollouts.log_reward + rollouts.total(rollouts.log_pb - log_pf)).double()


class MeanReward(_Sampled):
    """Mean reward of sampled objects."""

    brief = True
    better = "higher"
    fidelity = False

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        return population.rollouts(self.config.draws, self.config.seed).log_reward.double().exp().mean(1)


class LogZBound(_Sampled):
    """Sampled lower bound of log Z."""

    better = "higher"

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        return self.log_weights(population).mean(1)


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
        return population.structure.solution.log_partition() - self.log_weights(population).mean(1)


class ReverseKLBound(LogZGap):
    """The same figure as `log_z_gap`, by the name of what it bounds: KL(policy || target), in nats."""

    primary = False
    brief = False


class KLBound(_Sampled):
    """Upper bound of KL(target || policy) in nats, from trajectories drawn backwards from the target.

    It is the mean of log P_B(tau | x) R(x) / Z - log P_F(tau) with x drawn from the target and tau by P_B,
    the evidence upper bound less log Z (Malkin et al., "GFlowNets and variational inference", ICLR 2023); 0
    for a perfect policy. Unlike `log_z_gap` it sees what a policy never samples. It needs log Z and samples
    of the target, and no enumeration.
    """

    primary = True
    better = "lower"
    brief = True
    poor: ClassVar[float | None] = 1.0

    def fits(self, structure: Structure) -> bool:
        """Whether log Z is known and the target can be drawn from, by enumeration or in closed form."""
        return structure.solution.knows_log_partition and structure.solution.can_draw

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64; within the noise of the draws it may be below 0."""
        return self.log_ratios(population).mean(1)

    def log_ratios(self, population: Population) -> Tensor:
        """log P_B(tau | x) R(x) / Z - log P_F(tau) of each draw, (M, draws) float64.

        Raises:
            GenflowError: the environment's way back from an object is no way to it.
        """
        solution, transitions = population.structure.solution, population.structure.transitions()
        rng = torch.Generator().manual_seed(self.config.seed)
        objects = solution.draw(self.config.draws, rng)
        drawn = sample_backwards(transitions, objects, rng)
        if not drawn.complete.all():
            state = objects[~drawn.complete][0].tolist()
            raise GenflowError(
                f"no trajectory leads back from state {state} to the start; leave out kl_bound"
            )
        log_pf = log_pf_of(transitions, lambda states: population.trace(states)[0], drawn)
        return transitions.log_reward(objects) - solution.log_partition() + drawn.log_pb - log_pf


class LogZError(LogZGap):
    """|log Z - sampled bound|, the gap without its sign."""

    primary = False
    brief = False
    poor = None

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        return super().__call__(population).abs()
