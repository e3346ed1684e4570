"""A context that makes float32 the default dtype, whatever the user has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_default() -> Iterator[None]:
    """Make float32 torch's default dtype inside the context, and restore the user's afterwards.

    As a decorator it covers a whole stage, including the modules that plugins build.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
