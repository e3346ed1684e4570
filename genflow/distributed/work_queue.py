"""A queue of tasks that workers share through a store of torch.distributed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from genflow.errors import GenflowError

if TYPE_CHECKING:
    from torch.distributed import Store

#: the longest interval in seconds at which a waiting worker polls the store
MAX_POLL_SECONDS = 0.5


class WorkQueue:
    """A queue from which workers take tasks one by one, the most expensive first and each only once."""

    def __init__(self, store: Store, name: str, costs: Sequence[float]) -> None:
        """Create the queue, with the same arguments on every worker.

        Args:
            store: a torch.distributed store that all workers share.
            name: prefix of the queue's keys in the store.
            costs: relative cost of each task.
        """
        self._store, self._name = store, name
        self._order = sorted(range(len(costs)), key=lambda i: -costs[i])

    def take(self) -> int | None:
        """Take the next task and return its index, or None when no task is left.

        Raises:
            GenflowError: a task of another worker has failed.
        """
        if self._store.check([self._key("over")]):
            self._raise_failure()
        place = self._store.add(self._key("next"), 1) - 1
        return self._order[place] if place < len(self._order) else None

    def finish(self, index: int, result: Any) -> None:
        """Store the JSON-serialisable result of a task."""
        self._store.set(self._key(index), json.dumps(result))
        if self._store.add(self._key("done"), 1) == len(self._order):
            self._store.set(self._key("over"), "")

    def fail(self, error: GenflowError) -> None:
        """Record that a task has failed, which makes every other worker raise the error at its next call."""
        self._store.set(self._key("over"), str(error))

    def done(self) -> int:
        """Return the number of finished tasks."""
        return self._store.add(self._key("done"), 0)

    def results(self, while_waiting: Callable[[], None] = lambda: None) -> list[Any]:
        """Wait for all tasks and return their results in order.

        Args:
            while_waiting: called at every poll of the store.

        Raises:
            GenflowError: a task has failed.
        """
        if self._order:
            wait_for_key(self._store, self._key("over"), while_waiting)
            self._raise_failure()
        return [json.loads(self._store.get(self._key(index))) for index in range(len(self._order))]

    def _raise_failure(self) -> None:
        if message := self._store.get(self._key("over")).decode():
            raise GenflowError(message)

    def _key(self, what: int | str) -> str:
        return f"{self._name}/{what}"


def wait_for_key(store: Store, key: str, while_waiting: Callable[[], None] = lambda: None) -> None:
    """Wait for a key of a store by polling, because the store's own wait cannot be interrupted by Ctrl-C."""
    began = time.monotonic()
    while not store.check([key]):
        while_waiting()
        # poll less often the longer the wait, to spare the store
        time.sleep(min(MAX_POLL_SECONDS, 0.005 + 0.1 * (time.monotonic() - began)))
