"""`ByteCache` and `ByteTable`: caches that drop what was least recently used, and are bounded in bytes."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class ByteTable(Generic[K, V]):
    """A dict of at most `max_bytes`, which drops its least recently used entries, but never its newest.

    The caller says how many bytes an entry takes, so that small entries by the million cost little to add.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        """Iterate over a copy of the keys, the least recently used first."""
        return iter(list(self._entries))

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None."""
        with self.lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def add(self, key: K, value: V, size: int) -> None:
        """Keep a value whose entry takes `size` bytes."""
        with self.lock:
            self.drop(key)
            self._entries[key] = value, size
            self.bytes += size
            while self.bytes > self.max_bytes and len(self._entries) > 1:
                self.drop(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        """Remove an entry if it is there."""
        with self.lock:
            if key in self._entries:
                self.bytes -= self._entries.pop(key)[1]


class ByteCache:
    """A cache of results that belong to objects, bounded to `max_bytes` in all.

    The least recently used results are dropped first. The results of an object are dropped when the object
    is garbage-collected.
    """

    def __init__(self, max_bytes: int) -> None:
        # a result may be None, so each stands in a tuple
        self._kept: ByteTable[tuple[int, Hashable], tuple[Any]] = ByteTable(max_bytes)
        self._owners: set[int] = set()

    @property
    def bytes(self) -> int:
        """The bytes of all results that are cached."""
        return self._kept.bytes

    def get(self, owner: object, name: Hashable, make: Callable[[], T]) -> T:
        """Return the cached result of an owner under a name, and call `make` if there is none.

        Args:
            owner: any object that can be weakly referenced; it is identified by `id`.
            name: which of the owner's results is wanted.
            make: computes the result; it takes no arguments.
        """
        key = id(owner), name
        found = self._kept.get(key)
        if found is not None:
            return found[0]
        value = make()
        with self._kept.lock:
            if key[0] not in self._owners:
                self._owners.add(key[0])
                weakref.finalize(owner, self._forget, key[0])
            self._kept.add(key, (value,), bytes_of(value))
        return value

    def _forget(self, owner: int) -> None:
        with self._kept.lock:
            self._owners.discard(owner)
            for key in self._kept:
                if key[0] == owner:
                    self._kept.drop(key)


def share_of_memory(fraction: float, least: int = 2**30) -> int:
    """The number of bytes in a fraction of this machine's memory, and never fewer than `least`."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system reports its memory
        total = 0
    return max(least, int(fraction * total))


#: tables that are read in every step, e.g. descriptions of units, on the devices where they are read
_tables = ByteCache(share_of_memory(1 / 8))


def cached_on(
    device: torch.device | str, owner: object, name: Hashable, make: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Return tables of an owner on a device, which are made and moved there once.

    Args:
        device: where the tables are read.
        owner: any object that can be weakly referenced, with which the tables go.
        name: which of the owner's tables are wanted.
        make: computes the tables, on any device; it takes no arguments.
    """
    device = torch.device(device)
    return _tables.get(owner, (name, str(device)), lambda: tuple(table.to(device) for table in make()))


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
