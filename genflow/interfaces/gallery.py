"""`Gallery`: the names, scores and pictures of the objects of a task.

Shapes: B terminal states, (B, *state_shape).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from genflow.interfaces.transitions import Transitions


class Gallery(ABC):
    """The names, scores and pictures with which a report shows the objects of a task."""

    #: A short description of `scores`, e.g. ``"reward"``.
    score: str
    #: Whether `draw` is implemented.
    pictures: ClassVar[bool] = False

    @abstractmethod
    def names(self, states: Tensor) -> list[str]:
        """Return the names of the B objects, equal for states that are the same object.

        The name of a state that must not be shown is ``""``.
        """

    @abstractmethod
    def scores(self, states: Tensor) -> Tensor:
        """Return finite scores (B,) in float64, by which objects are ranked and the best are shown."""

    def draw(self, states: Tensor) -> list[bytes]:
        """Draw B states as PNGs, if `pictures` is set.

        States that are shown side by side are drawn in one call, so that they can share a size and a scale.
        """
        raise TypeError(f"{type(self).__name__} draws no pictures")

    def places(self, states: Tensor) -> Tensor | None:
        """Return integer coordinates (B, n) for pictures of distributions, or None if states have none."""
        return None


class PlainGallery(Gallery):
    """The default gallery, which names objects by their state's numbers and ranks them by reward."""

    score = "reward"

    def __init__(self, transitions: Transitions) -> None:
        self._transitions = transitions

    def names(self, states: Tensor) -> list[str]:
        """Return the numbers of each state, e.g. ``"3+0+7"``."""
        return ["+".join(map(str, row)) for row in states.flatten(1).tolist()]

    def scores(self, states: Tensor) -> Tensor:
        """Return the reward R(x) of each state."""
        return self._transitions.log_reward(states).exp()

    def places(self, states: Tensor) -> Tensor | None:
        """Return the states themselves if they are vectors of integers >= 0, or else None."""
        whole = not states.is_floating_point() and states.ndim == 2 and int(states.amin()) >= 0
        return states if whole else None
