"""`World`: this worker, its rank among all workers, and the operations that they do together.

A command runs on every worker. `World.on_rank_zero` is for what only one worker may do, such as writing a
result. `World.map_dynamic` is for independent tasks, and `World.all_reduce` sums over a distributed batch. A
worker that is alone does everything itself. A process becomes a worker in ``process_group.py``.
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
#: seconds between two heartbeats of a worker, and seconds without one after which it counts as lost
HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT = 5.0, 60.0
#: added to the heartbeat counter of a worker that has left properly
DEPARTED = 2**40


class WorkerLost(Exception):
    """Another worker cannot be reached, so the agent must restart all of them."""


@dataclass
class World:
    """This worker's place in the process group, and the collective operations.

    Attributes:
        rank: number of this worker; rank 0 writes files and shows progress.
        size: number of workers, torch's world size.
        local_rank: number of this worker on its machine.
        store: the store that all workers share; None for a worker that is alone.
    """

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
        """Whether this worker is the one that writes files and shows progress."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Return this worker's contiguous share of `count` rows, nearly equal for all workers."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all workers in place, which every worker must call.

        Raises:
            WorkerLost: a worker cannot be reached.
        """
        if self.size > 1:
            import torch.distributed as dist

            with raise_worker_lost():
                dist.all_reduce(tensor)
        return tensor

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Call a function on rank 0 while the other workers wait.

        Returns:
            The function's result, on every worker; with several workers it must be JSON-serialisable.

        Raises:
            GenflowError: the function raised it on rank 0; every worker raises it.
            WorkerLost: a worker cannot be reached.
        """
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
        """Apply a function to every item, each on the next worker that is free.

        Args:
            items: the same list on every worker.
            work: the function; its results must be JSON-serialisable.
            cost: relative cost of an item. The most expensive items start first.
            on_progress: called from time to time with the number of finished items.

        Returns:
            The results in the order of the items, on every worker.

        Raises:
            GenflowError: raised by the first item that failed. The other workers finish their current item.
            WorkerLost: a worker cannot be reached.
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
        """Also write this worker's messages to ``folder/rank-N.log`` inside the context.

        The standard error of workers other than rank 0 goes to their log alone.
        """
        if self.size == 1 or self._log is not None:  # the log of an outer run directory is open
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
            with contextlib.suppress(OSError):  # a full disk is reported when results are written
                os.write(self._log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())

    def send_heartbeat(self) -> None:
        """Increment this worker's heartbeat counter in the store."""
        assert self.store is not None
        self.store.add(f"heartbeat/{self.rank}", 1)

    def check_heartbeats(self) -> None:
        """Check on rank 0 that every worker has sent a heartbeat recently.

        A machine that loses its network closes no connection, so rank 0 would wait for its task forever.

        Raises:
            WorkerLost: a worker has sent none for `HEARTBEAT_TIMEOUT` seconds.
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
        """Wait on rank 0 until all workers are done, after a success or an error that all of them raise.

        Rank 0 leaves last, because it may host the store that others still read.
        """
        assert self.store is not None
        with raise_worker_lost():
            self.store.add(f"heartbeat/{self.rank}", DEPARTED)
            if self.store.add("departed", 1) == self.size:
                self.store.set("all departed", "")
            if self.is_rank_zero:
                wait_for_key(self.store, "all departed", self.check_heartbeats)

    def _next_key(self, kind: str) -> str:
        """Return a new key, the same on all workers because all make the same calls in the same order."""
        self._keys_used += 1
        return f"{kind}/{self._keys_used}"

    def _publish(self, key: str, outcome: dict[str, Any]) -> None:
        with raise_worker_lost():
            assert self.store is not None
            self.store.set(key, json.dumps(outcome))


#: a single worker, even if the process belongs to a group
ALONE = World()
_current = ALONE


def world() -> World:
    """Return the current `World`, which is a single worker outside of `join_process_group`."""
    return _current


@contextlib.contextmanager
def use_world(workers: World) -> Iterator[World]:
    """Make `world()` return this one inside the context."""
    global _current
    before, _current = _current, workers
    try:
        yield workers
    finally:
        _current = before


def as_single_worker() -> contextlib.AbstractContextManager[World]:
    """Make `world()` a single worker inside the context, for work that must not wait for other workers."""
    return use_world(ALONE)


@contextlib.contextmanager
def raise_worker_lost() -> Iterator[None]:
    """Turn a RuntimeError of torch.distributed into `WorkerLost`."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(f"lost contact with another worker ({str(error).splitlines()[0]})") from error
