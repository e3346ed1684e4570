"""Divergences between the target and the distribution of terminal states, exact or from a histogram of draws.

Shapes: M policies, S states. p is the target, q the policy's distribution; logarithms are natural.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from genflow import Metric, Population, Schema, js, kl, mean_l1, total_variation

#: the paper's KL of a histogram is finite, so empty cells must have been floored; its value is not stated,
#: but 1e-8 brings a perfect sampler of structure A to 7.5, beside the paper's 7.28, and 1e-10 to 12
HISTOGRAM_FLOOR = 1e-8


class _Exact(Metric):
    """A divergence from the target, by dynamic programming over all states."""

    better = "lower"
    exact = True

    @abstractmethod
    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """The divergence (M,) between a target (S,) and distributions (M, S)."""

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        return self.divergence(population.structure.solution.target(), population.terminal_distribution())


class JS(_Exact):
    """Exact Jensen-Shannon divergence."""

    primary = True
    brief = True
    poor = 0.1 * math.log(2)  # a tenth of its largest value
    divergence = staticmethod(js)


class KL(_Exact):
    """Exact KL(target || policy)."""

    brief = True
    divergence = staticmethod(kl)


class ReverseKL(_Exact):
    """Exact KL(policy || target)."""

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """KL with its arguments exchanged."""
        return kl(q, p)


class MeanL1(_Exact):
    """Exact mean L1 distance over states."""

    brief = True
    divergence = staticmethod(mean_l1)


class TotalVariation(_Exact):
    """Exact total variation distance."""

    divergence = staticmethod(total_variation)


class _Histogram(Metric):
    """The paper's protocol: the target against a histogram of `draws` samples.

    The noise of the draws biases it upwards.
    """

    better = "lower"
    exact = True

    class Config(Schema):
        """How much is sampled; the paper's numbers fit about 200 draws (see docs/metrics.md)."""

        draws: int = Field(default=256, ge=1, description="How many objects a policy samples.")
        seed: int = Field(default=0, description="The seed of the draws.")

    @abstractmethod
    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """The divergence (M,) between a target (S,) and histograms (M, S)."""

    def histogram(self, q: Tensor) -> Tensor:
        """The fraction of the draws from distributions (M, S) that falls on each state, (M, S)."""
        rng = torch.Generator().manual_seed(self.config.seed)
        drawn = torch.multinomial(q, self.config.draws, replacement=True, generator=rng)
        counts = torch.zeros_like(q).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=q.dtype))
        return counts / self.config.draws

    def of(self, p: Tensor, q: Tensor) -> Tensor:
        """The divergence (M,) between a target (S,) and the histograms of distributions (M, S).

        With the target itself as the distribution it is the protocol's floor: what a perfect sampler scores.
        """
        return self.divergence(p, self.histogram(q))

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64.

        Draws come from the exact distribution, which is what trajectories sample.
        """
        return self.of(population.structure.solution.target(), population.terminal_distribution())


class HistogramJS(_Histogram):
    """JS of the histogram."""

    divergence = staticmethod(js)


class HistogramKL(_Histogram):
    """KL(target || histogram), empty cells floored at 1e-8."""

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """KL with a floor."""
        return kl(p, q.clamp(min=HISTOGRAM_FLOOR))


class HistogramL1(_Histogram):
    """Mean L1 of the histogram."""

    divergence = staticmethod(mean_l1)
