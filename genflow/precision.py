"""Contexts of precision: float32 as the default dtype, and products of bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

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


def products(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Multiply matrices in "float32" or "bfloat16" inside the context, by torch's autocast."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
