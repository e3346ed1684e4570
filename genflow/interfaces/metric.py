"""`Metric`: a measurement that yields one number for each policy.

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
    """A measurement that yields one number for each policy of a population."""

    #: Which values are better, ``"lower"`` or ``"higher"``, or None where neither is.
    better: ClassVar[str | None]
    #: Whether the metric enumerates all states.
    exact: ClassVar[bool] = False
    #: Whether no policy has a better value than one that samples the target, unlike e.g. a mean reward.
    #: Without a meaning for metrics that are `joint` or take a `reference`.
    fidelity: ClassVar[bool] = True
    #: Whether the metric is shown first in tables and summaries, on model cards, and, if exact, in progress
    #: bars.
    primary: ClassVar[bool] = False
    #: The value from which on a policy is called poor in cautions, None if no value is.
    poor: ClassVar[float | None] = None
    #: Whether the metric is shown in the table of a terminal.
    brief: ClassVar[bool] = False
    #: Whether a value depends on the other policies, so that the population must be measured as a whole.
    joint: ClassVar[bool] = False
    #: Whether the metric is called as ``metric(population, checkpoints)``, where the checkpoints are policies
    #: of the same structure from a zoo.
    reference: ClassVar[bool] = False

    def fits(self, structure: Structure) -> bool:
        """Return whether policies of this structure can be measured."""
        return structure.solution.enumerable or not self.exact

    @abstractmethod
    def __call__(self, population: Population, *args: Any, **kwargs: Any) -> Tensor:
        """Return the values (M,) in float64, NaN for a policy that has none.

        Only metrics with `reference` take an argument beside the population.
        """
