"""Serial fractions and correlations, as the measurements of scaling need them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean


def amdahl(serial: float, workers: float) -> float:
    """The speedup when every worker does a fraction `serial` of the work in full (Amdahl's law)."""
    return 1 / (serial + (1 - serial) / workers)


def karp_flatt(speedup: float, workers: int) -> float:
    """The serial fraction of a measured speedup (Karp & Flatt 1990), with whatever else kept it down."""
    return (1 / speedup - 1 / workers) / (1 - 1 / workers)


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The value at 0 and the slope of the straight line that fits best (least squares)."""
    middle, height = mean(x), mean(y)
    slope = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / sum(
        (a - middle) ** 2 for a in x
    )
    return height - slope * middle, slope


def ranks(values: Sequence[float]) -> list[float]:
    """The places of values in ascending order, from 0; equal values share the mean of their places."""
    order = sorted(values)
    return [(order.index(value) + len(order) - 1 - order[::-1].index(value)) / 2 for value in values]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation of two rows of numbers."""
    a, b = ranks(x), ranks(y)
    middle = (len(a) - 1) / 2
    spread = sum((v - middle) ** 2 for v in a) * sum((v - middle) ** 2 for v in b)
    return sum((v - middle) * (w - middle) for v, w in zip(a, b, strict=True)) / spread**0.5
