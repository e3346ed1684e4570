"""Whether policies are more than copies of the checkpoints that their generator was trained on.

The tests of Zeng et al., "Generative Modeling of Weights: Generalization or Memorization?" (2025). The zoo's
own policies are measured by the same rules, each without itself, so that their values are what to expect from
training.

Shapes: M policies, N checkpoints, S states.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from genflow import Metric, Population, Schema

from .diversity import MAX_COMPARED, spaced, total_variations, weight_distances

T = TypeVar("T")
_kept: WeakKeyDictionary[Population, dict[Any, Any]] = WeakKeyDictionary()


def keep(checkpoints: Population, key: Any, make: Callable[[], T]) -> T:
    """What `make` returns, made once for all populations that are compared with the same checkpoints."""
    kept = _kept.setdefault(checkpoints, {})
    if key not in kept:
        kept[key] = make()
    return kept[key]


def identities(population: Population, checkpoints: Population) -> Tensor:
    """(M, N) bool: which policy is which checkpoint itself.

    A copy that came from elsewhere, such as a generator, is none.
    """
    same = torch.zeros(len(population), len(checkpoints), dtype=torch.bool)
    if population.source == checkpoints.source:
        places = {row.numpy().tobytes(): n for n, row in enumerate(checkpoints.weights)}
        for m, row in enumerate(population.weights):
            if (n := places.get(row.numpy().tobytes())) is not None:
                same[m, n] = True
    return same


def nearest(distances: Tensor, same: Tensor) -> Tensor:
    """The distance (M,) to the nearest one that is not the `same`, from distances (M, N); NaN if none is."""
    found = distances.masked_fill(same, torch.inf).amin(1)
    return found.masked_fill(found.isinf(), torch.nan)


class _Novelty(Metric):
    """Distance to the nearest checkpoint over the checkpoints' mean distance to their own nearest."""

    better = "higher"
    reference = True

    @abstractmethod
    def distances(self, a: Population, b: Population) -> Tensor:
        """Distances (M, N) between the policies of two populations."""

    def compared(self, checkpoints: Population) -> Population:
        """The checkpoints that distances are taken to."""
        return checkpoints

    def __call__(self, population: Population, checkpoints: Population) -> Tensor:
        """One number a policy, (M,) float64: 1 is as far as checkpoints are from each other, 0 is a copy.

        It is NaN for a zoo of one checkpoint.
        """
        those = self.compared(checkpoints)
        itself = torch.eye(len(those), dtype=torch.bool)
        scale = keep(those, type(self), lambda: nearest(self.distances(those, those), itself).mean())
        return nearest(self.distances(population, those), identities(population, those)) / scale


class Novelty(_Novelty):
    """L2 distance of the weights to the nearest training checkpoint, over the checkpoints' own mean."""

    distances = staticmethod(weight_distances)


class _Exact(Metric):
    """Compares exact terminal distributions with some of the checkpoints'."""

    exact = True
    reference = True

    class Config(Schema):
        """How many checkpoints are compared with."""

        checkpoints: int = Field(
            default=MAX_COMPARED,
            ge=2,
            description="With how many checkpoints, evenly spaced, a policy is compared at most.",
        )

    def compared(self, checkpoints: Population) -> Population:
        """Some checkpoints, always the same object, whose distributions are then computed once."""
        limit = self.config.checkpoints
        return keep(checkpoints, limit, lambda: checkpoints[spaced(checkpoints, limit)])


class NoveltyTV(_Exact, _Novelty):
    """Exact total variation to the nearest training checkpoint, over the checkpoints' own mean."""

    distances = staticmethod(total_variations)


class ErrorAgreement(_Exact):
    """Largest cosine similarity of the mistakes, p(policy) - p(target), with any training checkpoint's."""

    better = "lower"

    def __call__(self, population: Population, checkpoints: Population) -> Tensor:
        """(M,) float64, -1 to 1: 1 makes the mistakes of a checkpoint, 0 has none in common.

        NaN for a zoo of one checkpoint.
        """
        those = self.compared(checkpoints)
        theirs = self.errors(those)
        agreement = torch.cat([self.errors(part) @ theirs.T for part in population.parts()])
        return -nearest(-agreement, identities(population, those))

    def errors(self, population: Population) -> Tensor:
        """The mistakes (M, S) of each policy, scaled to length 1; 0 for a policy without mistakes."""
        return functional.normalize(
            population.terminal_distribution() - population.structure.solution.target(), dim=1
        )
