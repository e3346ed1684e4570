"""A context for random numbers that depend on a seed only and leave other generators unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded_cpu(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator, which initialises modules, inside the context.

    Its state is restored afterwards. `torch.manual_seed` would also reset the generators of accelerators.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def fork(rng: torch.Generator) -> torch.Generator:
    """Create a generator that is seeded by another one, on its device."""
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    return torch.Generator(rng.device).manual_seed(seed)
