"""Rewards that are made up for training: random wishes about what adds up over a molecule.

None is a reward that genflow measures: QED never stands beside ease of synthesis, nor logP alone with it.

Shapes: B trees, P properties.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from .additive import GROUPS, PROPERTIES
from .landscape import Landscape
from .regression import CALLS, CUT, Regression, inverse, kernel

#: the least logarithm of a score
FLOOR = math.log(1e-3)
#: properties that are wished for
WISHED = (
    "weight", "log_p", "surface", "refractivity", "donors", "acceptors", "rotatable", "rings",
    "aromatic_rings", "sp3_share", "heavy", "hetero", "stereo", "qed", "sa", "alerts", *GROUPS,
)  # fmt: skip
#: how likely one to four wishes are
TERMS = (0.25, 0.35, 0.25, 0.15)
#: how often blocks have worths of their own besides, ease of synthesis counts too, and wishes are multiplied
#: instead of averaged
QUIRK, EASE, PRODUCT = 0.2, 0.5, 0.4
#: of beta, drawn evenly over its logarithm
BETA = (3.0, 24.0)
#: a reward that varies by less, in nats, is drawn again, so many times at most
LEAST_SPREAD, TRIES = 0.5, 100


class Rehearsals:
    """Made-up rewards over the trees of a landscape, each fitted to the same molecules."""

    def __init__(self, landscape: Landscape) -> None:
        """Take the trees."""
        self._land = landscape

    @cached_property
    def _design(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Numbers of the molecules (C,), their inverse, and kernels of all trees and parts to them."""
        land = self._land
        rng = torch.Generator().manual_seed(1)
        chosen = torch.multinomial(land.weights, min(CALLS // 2, len(land.x)), generator=rng)
        design = land.x[chosen]
        return chosen, inverse(design), kernel(land.x, design), kernel(land.parts, design)

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """The regression of a random reward: in nats, of the trees (B,) and of the parts.

        None where trees are so much alike that no reward tells them apart.
        """
        chosen, solved, near, at_parts = self._design
        if len(chosen) < 2:
            return None
        for _ in range(TRIES):
            beta = math.exp(_uniform(rng, math.log(BETA[0]), math.log(BETA[1])))
            log_score = self._log_score(rng)[chosen]
            if float(log_score.clamp(min=float(log_score.max()) - CUT / beta).std()) * beta < LEAST_SPREAD:
                continue
            found = Regression(self._land.x[chosen], beta * log_score, solved)
            return found.of_kernel(near), found.of_kernel(at_parts)
        return None

    def _log_score(self, rng: torch.Generator) -> Tensor:
        """The logarithm of a random score of every tree, (B,)."""
        land = self._land
        total, weights = torch.zeros(len(land.x)), 0.0
        terms = 1 + _choose(rng, TERMS)
        names = {WISHED[_index(rng, len(WISHED))] for _ in range(terms)}
        if "qed" in names:
            names.discard("sa")
        for name in sorted(names):
            weight = math.exp(0.3 * float(torch.randn((), generator=rng)))
            total += weight * _wish(rng, land.found[:, PROPERTIES.index(name)], land.weights, name).log()
            weights += weight
        if _uniform(rng) > PRODUCT:
            total /= weights
        if _uniform(rng) < EASE and "qed" not in names and names != {"log_p"}:
            total += ((10 - land.found[:, PROPERTIES.index("sa")]) / 9).clamp(min=1e-3, max=1).log()
        if _uniform(rng) < QUIRK:
            total += land.mean_of(0.25 * torch.randn(land.n_entries, generator=rng))
        return (total - total.max().clamp(min=0)).clamp(min=FLOOR)


def _wish(rng: torch.Generator, x: Tensor, weights: Tensor, name: str) -> Tensor:
    """How desirable values (B,) of one property are, 1e-12 to 1: by a random shape at random places."""
    order = x.argsort()
    shares = weights[order].cumsum(0) / weights.sum()

    def at(share: float) -> float:
        return float(x[order[torch.searchsorted(shares, share).clamp(max=len(x) - 1)]])

    low, high = sorted(_uniform(rng) for _ in range(2))
    a, b, spread = at(low), at(high), max(at(0.9) - at(0.1), 0.1)
    edge = spread * math.exp(_uniform(rng, math.log(0.25), math.log(1.5)))
    shape = _choose(rng, (0.3, 0.15, 0.15, 0.2, 0.1, 0.1)) if name != "alerts" else 1
    if shape == 0:  # a window
        found = 1 - torch.maximum(a - x, x - b).clamp(min=0) / edge
    elif shape == 1:  # not above
        found = 1 - (x - (a if name != "alerts" else 0.0)).clamp(min=0) / edge
    elif shape == 2:  # not below
        found = 1 - (b - x).clamp(min=0) / edge
    elif shape == 3:  # a Gaussian
        found = (-0.5 * ((x - a) / (0.7 * edge)).square()).exp()
    elif shape == 4:  # a logistic, either way
        found = torch.sigmoid((x - a) / (0.3 * edge) * (1 if _uniform(rng) < 0.5 else -1))
    else:  # a ramp
        found = (x - a + edge) / (2 * edge)
    return found.clamp(min=1e-12, max=1)


def _uniform(rng: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _index(rng: torch.Generator, count: int) -> int:
    return int(torch.randint(count, (), generator=rng))


def _choose(rng: torch.Generator, odds: tuple[float, ...]) -> int:
    return int(torch.multinomial(torch.tensor(odds), 1, generator=rng))
