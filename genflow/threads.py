"""How many of torch's threads a piece of work is worth.

Threads that share a product wait for each other, spinning. Where another program has one of the cores they
wait for as long as it does, which a small product never wins back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: multiplications of one thread's share, which take a core about half a second
PRODUCTS_A_THREAD = 2**35


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with so many threads meanwhile; the caller's number is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def worth(products: int) -> int:
    """Threads for so many multiplications: at least one, at most the caller's own number."""
    return min(torch.get_num_threads(), max(1, products // PRODUCTS_A_THREAD))
