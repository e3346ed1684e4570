"""Figures on their way to the trackers that a run asks for.

What is logged are the points of the learning curves that the results of a training keep, no others. A log
that lacks some of them is given them later, and none twice. A tracker that fails is left out, and the work
goes on.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from genflow.errors import GenflowError, did_you_mean
from genflow.interfaces.tracker import Tracker
from genflow.progress import Progress
from genflow.registry import registry
from genflow.schema import Schema, brief

#: figure -> [[step, value], ...]
Points = Mapping[str, Sequence[Sequence[float]]]


class TrackingOptions(Schema):
    """Where figures are logged beside the results."""

    trackers: tuple[str, ...] = Field(
        default=(), description="Registered names of trackers, to which figures go as they are measured."
    )
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Options of a tracker, by its name."
    )

    def build(self, name: str) -> Tracker:
        """Build a tracker.

        Raises:
            GenflowError: the name or an option is unknown, or what the tracker needs is not installed.
        """
        cls: type[Tracker] = registry().load("tracker", name)
        return cls.from_config(self.options.get(name, {}), f"tracking.options of tracker {name!r}")


@dataclass
class _Current:
    """The trackers in use, without those that have failed."""

    options: TrackingOptions = field(default_factory=TrackingOptions)
    names: list[str] = field(default_factory=list)


_current: ContextVar[_Current | None] = ContextVar("tracking", default=None)


@contextlib.contextmanager
def tracked(options: TrackingOptions) -> Iterator[None]:
    """Log what is measured inside; inside of another such context with equal options, as that one does.

    Raises:
        GenflowError: a tracker is unknown, has a wrong option, or needs what is not installed.
    """
    current = _current.get()
    if current is not None and current.options == options:  # a tracker that has failed stays left out
        yield
        return
    known = registry().names("tracker")
    for name in options.options:
        if name not in known:
            raise GenflowError(
                f"tracking.options: unknown tracker {brief(name)!r}{did_you_mean(name, known)}"
            )
    names = list(dict.fromkeys(options.trackers))
    for name in names:
        options.build(name)
    token = _current.set(_Current(options, names))
    try:
        yield
    finally:
        _current.reset(token)


class Followed:
    """The logs of one training, opened with its first figures and closed at the end of the context."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], progress: Progress) -> None:
        self._folder, self._facts, self._progress = folder, facts, progress
        self._current = _current.get() or _Current()
        self._logs: dict[str, tuple[Tracker, dict[str, int]]] = {}

    def __enter__(self) -> Followed:
        return self

    def __exit__(self, *_: object) -> None:
        for name, (tracker, _last) in list(self._logs.items()):
            with self._or_without(name):
                tracker.close()

    def tell(self, points: Points) -> None:
        """Log those points of learning curves that are not logged yet."""
        for name in list(self._current.names) if points else ():
            with self._or_without(name):
                if name not in self._logs:
                    self._logs[name] = self._current.options.build(name), {}
                    tracker, last = self._logs[name]
                    last.update(tracker.open(self._folder, self._facts))
                tracker, last = self._logs[name]
                for step, figures in _beyond(last, points).items():
                    tracker.log(step, figures)

    @contextlib.contextmanager
    def _or_without(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a plugin's code may raise anything
            if logged := self._logs.pop(name, None):  # None where it cannot be built a second time
                with contextlib.suppress(Exception):  # it may hold a file
                    logged[0].close()
            if name not in self._current.names:  # another log of it has failed before, and was told of
                return
            self._current.names.remove(name)
            why = str(error) if isinstance(error, GenflowError) else f"{type(error).__name__}: {error}"
            self._progress.warn(
                f"tracker {name!r} has failed at {self._folder} and logs no more, all else goes on:"
                f" {brief(' '.join(why.split()), 300)}"
            )


def _beyond(last: dict[str, int], points: Points) -> dict[int, dict[str, float]]:
    """Return the finite points beyond the last step of each figure, by step, and update the last steps."""
    new: dict[int, dict[str, float]] = {}
    for name, curve in points.items():
        before = last.get(name, 0)
        for step, value in reversed(curve):
            if step <= before:
                break
            last[name] = max(last.get(name, 0), int(step))
            if value is not None and math.isfinite(value):
                new.setdefault(int(step), {})[name] = value
    return dict(sorted(new.items()))


def track(folder: Path, facts: Mapping[str, Any], figures: Mapping[str, float], step: int = 1) -> None:
    """Log figures that belong to one step, such as those of an evaluation."""
    with Followed(folder, facts, Progress.current()) as followed:
        followed.tell({name: [[step, value]] for name, value in figures.items()})
