"""Separable rewards that are made up for training: steps, bumps, waves, ramps, noise, and regions.

Neither torchgfn's `cosine` nor its `deceptive`, which are measured, is of these forms.

Shapes: n dimensions, h positions of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .separable import SeparableTarget, Term

#: how likely one to three terms besides the background are
TERMS = (0.4, 0.35, 0.25)
#: how often the background is not flat, a term has profiles of one kind everywhere, and these are alike
UNEVEN, OF_A_KIND, ALIKE = 0.2, 0.7, 0.5
#: how often the reward is an outer region and a band over a background, alike in all dimensions
ORIGINAL = 0.15
#: how often a term is subtracted from the background, and what it leaves of it, over its logarithm
SUBTRACTED, LEFT = 0.15, (1e-4, 0.7)
#: how often terms get a share of all that is paid, instead of a height over the background
SHARED = 0.6
#: of the background, which the terms' heights of .2 to 5 stand against, over its logarithm
BACKGROUND = (5e-4, 0.5)


def random_target(heights: tuple[int, ...], rng: torch.Generator) -> SeparableTarget:
    """Make up a reward for a grid."""
    if _uniform(rng) < ORIGINAL:
        return _original(heights, rng)
    flat = tuple(torch.ones(height, dtype=torch.float64) for height in heights)
    background = flat
    if _uniform(rng) < UNEVEN:
        background = tuple(0.1 + 0.9 * profile for profile in _profiles(heights, rng))
    base = Term(_log_uniform(rng, *BACKGROUND), background)
    terms, count = [base], 1 + _choose(rng, TERMS)
    if _uniform(rng) < SUBTRACTED:
        base = terms[0] = Term(base.coefficient, flat)
        taken = 1 - _log_uniform(rng, *LEFT)
        terms.append(Term(-taken * base.coefficient, _regions(heights, _uniform(rng, 0.05, 0.45))))
        count = 1
    total = math.log(base.coefficient) + sum(float(profile.sum().log()) for profile in base.profiles)
    shared = _uniform(rng) < SHARED
    for _ in range(count):
        profiles, coefficient = _profiles(heights, rng), _log_uniform(rng, 0.2, 5.0)
        if shared:  # about as much in total as the background, within a factor of some e^3
            own = sum(float(profile.sum().log()) for profile in profiles)
            coefficient = math.exp(min(total - own + 1.5 * _normal(rng), 600.0))
        terms.append(Term(coefficient, profiles))
    return SeparableTarget(terms)


def _profiles(heights: tuple[int, ...], rng: torch.Generator) -> tuple[Tensor, ...]:
    """A profile of each dimension; each pays somewhere."""
    kind = _choose(rng, (1.0,) * len(KINDS)) if _uniform(rng) < OF_A_KIND else None
    seed = (
        int(torch.randint(2**62, (), generator=rng)) if kind is not None and _uniform(rng) < ALIKE else None
    )
    found = []
    for height in heights:
        # one that is alike in dimensions of other heights is drawn anew from the same numbers
        own = rng if seed is None else torch.Generator().manual_seed(seed)
        of = KINDS[_choose(rng, (1.0,) * len(KINDS)) if kind is None else kind]
        profile = of(torch.linspace(0, 1, height, dtype=torch.float64), own).clamp(min=0)
        if float(profile.max()) <= 1e-9:  # e.g. a band between two positions
            profile = torch.zeros(height, dtype=torch.float64)
            profile[int(torch.randint(height, (), generator=own))] = 1.0
        found.append(profile / profile.max())
    return tuple(found)


def _original(heights: tuple[int, ...], rng: torch.Generator) -> SeparableTarget:
    """Bengio et al.'s form: a background, an outer region, and a band within it or not."""
    low = _uniform(rng, 0.05, 0.42)
    parts = (
        (_log_uniform(rng, *BACKGROUND), _regions(heights, -1.0)),
        (_log_uniform(rng, 0.1, 2.0), _regions(heights, _uniform(rng, 0.05, 0.45))),
        (_log_uniform(rng, 0.3, 6.0), _regions(heights, low, low + _uniform(rng, 0.04, 0.3))),
    )
    return SeparableTarget([Term(*part) for part in parts if all(bool(p.any()) for p in part[1])])


