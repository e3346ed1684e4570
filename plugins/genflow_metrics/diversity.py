"""How different the policies of a population are from each other, in weights and in what they sample.

Shapes: M and N policies, D weights a policy, S states.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from genflow import Metric, Population, Schema

#: policies that others are compared with, where distributions are large
MAX_COMPARED = 32


def spaced(population: Population, limit: int) -> slice:
    """At most `limit` members, evenly spaced, so that every training run of a zoo has its share."""
    return slice(None, None, -(-len(population) // limit))


def weight_distances(a: Population, b: Population) -> Tensor:
    """L2 distances (M, N) float64 between the weights of two populations."""
    # without a matrix product, whose rounding would put a copy at some distance
    return torch.cdist(a.weights.double(), b.weights.double(), compute_mode="donot_use_mm_for_euclid_dist")


def total_variations(a: Population, b: Population) -> Tensor:
    """(M, N) float64 total variation, 0 to 1, between the exact terminal distributions of two populations.

    Those of `b` are held at once, those of `a` a few at a time.
    """
    q = b.terminal_distribution()
    return torch.cat([torch.cdist(part.terminal_distribution(), q, p=1.0) for part in a.parts()]) / 2


class Diversity(Metric):
    """Mean L2 distance of the weights to the other policies', over the mean norm."""

    better = "higher"
    joint = True

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64; NaN for a policy that is alone."""
        # a policy's distance to itself adds nothing
        to_others = weight_distances(population, population).sum(1) / (len(population) - 1)
        return to_others / population.weights.double().norm(dim=1).mean()


class DiversityTV(Metric):
    """Mean exact total variation to what the other policies sample."""

    better = "higher"
    exact = True
    joint = True

    class Config(Schema):
        """How many policies are compared."""

        others: int = Field(
            default=MAX_COMPARED,
            ge=2,
            description="With how many others, evenly spaced, a policy is compared at most.",
        )

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64; NaN for a policy that is alone."""
        chosen = spaced(population, self.config.others)
        others = population if chosen.step == 1 else population[chosen]
        count = torch.full((len(population),), len(others))
        count[chosen] -= 1
        return total_variations(population, others).sum(1) / count


class ParameterVariance(Metric):
    """Variance of a policy's parameters around their own mean, all layers together (the paper's Table 6)."""

    better = None

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        return population.weights.double().var(1, correction=0)
