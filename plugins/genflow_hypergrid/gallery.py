"""Positions of a grid by their coordinates, for reports and tables."""

from __future__ import annotations

from torch import Tensor

from genflow import GenflowError, PlainGallery, Transitions


class Positions(PlainGallery):
    """Positions, of which only those on the grid are found."""

    name_kind = "position"

    def __init__(self, transitions: Transitions, height: int) -> None:
        super().__init__(transitions)
        self._height = height

    def states_named(self, name: str) -> tuple[Tensor, bool]:
        """The one state (1, n) at a position.

        Raises:
            GenflowError: it is not on the grid.
        """
        states, complete = super().states_named(name)
        if int(states.max()) >= self._height:
            raise GenflowError(f"has {int(states.max())}, and positions end at {self._height - 1}")
        return states, complete
