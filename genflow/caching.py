"""`ByteCache`: a least-recently-used cache whose size is bounded in bytes."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class ByteCache:
    """A cache of results that belong to objects, bounded to `max_bytes` in all.

    The least recently used results are dropped first. The results of an object are dropped when the object
    is garbage-collected.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[int, Hashable], tuple[Any, int]] = OrderedDict()
        self._owners: dict[int, weakref.finalize] = {}
        self._bytes = 0
        self._lock = threading.RLock()

    def get(self, owner: object, name: Hashable, make: Callable[[], T]) -> T:
        """Return the cached result of an owner under a name, and call `make` if there is none.

        Args:
            owner: any object that can be weakly referenced; it is identified by `id`.
            name: which of the owner's results is wanted.
            make: computes the result; it takes no arguments.
        """
        key = id(owner), name
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make()
        with self._lock:
            if key[0] not in self._owners:
                self._owners[key[0]] = weakref.finalize(owner, self._forget, key[0])
            self._drop(key)
            self._kept[key] = value, bytes_of(value)
            self._bytes += self._kept[key][1]
            while self._bytes > self.max_bytes and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))
        return value

    def _drop(self, key: tuple[int, Hashable]) -> None:
        if key in self._kept:
            self._bytes -= self._kept.pop(key)[1]

    def _forget(self, owner: int) -> None:
        with self._lock:
            self._owners.pop(owner, None)
            for key in [key for key in self._kept if key[0] == owner]:
                self._drop(key)


def share_of_memory(fraction: float, least: int = 2**30) -> int:
    """The number of bytes in a fraction of this machine's memory, and never fewer than `least`."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system reports its memory
        total = 0
    return max(least, int(fraction * total))


def bytes_of(value: Any) -> int:
    """Count the bytes of the tensors and strings in a value, including those in containers and objects."""
    seen: set[int] = set()

    def count(each: Any) -> int:
        if id(each) in seen:
            return 0
        seen.add(id(each))
        if isinstance(each, Tensor):
            return each.numel() * each.element_size()
        if isinstance(each, str | bytes | int | float | bool | type(None)):
            return sys.getsizeof(each)
        if isinstance(each, Mapping):
            return sum(count(part) for item in each.items() for part in item)
        if isinstance(each, tuple | list | set | frozenset):
            return sum(map(count, each))
        return (
            sum(map(count, vars(each).values())) if hasattr(each, "__dict__") and not callable(each) else 64
        )

    return count(value)
