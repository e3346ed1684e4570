"""`Gallery`: how a report shows the objects of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Gallery(ABC):
    """How a report shows the objects of a task. States are terminal, (B, *state_shape)."""

    #: What `scores` are, in a few words, e.g. ``"reward"``.
    score: str

    @abstractmethod
    def names(self, states: Tensor) -> list[str]:
        """B names, equal for states that are the same object, which is shown once; ``""`` for a state that is not to be shown."""

    @abstractmethod
    def scores(self, states: Tensor) -> Tensor:
        """(B,) float64, finite: by how much people would rank them; the highest are shown."""

    @abstractmethod
    def draw(self, states: Tensor) -> list[bytes]:
        """B PNGs of states that have a name.

        Those that are seen side by side come at once, so that all can be of one size and scale.
        """
