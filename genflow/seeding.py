"""Random numbers that depend on a seed alone, without a change to anybody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded_cpu(seed: int) -> Iterator[None]:
    """Meanwhile torch's global generator of the CPU, which initialises modules, starts from a seed.

    Its state is put back. `torch.manual_seed` would also reset the generators of all accelerators, for good.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
