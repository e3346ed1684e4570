"""Progress on standard error, with live bars on a terminal and short messages elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from genflow.distributed.world import world


class Bar:
    """The progress bar of one task, which does nothing without a terminal."""

    def __init__(self, live: Any = None, task: Any = None) -> None:
        self._live, self._task = live, task

    def advance(self, **figures: float) -> None:
        """Advance by one step and show its figures."""
        if self._live is not None:
            self._live.update(
                self._task,
                advance=1,
                figures="  ".join(f"{name} {value:.4g}" for name, value in figures.items()),
            )

    def set(self, done: int) -> None:
        """Set the number of finished steps."""
        if self._live is not None:
            self._live.update(self._task, completed=done)


class Progress:
    """Progress reporter of long tasks, which shows no bars or notes if it is `quiet`, as with ``--json``.

    Workers other than rank 0 only write to their logs.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._world = world()
        self.quiet = quiet or not self._world.is_rank_zero
        self._terminal = not self.quiet and sys.stderr.isatty()
        self._live: Any = None

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
    def bar(self, label: str, total: int, start: int = 0) -> Iterator[Bar]:
        """Show a bar for `total` steps, below the bar of the enclosing context if there is one."""
        if not self._terminal:
            yield Bar()
            return
        if self._live is not None:
            task = self._live.add_task(label, total=total, completed=start, figures="")
            try:
                yield Bar(self._live, task)
            finally:
                self._live.remove_task(task)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        with Rich(*columns, console=Console(stderr=True)) as self._live:
            try:
                yield Bar(self._live, self._live.add_task(label, total=total, completed=start, figures=""))
            finally:
                self._live = None
