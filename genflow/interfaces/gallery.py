"""`Gallery`: how objects of a task are named, ranked and drawn.

Shapes: B terminal states, (B, *state_shape).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from genflow.interfaces.transitions import Transitions


class Gallery(ABC):
    """How a report shows the objects of a task."""

    #: What `scores` are, in a few words, e.g. ``"reward"``.
    score: str
    #: Whether `draw` makes pictures.
    pictures: ClassVar[bool] = False

    @abstractmethod
    def names(self, states: Tensor) -> list[str]:
        """B names, equal for states that are the same object, which is shown once.

        ``""`` for a state that is not to be shown.
        """

    @abstractmethod
    def scores(self, states: Tensor) -> Tensor:
        """(B,) float64, finite: by how much people would rank them; the highest are shown."""

    def draw(self, states: Tensor) -> list[bytes]:
        """B PNGs of states that have a name, where there are `pictures`.

        Those that are seen side by side come at once, so that all can be of one size and scale.
        """
        raise TypeError(f"{type(self).__name__} draws no pictures")

    def places(self, states: Tensor) -> Tensor | None:
        """(B, n) int64 places along axes, for pictures of distributions; None: states are no places."""
        return None


class PlainGallery(Gallery):
    """The default: named by the numbers of the state, ranked by the reward, placed along its axes."""

    score = "reward"

    def __init__(self, transitions: Transitions) -> None:
        self._transitions = transitions

    def names(self, states: Tensor) -> list[str]:
        """The state's numbers, e.g. ``"3+0+7"``."""
        return ["+".join(map(str, row)) for row in states.flatten(1).tolist()]

    def scores(self, states: Tensor) -> Tensor:
        """R(x)."""
        return self._transitions.log_reward(states).exp()

    def places(self, states: Tensor) -> Tensor | None:
        """The state's numbers where they are whole, and none of them negative."""
        whole = not states.is_floating_point() and states.ndim == 2 and int(states.amin()) >= 0
        return states if whole else None
