"""Progress on stderr: live bars on a terminal and in a notebook, elsewhere a line every ten seconds.

Code that is handed a `Progress` opens its bars there; code deep inside, which is handed none, asks for
`Progress.current()`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from genflow.distributed.world import world

#: seconds between two lines where there is no terminal
LINE_SECONDS = 10.0
#: seconds between two pictures of a notebook's bar, each of which is a message to the browser
PICTURE_SECONDS = 0.5
#: seconds that a call from Python, which may be one of many, takes before it shows a bar
CALL_SECONDS = 1.0


class Bar:
    """One task's steps and the figures that matter; made without arguments it is shown nowhere.

    Attributes:
        share: how much of the task is over, 0 to 1, where it may end before its steps.
    """

    def __init__(
        self,
        label: str = "",
        total: int = 0,
        start: int = 0,
        show: Callable[[Bar], None] | None = None,
        timed: bool = True,
    ) -> None:
        self.label, self.total, self.done = label, total, start
        self.figures = ""
        self.share: float | None = None
        self._start, self._began, self._show, self._timed = start, time.monotonic(), show, timed
        self._first: float | None = None

    def advance(self, **figures: float) -> None:
        """Count one step and show its figures."""
        self.set(self.done + 1, **figures)

    def set(self, done: int, **figures: float) -> None:
        """Show how many steps are done, with new figures if there are some."""
        if self._show is not None:
            self.done = done
            if figures:
                self.figures = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self._show(self)

    def line(self, now: float) -> str:
        """Steps, figures and the time left, at a time of `time.monotonic`."""
        parts = [f"{self.label} {self.done}/{self.total}"]
        if self.figures:
            parts.append(self.figures)
        if left := self.left(now):
            parts.append(f"{left} left")
        return ", ".join(parts)

    def begin(self, share: float) -> None:
        """Say how much of the task was over when it began, where `share` is said."""
        self._first = self.share = share

    def left(self, now: float) -> str:
        """The time left, at a time of `time.monotonic`; empty where it is not known or another bar's."""
        first, done = self._start / (self.total or 1), self.done / (self.total or 1)
        if self.share is not None and self._first is not None:
            first, done = self._first, self.share
        if not (self._timed and first < done < 1):
            return ""
        return str(timedelta(seconds=round((now - self._began) * (1 - done) / (done - first))))


class _View(ABC):
    """What shows the bars that are open, the outer ones first."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show bars meanwhile."""
        yield

    def open(self, bar: Bar) -> None:
        """Begin to show a bar."""
        self.bars.append(bar)

    def close(self, bar: Bar) -> None:
        """A bar has ended."""
        self.bars.remove(bar)

    @abstractmethod
    def update(self, bar: Bar) -> None:
        """A bar has moved."""


