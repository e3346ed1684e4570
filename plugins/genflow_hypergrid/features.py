"""What a network that makes weights is told about a position of a dimension.

Where it is, and what the reward does around it.

Shapes: h positions, G features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COSINES = 8
#: positions on either side whose reward is told
WINDOW = 4
#: positions over which "near" decays
NEAR = 2.0


def position_features(outer: Tensor, band: Tensor) -> Tensor:
    """Features (h, G) of the positions of one dimension, from its two indicators (h,)."""
    height = len(outer)
    k = torch.arange(height).float()
    left = height - 1 - k
    u = k / (height - 1)
    columns = [u, *(torch.cos(math.pi * m * u) for m in range(1, COSINES + 1))]
    for distance in (k, left):
        columns += [distance / 16, torch.log1p(distance) / 4, 1 / (1 + distance), torch.exp(-distance / NEAR)]
    indicators = outer.float(), band.float()
    for offset in range(-WINDOW, WINDOW + 1):
        place = torch.arange(height) + offset
        inside = ((place >= 0) & (place < height)).float()
        place = place.clamp(0, height - 1)
        columns += [inside, *(inside * indicator[place] for indicator in indicators)]
    for indicator in indicators:
        columns += _outlook(indicator)
    return torch.stack(columns, dim=1)


def _outlook(indicator: Tensor) -> list[Tensor]:
    """Features of what lies ahead of each position.

    How many rewarded ones, how far the next is, how long the run goes on.
    """
    height = len(indicator)
    k = torch.arange(height)
    ahead = indicator.flip(0).cumsum(0).flip(0)
    none = (ahead == 0).float()
    rewarded = indicator.bool()
    wait = (_next(torch.where(rewarded, k, 2 * height)) - k).clamp(max=height).float()
    run = (_next(torch.where(rewarded, height, k)) - k).float()
    return [
        none,
        ahead / height,
        torch.log1p(ahead) / 3,
        wait / height,
        (1 - none) * torch.log1p(wait) / 3,
        (1 - none) * torch.exp(-wait / NEAR),
        run / height,
        torch.log1p(run) / 3,
        indicator * torch.exp(-run / NEAR),
    ]


def _next(place: Tensor) -> Tensor:
    """The least value from each position on, (h,) -> (h,)."""
    return place.flip(0).cummin(0).values.flip(0)
