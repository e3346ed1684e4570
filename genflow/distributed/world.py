"""`World`: this worker among others.

A command runs on every worker. What only one of them may do (writing a result) is `World.on_rank_zero`,
independent pieces of work are `World.map_dynamic`, sums over a batch that is dealt out are
`World.all_reduce`; alone, a worker does all of it itself. How a process becomes a worker: process_group.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from genflow.distributed.work_queue import WorkQueue, wait_for_key
from genflow.errors import GenflowError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

T = TypeVar("T")
#: seconds between two heartbeats of a worker, and after which one without them counts as lost
HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT = 5.0, 60.0
#: added to the heartbeats of a worker that has gone with good reason
DEPARTED = 2**40


class WorkerLost(Exception):
    """Another worker is gone; the agent starts all of them again."""


@dataclass
class World:
    """This worker among `size` of them; `rank` 0 is the one that writes and shows progress."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Store | None = None

    def __post_init__(self) -> None:
        self._keys_used = 0
        self._log: int | None = None
        self._last_heartbeats: dict[int, tuple[bytes, float]] = {}
        self._last_check = 0.0

    @property
    def is_rank_zero(self) -> bool:
        """Whether this worker writes and shows progress."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This worker's rows of `count`; those of all workers are contiguous and differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the workers, in place; every worker must call it.

        Raises:
            WorkerLost: a worker is gone.
        """
        if self.size > 1:
            import torch.distributed as dist

            with raise_worker_lost():
                dist.all_reduce(tensor)
        return tensor

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Rank 0 does it while the others wait; all return its JSON-able result or raise its error."""
        if self.store is None:
            return work()
        key = self._next_key("on_rank_zero")
        if not self.is_rank_zero:
            with raise_worker_lost():
                wait_for_key(self.store, key)
                outcome = json.loads(self.store.get(key))
            if "error" in outcome:
                raise GenflowError(outcome["error"])
            return outcome["result"]
        try:
            with as_single_worker():
                result = work()
        except GenflowError as error:
            self._publish(key, {"error": str(error)})
            raise
        self._publish(key, {"result": result})
        return result

    def map_dynamic(
        self,
        items: Sequence[Any],
        work: Callable[[Any], Any],
        cost: Callable[[Any], float] = lambda item: 0.0,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> list[Any]:
        """Each item is done by one worker, whichever is free.

        All return the JSON-able results, in the order of the items.

        Args:
            items: the same list on every worker.
            work: what to do with an item.
            cost: the costliest items are begun first, so that no long one is left to the end.
            on_progress: told how many items are done, from time to time.

        Raises:
            GenflowError: that of the first item that failed; the other workers finish what they have begun.
        """
        if self.store is None:
            results: dict[int, Any] = {}
            for index in sorted(range(len(items)), key=lambda i: -cost(items[i])):
                results[index] = work(items[index])
                on_progress(len(results))
            return [results[index] for index in range(len(items))]
        queue = WorkQueue(self.store, self._next_key("map_dynamic"), [cost(item) for item in items])
        while True:
            with raise_worker_lost():
                taken = queue.take()
            if taken is None:
                break
            try:
                with as_single_worker():
                    result = work(items[taken])
            except GenflowError as error:
                queue.fail(error)
                raise
            with raise_worker_lost():
                queue.finish(taken, result)
                on_progress(queue.done())

        def while_waiting() -> None:
            on_progress(queue.done())
            self.check_heartbeats()

        with raise_worker_lost():
            return queue.results(while_waiting)

    @contextlib.contextmanager
    def log_to(self, folder: Path) -> Iterator[None]:
        """Meanwhile this worker's notes go to ``folder/rank-N.log`` too.

        Of other workers than rank 0, all that they say on standard error goes there.
        """
        if self.size == 1 or self._log is not None:  # an outer run directory has the log
            yield
            return
        path = folder / f"rank-{self.rank}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise GenflowError(f"cannot write {path}: {error.strerror or error}") from error
        terminal = os.dup(2)
        if not self.is_rank_zero:
            os.dup2(self._log, 2)
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        host = socket.gethostname()
        self.log(f"worker {self.rank} of {self.size} on {host}, process {os.getpid()}, restart {restart}")
        try:
            yield
        except Exception:
            self.log(traceback.format_exc().rstrip())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            os.close(self._log)
            self._log = None

    def log(self, text: str) -> None:
        """Write a line to this worker's log, if it has one."""
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk shows where it matters
                os.write(self._log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())

    def send_heartbeat(self) -> None:
        """Say that this worker lives, once."""
        assert self.store is not None
        self.store.add(f"heartbeat/{self.rank}", 1)

    def check_heartbeats(self) -> None:
        """While rank 0 waits for others: none of them may have been silent for long.

        A machine that is cut off closes no connection, and the work it took would never be finished.

        Raises:
            WorkerLost: one has been.
        """
        now = time.monotonic()
        checked_lately = self._last_heartbeats and now - self._last_check < HEARTBEAT_SECONDS
        if not self.is_rank_zero or self.store is None or checked_lately:
            return
        self._last_check = now
        heartbeats = self.store.multi_get([f"heartbeat/{rank}" for rank in range(self.size)])
        for rank, heartbeat in enumerate(heartbeats):
            last = self._last_heartbeats.get(rank)
            if last is None or last[0] != heartbeat:
                self._last_heartbeats[rank] = (heartbeat, now)
            elif now - last[1] > HEARTBEAT_TIMEOUT and int(heartbeat) < DEPARTED:
                raise WorkerLost(f"worker {rank} has been silent for {HEARTBEAT_TIMEOUT} seconds")

    def shutdown_barrier(self) -> None:
        """Leave, with a result or with a mistake that all have met.

        Rank 0 goes last, as it may hold the store that others still read.
        """
        assert self.store is not None
        with raise_worker_lost():
            self.store.add(f"heartbeat/{self.rank}", DEPARTED)
            if self.store.add("departed", 1) == self.size:
                self.store.set("all departed", "")
            if self.is_rank_zero:
                wait_for_key(self.store, "all departed", self.check_heartbeats)

    def _next_key(self, kind: str) -> str:
        """The same key on all workers for the same use of the store: all make the same uses in order."""
        self._keys_used += 1
        return f"{kind}/{self._keys_used}"

    def _publish(self, key: str, outcome: dict[str, Any]) -> None:
        with raise_worker_lost():
            assert self.store is not None
            self.store.set(key, json.dumps(outcome))


#: a worker that is alone, whatever the process belongs to
ALONE = World()
_current = ALONE


def world() -> World:
    """The workers that this process belongs to; alone outside of `join_process_group`."""
    return _current


@contextlib.contextmanager
def use_world(workers: World) -> Iterator[World]:
    """Meanwhile `world()` is this one."""
    global _current
    before, _current = _current, workers
    try:
        yield workers
    finally:
        _current = before


def as_single_worker() -> contextlib.AbstractContextManager[World]:
    """Work that one worker does on its own must not wait for the others."""
    return use_world(ALONE)


@contextlib.contextmanager
def raise_worker_lost() -> Iterator[None]:
    """What goes wrong between workers goes wrong because one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(f"lost contact with another worker ({str(error).splitlines()[0]})") from error