class _Lines(_View):
    """A line now and then, also while no step ends: a thread of its own writes them."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        over = threading.Event()

        def write() -> None:
            # a log that is gone must not end the work
            with contextlib.suppress(OSError, ValueError):
                while not over.wait(LINE_SECONDS):
                    now = time.monotonic()
                    if bars := list(self.bars):
                        print("; ".join(bar.line(now) for bar in bars), file=sys.stderr, flush=True)

        thread = threading.Thread(target=write, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def update(self, bar: Bar) -> None:
        pass


class _Live(_View):
    """rich's bars on a terminal, which redraws them itself."""

    def __init__(self, delay: float, **how: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        super().__init__()
        self.rich = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(stderr=True),
            **how,
        )
        self.drawn = False
        self._tasks: dict[Bar, Any] = {}
        self._next = time.monotonic() + delay

    @contextmanager
    def shown(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self.drawn:
                self.finish()

    def open(self, bar: Bar) -> None:
        super().open(bar)
        self._tasks[bar] = self.rich.add_task(
            bar.label, total=bar.total, completed=bar.done, figures="", left=""
        )
        self._draw_in_time()

    def close(self, bar: Bar) -> None:
        super().close(bar)
        if self.bars:  # the outermost stays to be seen
            self.rich.remove_task(self._tasks[bar])

    def update(self, bar: Bar) -> None:
        left = bar.left(time.monotonic())
        self.rich.update(self._tasks[bar], completed=bar.done, figures=bar.figures, left=left)
        self._draw_in_time()

    def _draw_in_time(self) -> None:
        if time.monotonic() >= self._next:
            self.draw()
            self.drawn = True
            self._next = time.monotonic() + PICTURE_SECONDS

    def draw(self) -> None:
        """Show how far the bars are."""
        if not self.drawn:
            self.rich.start()

    def finish(self) -> None:
        """Show how far they came."""
        self.rich.stop()


class _Notebook(_Live):
    """The same bars as one output of a notebook's cell that changes; rich's own would need ipywidgets."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay, disable=True)  # it keeps the figures, and we show it
        self._handle: Any = None

    def draw(self) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(self.rich, display_id=True)
        else:
            self._handle.update(self.rich)

    def finish(self) -> None:
        self.draw()


def _view(delay: float) -> _View:
    """How bars are shown where we run."""
    if sys.stderr.isatty():
        return _Live(delay)
    if "IPython" in sys.modules:  # rich, which tells notebooks apart, is imported for nothing else
        from rich.console import Console

        if Console().is_jupyter:
            return _Notebook(delay)
    return _Lines()


class Progress:
    """Progress reporter of long tasks, which shows no bars or notes if it is `quiet`, as with ``--json``.

    Bars appear at once, or after `delay` seconds where they may be over before. Workers other than rank 0
    write to their logs. `takes_workers` says whether the command has ``--nproc-per-node``.
    """

    def __init__(self, quiet: bool = False, delay: float = 0.0, takes_workers: bool = False) -> None:
        self.takes_workers = takes_workers
        self._world, self._delay = world(), delay
        self.quiet = quiet or not self._world.is_rank_zero
        self._open: _View | None = None
        self._last: dict[Hashable, str] = {}

    @staticmethod
    def current() -> Progress:
        """The one that is in use, else a new one whose bars appear when the work takes long."""
        return _current.get() or Progress(delay=CALL_SECONDS)

    @contextmanager
    def as_current(self) -> Iterator[Progress]:
        """Be what `current` returns meanwhile."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)
        if _current.get() is not self:
            whose = f"worker {self._world.rank} of {self._world.size}: " if self._world.size > 1 else ""
            for text in self._last.values():
                self.warn(whose + text)
            self._last.clear()

    def at_end(self, key: Hashable, text: str) -> None:
        """Warn when all work that this one shows has ended well, in place of an older text with this key.

        Of several workers each says its own.
        """
        self._last[key] = text

    def note(self, text: str) -> None:
        """Print a line unless `quiet`, and log it."""
        self._world.log(text)
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning even if `quiet`, and log it."""
        self._world.log(f"warning: {text}")
        if self._world.is_rank_zero:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, label: str, total: int, start: int = 0, timed: bool = True) -> Iterator[Bar]:
        """A bar for `total` steps; inside of another one it is shown below it until it ends.

        It tells the time that is left if it is `timed`.
        """
        with self.as_current():
            if self.quiet:
                yield Bar()
            elif self._open is not None:
                with _opened(self._open, label, total, start, timed) as bar:
                    yield bar
            else:
                self._open = _view(self._delay)
                try:
                    with self._open.shown(), _opened(self._open, label, total, start, timed) as bar:
                        yield bar
                finally:
                    self._open = None


@contextmanager
def _opened(view: _View, label: str, total: int, start: int, timed: bool) -> Iterator[Bar]:
    bar = Bar(label, total, start, view.update, timed)
    view.open(bar)
    try:
        yield bar
    finally:
        view.close(bar)


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)
