"""A test of samples against an exact distribution."""

from __future__ import annotations

import torch
from torch import Tensor

#: how unlikely a sample must be to count as a fault. Seeds are fixed, so that a check never wavers
UNLIKELY = 1e-6
#: the fewest samples that are expected in a cell of the test, as is usual for chi-square
LEAST = 5.0


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Return Pearson's chi-square p-value of counts (S,) against probabilities (S,), rare cells in groups."""
    expected, counts = probabilities.double() * counts.sum(), counts.double()
    if (counts[expected == 0] > 0).any():
        return 0.0
    order = expected.argsort(stable=True)
    groups: list[list[float]] = [[0.0, 0.0]]
    for much, found in zip(expected[order].tolist(), counts[order].tolist(), strict=True):
        if groups[-1][0] >= LEAST:
            groups.append([0.0, 0.0])
        groups[-1][0] += much
        groups[-1][1] += found
    if len(groups) < 2:  # there is but one object, or hardly any sample
        return 1.0
    own, drawn = torch.tensor(groups, dtype=torch.float64).T
    freedom = torch.tensor((len(groups) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, ((drawn - own) ** 2 / own).sum() / 2))
