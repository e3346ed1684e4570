"""Exact divergences over molecules.

The built-in ones are over states, several of which may be one molecule.

The target gives every molecule its score to the power of beta, once. With `multiplicity` the task's own
target does the same; without it a policy that is perfect over states still has a divergence here, which tells
how much is over-counted.

Shapes: M policies, S states, K molecules.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from genflow import Metric, Population, Structure, js, kl, mean_l1

from .solution import MoleculeSolution


class _Exact(Metric):
    """A divergence by dynamic programming over all states.

    It is not marked `exact`, which would ask it of every environment.
    """

    better = "lower"

    def fits(self, structure: Structure) -> bool:
        """Whether the task makes molecules, and all of them can be scored."""
        return isinstance(structure.solution, MoleculeSolution) and structure.solution.enumerable

    @abstractmethod
    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """Target (K,) and policies (M, K) -> (M,)."""

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64."""
        solution = population.structure.solution
        assert isinstance(solution, MoleculeSolution)
        owner, target = solution.molecules()
        ends = population.terminal_distribution()[:, solution.graph.can_exit]
        return self.divergence(target, ends.new_zeros(len(ends), len(target)).index_add_(1, owner, ends))


class KL(_Exact):
    """Exact KL(target || policy) over molecules."""

    divergence = staticmethod(kl)


class JS(_Exact):
    """Exact Jensen-Shannon divergence over molecules."""

    divergence = staticmethod(js)


class L1(_Exact):
    """Exact mean L1 distance over molecules."""

    divergence = staticmethod(mean_l1)
