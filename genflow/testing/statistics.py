"""A test of samples against an exact distribution."""

from __future__ import annotations

import torch
from torch import Tensor

#: how unlikely a sample must be to count as a fault. Seeds are fixed, so that a check never wavers
UNLIKELY = 1e-6
#: the fewest samples that are expected in a cell of the test, as is usual for chi-square
LEAST = 5.0


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Return Pearson's chi-square p-value of counts (S,) against probabilities (S,), rare cells together."""
    expected, counts = probabilities.double() * counts.sum(), counts.double()
    if (counts[expected == 0] > 0).any():
        return 0.0
    order = expected.argsort()
    expected, counts = expected[order], counts[order]
    # the rarest cells together are one, which has enough itself
    rare = max(int((expected < LEAST).sum()), 1)
    rare = max(rare, int((expected.cumsum(0) < LEAST).sum()) + 1)
    expected, counts = (torch.cat([each[:rare].sum()[None], each[rare:]]) for each in (expected, counts))
    if len(expected) < 2:
        return 1.0
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))
