"""The error for mistakes that a user can correct, and suggestions for misspelt names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class GenflowError(Exception):
    """A user error, which the command line prints as one line before it exits with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class GenflowWarning(UserWarning):
    """A word of caution on what was asked for, which the command line prints as one line."""


@contextmanager
def without_cautions() -> Iterator[None]:
    """Leave out every `GenflowWarning`, where the caller says the same in its own way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GenflowWarning)
        yield


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for a near miss, else ``"; choose one of ..."``."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; choose one of: {', '.join(names)}" if names else "; there are none"
