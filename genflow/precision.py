"""Precision is explicit: what is built here is float32, whatever torch's default dtype is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_default() -> Iterator[None]:
    """Meanwhile modules and tensors are made in float32; the user's default dtype is put back.

    As a decorator it covers a whole stage: what a plugin builds there is float32 too.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
