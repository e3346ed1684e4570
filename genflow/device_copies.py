"""Copies of large results from a device to the CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

#: parts whose copies are under way while the next one is computed
UNDER_WAY = 1


def rows_to_cpu(parts: Iterable[Tensor], out: Tensor) -> None:
    """Copy parts (m, D) on a GPU into consecutive rows of `out` (M, D) on the CPU.

    A part is copied while the next one is computed, through pinned memory, which torch keeps for the next
    time.
    """
    under_way: deque[tuple[Tensor, Tensor, torch.cuda.Event]] = deque()

    def finish(most: int) -> None:
        while len(under_way) > most:
            rows, pinned, copied = under_way.popleft()
            copied.synchronize()
            rows.copy_(pinned)

    start = 0
    for part in parts:
        pinned = torch.empty(part.shape, dtype=out.dtype, pin_memory=True)
        pinned.copy_(part, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        under_way.append((out[start : start + len(part)], pinned, copied))
        start += len(part)
        finish(UNDER_WAY)
    finish(0)
