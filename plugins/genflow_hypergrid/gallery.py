"""Positions of a grid by their coordinates, for reports and tables."""

from __future__ import annotations

from torch import Tensor

from genflow import GenflowError, PlainGallery, Transitions


class Positions(PlainGallery):
    """Positions, of which only those on the grid are found."""

    name_kind = "position"

    def __init__(self, transitions: Transitions, heights: tuple[int, ...]) -> None:
        super().__init__(transitions)
        self._heights = heights

    def states_named(self, name: str) -> tuple[Tensor, bool]:
        """The one state (1, n) at a position.

        Raises:
            GenflowError: it is not on the grid.
        """
        states, complete = super().states_named(name)
        for dimension, (place, height) in enumerate(zip(states[0].tolist(), self._heights, strict=True)):
            if place >= height:
                of = "" if len(set(self._heights)) == 1 else f" of dimension {dimension}"
                raise GenflowError(f"has {place}, and positions{of} end at {height - 1}")
        return states, complete
