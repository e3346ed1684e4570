"""`ByteCache`: what is costly to compute is kept, up to a bound in bytes."""

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
    """Results that belong to objects, kept until they hold more than `max_bytes` together.

    The least recently used go first, and those of an object go when it does.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[int, Hashable], tuple[Any, int]] = OrderedDict()
        self._owners: dict[int, weakref.finalize] = {}
        self._bytes = 0
        self._lock = threading.RLock()

    def get(self, owner: object, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` has returned for this owner and name, made again if it had to go.

        Args:
            owner: an object that can be weakly referenced, known by its identity.
            name: which of its results.
            make: called without arguments.
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
    """So many bytes of this machine's memory, at least `least`."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system tells
        total = 0
    return max(least, int(fraction * total))


def bytes_of(value: Any) -> int:
    """How many bytes the tensors and texts in a value hold, looking into containers and plain objects."""
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
