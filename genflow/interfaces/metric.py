"""`Metric`: one number a policy.

Shapes: M policies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from genflow.interfaces.configured import Configured

if TYPE_CHECKING:
    from genflow.population import Population
    from genflow.structure import Structure


class Metric(Configured, ABC):
    """One number a policy."""

    #: Which direction is good: ``"lower"`` or ``"higher"``.
    better: ClassVar[str]
    #: Whether every state must be enumerated.
    exact: ClassVar[bool] = False
    #: Whether progress bars show it, and tables and summaries lead with it.
    primary: ClassVar[bool] = False
    #: Whether the short table of a terminal shows it.
    brief: ClassVar[bool] = False
    #: Whether a value depends on the other policies, so that a population must be measured as a whole.
    joint: ClassVar[bool] = False
    #: Whether it is called as ``metric(population, checkpoints)``, with the zoo's policies of the same
    #: structure.
    reference: ClassVar[bool] = False

    def fits(self, structure: Structure) -> bool:
        """Whether policies of this structure can be measured."""
        return structure.solution.enumerable or not self.exact

    @abstractmethod
    def __call__(self, population: Population, *args: Any, **kwargs: Any) -> Tensor:
        """(M,) float64 values, NaN where a policy has none.

        Only metrics with `reference` take more than the population.
        """
