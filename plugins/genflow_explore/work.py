"""Work beside the server: a process that computes, and the newest wish of a session.

The server never waits for torch, nor imports it, and a process that is killed takes no page with it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from genflow import GenflowError

log = logging.getLogger(__name__)


def _begin() -> None:
    """In the process: leave Ctrl-C to the server, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        assert parent is not None
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True, name="follow").start()


def _quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """In the process: no progress on the terminal, which is not where the visitor looks."""
    from genflow import Progress

    with Progress(quiet=True).as_current():
        return function(*arguments)


class Worker:
    """One process, which does what it is asked in turn."""

    def __init__(self) -> None:
        self._pool = self._new()

    @staticmethod
    def _new() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)

    async def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a module's function returns in the process.

        Raises:
            GenflowError: the function's own, or one that says that it failed, which the terminal explains.
        """
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, _quietly, function, *arguments)
        except GenflowError:
            raise
        except BrokenProcessPool:
            if self._pool is pool:  # the first of those that waited for it
                self._pool = self._new()
            raise GenflowError(
                "The work was ended from outside, perhaps for its memory; try again."
            ) from None
        except Exception:
            log.exception("%s%r", function.__name__, arguments)
            raise GenflowError("This failed, and should not have; the terminal says more.") from None


class Latest:
    """What one session asks: one thing at a time, and of all that it asks meanwhile only the newest."""

    def __init__(self, worker: Worker, alive: Callable[[], bool]) -> None:
        self._worker, self._alive = worker, alive
        self._next: tuple[Any, ...] | None = None
        self.busy = False

    async def ask(self, show: Callable[[Any], None], function: Callable[..., Any], *arguments: Any) -> None:
        """Show what a function of the worker's returns, or the `GenflowError`, or what came meanwhile."""
        self._next = show, function, arguments
        if self.busy:
            return
        self.busy = True
        try:
            while self._next is not None:
                (show, function, arguments), self._next = self._next, None
                try:
                    answer = await self._worker.do(function, *arguments)
                except GenflowError as error:
                    answer = error
                if not self._alive():
                    return
                if self._next is None:
                    self.busy = False
                show(answer)
        finally:
            self.busy = False
