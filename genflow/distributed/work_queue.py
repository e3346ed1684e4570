"""Pieces of work that workers take one by one, through a store of torch.distributed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from genflow.errors import GenflowError

if TYPE_CHECKING:
    from torch.distributed import Store

#: seconds after which a worker that waits for others looks again
MAX_POLL_SECONDS = 0.5


class WorkQueue:
    """Pieces of work that workers take one by one, the costliest first; each is taken once.

    The store is torch.distributed's: any object with its ``add``, ``set``, ``get`` and ``wait``.
    """

    def __init__(self, store: Store, name: str, costs: Sequence[float]) -> None:
        self._store, self._name = store, name
        self._order = sorted(range(len(costs)), key=lambda i: -costs[i])

    def take(self) -> int | None:
        """The next piece, or None when there is none left.

        Raises:
            GenflowError: another worker's piece has failed.
        """
        if self._store.check([self._key("over")]):
            self._raise_failure()
        place = self._store.add(self._key("next"), 1) - 1
        return self._order[place] if place < len(self._order) else None

    def finish(self, index: int, result: Any) -> None:
        """Hand in the JSON-able result of a piece."""
        self._store.set(self._key(index), json.dumps(result))
        if self._store.add(self._key("done"), 1) == len(self._order):
            self._store.set(self._key("over"), "")

    def fail(self, error: GenflowError) -> None:
        """Stop the others at their next piece."""
        self._store.set(self._key("over"), str(error))

    def done(self) -> int:
        """How many pieces are finished."""
        return self._store.add(self._key("done"), 0)

    def results(self, while_waiting: Callable[[], None] = lambda: None) -> list[Any]:
        """Wait for every piece; `while_waiting` is called now and then meanwhile.

        Raises:
            GenflowError: a piece has failed.
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
    """Wait for a key of a store: the store's own wait would not let Ctrl-C through."""
    began = time.monotonic()
    while not store.check([key]):
        while_waiting()
        # a short wait is noticed at once, a long one does not burden the store
        time.sleep(min(MAX_POLL_SECONDS, 0.005 + 0.1 * (time.monotonic() - began)))
