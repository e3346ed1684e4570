"""What is known of blocks, kept in bounded memory: equal blocks of different vocabularies share it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from genflow import ByteCache, interrupts_for_python

P = ParamSpec("P")
V = TypeVar("V")
_cache = ByteCache(2**26)


def kept(function: Callable[P, V]) -> Callable[P, V]:
    """Keep what a function of hashable arguments returns; RDKit, whose word is kept, is not interrupted."""

    make = interrupts_for_python()(function)

    @wraps(function)
    def get(*args: P.args, **kwargs: P.kwargs) -> V:
        return _cache.get(function, (args, *kwargs.items()), lambda: make(*args, **kwargs))

    return get