def _regions(heights: tuple[int, ...], low: float, high: float = 1.0) -> tuple[Tensor, ...]:
    """Where |u - 0.5| lies between two numbers, in every dimension."""
    distances = [(torch.linspace(0, 1, height, dtype=torch.float64) - 0.5).abs() for height in heights]
    return tuple(((distance > low) & (distance < high)).double() for distance in distances)


def _outer(u: Tensor, rng: torch.Generator) -> Tensor:
    return ((u - 0.5).abs() > _uniform(rng, 0.05, 0.48)).double()


def _band(u: Tensor, rng: torch.Generator) -> Tensor:
    low = _uniform(rng, 0.0, 0.42)
    distance = (u - 0.5).abs()
    return ((distance > low) & (distance < low + _uniform(rng, 0.04, 0.3))).double()


def _step(u: Tensor, rng: torch.Generator) -> Tensor:
    edges = sorted(_uniform(rng, -0.1, 1.1) for _ in range(2 * (1 + _choose(rng, (0.6, 0.4)))))
    inside = torch.zeros_like(u)
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        inside += ((u >= low) & (u <= high)).double()
    return inside.clamp(max=1)


def _bump(u: Tensor, rng: torch.Generator) -> Tensor:
    width = _log_uniform(rng, 0.03, 0.5)
    return (-0.5 * ((u - _uniform(rng, -0.1, 1.1)) / width).square()).exp()


def _bumps(u: Tensor, rng: torch.Generator) -> Tensor:
    return sum((_uniform(rng, 0.3, 1.0) * _bump(u, rng) for _ in range(2)), torch.zeros_like(u))


def _wave(u: Tensor, rng: torch.Generator) -> Tensor:
    wave = (1 + torch.cos(_uniform(rng, 3.0, 40.0) * u + _uniform(rng, 0.0, 6.3))) / 2
    wave = wave ** _uniform(rng, 0.5, 3.0)
    return wave * _bump(u, rng) if _uniform(rng) < 0.5 else wave


def _ramp(u: Tensor, rng: torch.Generator) -> Tensor:
    slope = _uniform(rng, 0.2, 8.0)
    return (-slope * (u if _uniform(rng) < 0.5 else 1 - u)).exp()


def _power(u: Tensor, rng: torch.Generator) -> Tensor:
    return (u if _uniform(rng) < 0.5 else 1 - u) ** _uniform(rng, 0.3, 4.0)


def _noise(u: Tensor, rng: torch.Generator) -> Tensor:
    knots = torch.randn(2 + int(torch.randint(10, (), generator=rng)), generator=rng, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(
        knots[None, None], size=len(u), mode="linear", align_corners=True
    )[0, 0]
    return (_uniform(rng, 0.3, 1.5) * smooth).exp()


def _scattered(u: Tensor, rng: torch.Generator) -> Tensor:
    share = _uniform(rng, 0.15, 0.9)
    return (torch.rand(len(u), generator=rng, dtype=torch.float64) < share).double()


KINDS: tuple[Callable[[Tensor, torch.Generator], Tensor], ...] = (
    _outer, _band, _step, _bump, _bumps, _wave, _ramp, _power, _noise, _scattered,
)  # fmt: skip


def _uniform(rng: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _log_uniform(rng: torch.Generator, low: float, high: float) -> float:
    return math.exp(_uniform(rng, math.log(low), math.log(high)))


def _normal(rng: torch.Generator) -> float:
    return float(torch.randn((), generator=rng))


def _choose(rng: torch.Generator, odds: tuple[float, ...]) -> int:
    return int(torch.multinomial(torch.tensor(odds), 1, generator=rng))
