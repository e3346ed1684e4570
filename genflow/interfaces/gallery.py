"""`Gallery`: the names, scores, columns and pictures of the objects of a task.

Shapes: B terminal states, (B, *state_shape).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from genflow.errors import GenflowError
from genflow.interfaces.transitions import Transitions
from genflow.schema import brief
from genflow.storage.files import StrPath
from genflow.value_text import count_of


class Named(NamedTuple):
    """The object that a user's text means.

    Attributes:
        name: as `Gallery.names` spells it.
        title: what the user calls it, if the text says so.
        changed: what was done to it so that states can be it, such as a salt that was left out.
    """

    name: str
    title: str = ""
    changed: str = ""


class Gallery(ABC):
    """The names, scores, columns and pictures with which reports and tables show the objects of a task."""

    #: A short description of `scores`, e.g. ``"reward"``.
    score: str
    #: What a name is; names of the kind ``"smiles"`` can be written as .smi.
    name_kind: ClassVar[str] = "object"
    #: The names of the columns that `describe` can compute.
    descriptors: ClassVar[tuple[str, ...]] = ()
    #: The endings of files that `read_file` reads, beside text and .csv.
    suffixes: ClassVar[tuple[str, ...]] = ()
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

    def columns(self, states: Tensor) -> dict[str, list[Any]]:
        """Return further columns of a table of B objects, beside their names; by default none."""
        return {}

    def describe(self, names: Sequence[str], descriptor: str) -> list[float]:
        """Return one of `descriptors` of objects, by their names."""
        raise KeyError(descriptor)

    def diversity(self, states: Tensor) -> float | None:
        """Return the mean distance, 0 to 1, of every two of B objects, or None if they have no distance."""
        return None

    def read_name(self, text: str) -> str:
        """Return the name of the object that a user's text means, which `names` may spell in another way.

        Raises:
            GenflowError: the text is malformed; the message goes on after the text itself.
        """
        return text.strip()

    def read_line(self, text: str) -> Named:
        """Return the object that a line of a user's file means; by default the name that `read_name` reads.

        Raises:
            GenflowError: the text is malformed; the message goes on after the text itself.
        """
        return Named(self.read_name(text))

    def read_file(self, path: StrPath) -> list[tuple[int, str, str]]:
        """Return the line, the text, as for `read_line`, and the title of each object of such a file.

        Raises:
            GenflowError: the file cannot be read.
        """
        raise NotImplementedError

    def score_named(self, name: str) -> float | None:
        """Return the score of an object that perhaps no state is, or None if only states can be scored."""
        return None

    def states_named(self, name: str) -> tuple[Tensor, bool]:
        """Find the states that are an object.

        Args:
            name: the object's name, as `names` spells it.

        Returns:
            The states (K, *state_shape), and whether they are all.

        Raises:
            GenflowError: no state is this object, the message says why; or states cannot be found by name.
        """
        raise GenflowError(f"states of this environment cannot be found by their {self.name_kind}")

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

    def columns(self, states: Tensor) -> dict[str, list[Any]]:
        """Return a column for each coordinate, ``x0`` on, where `places` has them."""
        if self.places(self._transitions.initial_state[None]) is None:
            return {}
        return {f"x{i}": column for i, column in enumerate(states.T.tolist())}

    def diversity(self, states: Tensor) -> float | None:
        """Return the mean share of numbers in which two states differ (normalised Hamming distance)."""
        flat = states.flatten(1)
        if len(flat) < 2:
            return None
        # of n states with the same number, n (n - 1) ordered pairs agree
        agree = sum(float((count * (count - 1)).sum()) for count in _counts(flat))
        return 1 - agree / (len(flat) * (len(flat) - 1) * flat.shape[1])

    def read_name(self, text: str) -> str:
        """Return the numbers of a state, which may be separated by ``+``, commas or spaces.

        Raises:
            GenflowError: these are other than the numbers of one state.
        """
        return "+".join(map(str, self._numbers(text)))

    def _numbers(self, text: str) -> list[Any]:
        start = self._transitions.initial_state
        parts = text.replace("+", " ").replace(",", " ").split()
        try:
            numbers = [float(part) if start.is_floating_point() else int(part) for part in parts]
        except ValueError:
            raise GenflowError(f"is no list of numbers such as {self.names(start[None])[0]}") from None
        if len(numbers) != start.numel():
            raise GenflowError(f"has {count_of(len(numbers), 'number')}, and a state has {start.numel()}")
        return numbers

    def states_named(self, name: str) -> tuple[Tensor, bool]:
        """Return the one state with these numbers, whether it can be reached or not.

        Raises:
            GenflowError: a number is out of range.
        """
        start, numbers = self._transitions.initial_state, self._numbers(name)
        if self.places(start[None]) is not None and min(numbers) < 0:
            raise GenflowError(f"has {min(numbers)}, and positions begin at 0")
        try:
            return torch.tensor(numbers, dtype=start.dtype).reshape(1, *start.shape), True
        except (OverflowError, RuntimeError) as error:
            raise GenflowError(f"has a number that is out of range ({brief(str(error))})") from None

    def places(self, states: Tensor) -> Tensor | None:
        """Return the states themselves if they are vectors of integers >= 0, or else None."""
        whole = not states.is_floating_point() and states.ndim == 2 and int(states.amin()) >= 0
        return states if whole else None


def _counts(flat: Tensor) -> list[Tensor]:
    """Return how often each different number stands in each column of (B, n)."""
    return [column.unique(return_counts=True)[1] for column in flat.T]
