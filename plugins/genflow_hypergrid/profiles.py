"""What a network that makes weights is told about a position of a dimension of a separable reward.

Under the maximum-entropy backward policy the flow through a state is an integral over p of sums of products
of g_ki(s_i, p) (`maxent.py`). So the logarithms of g at a few p, which add up over dimensions, say nearly
all.

Shapes: n dimensions, h positions of one, K terms, P values of p, G amounts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .maxent import binomials
from .separable import SeparableTarget

#: the most terms that are told
MAX_TOLD = 4
COSINES = 8
#: positions on either side whose reward is told
WINDOW = 3
#: the times by which an increment has happened
TIMES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
#: logarithms are cut below these, and divided by them: of g relative to its value at 0, of its growth, of
#: what is ahead
CUT_G, CUT_RATIO, CUT_AHEAD = 24.0, 6.0, 12.0
#: smallest share of a term that is told apart from 0
MIN_SHARE = 1e-8


def order(target: SeparableTarget) -> Tensor:
    """The terms (K,) from the flattest, which pays everywhere alike, to the most uneven."""
    even = torch.stack([(profile.sum(1) / profile.shape[1]).log() for profile in target.profiles]).sum(0)
    return even.argsort(descending=True, stable=True)


def share_numbers(target: SeparableTarget) -> Tensor:
    """Of each term that is told, whether it is there, its share and the share's logarithm, (4 * 3,)."""
    numbers = torch.zeros(MAX_TOLD, 3)
    for place, k in enumerate(order(target)[:MAX_TOLD].tolist()):
        share = float(target.shares[k])
        level = math.log(max(abs(share), MIN_SHARE)) / -math.log(MIN_SHARE)
        numbers[place] = torch.tensor([1.0, max(-2.0, min(share, 2.0)), level])
    return numbers.flatten()


def geometry(height: int) -> Tensor:
    """Where each position of a dimension is, (h, .)."""
    k = torch.arange(height).float()
    left, u = height - 1 - k, k / (height - 1)
    columns = [u, *(torch.cos(math.pi * m * u) for m in range(1, COSINES + 1))]
    for distance in (k, left):
        columns += [distance / 32, torch.log1p(distance) / 4, 1 / (1 + distance)]
    columns.append(torch.full_like(k, math.log(height) / 4))
    return torch.stack(columns, dim=1)


def profile_features(profile: Tensor) -> Tensor:
    """What a term does around each position of a dimension and ahead of it, from its profile (h,): (h, .)."""
    height = len(profile)
    profile = (profile / profile.max()).double()
    columns = []
    padded = torch.nn.functional.pad(profile, (WINDOW, WINDOW))
    columns += [padded[i : i + height] for i in range(2 * WINDOW + 1)]
    columns.append(profile.clamp(min=math.exp(-CUT_AHEAD)).log() / CUT_AHEAD)
    g = torch.einsum("x,xsp->sp", profile, binomials(height, TIMES))
    log_g = g.clamp(min=1e-300).log()
    columns += list(((log_g[:-1] - log_g[0]).clamp(min=-CUT_G, max=CUT_G) / CUT_G).T)
    growth = torch.where(g[1:] > 0, log_g[1:] - log_g[:-1], -CUT_RATIO)
    columns += list((growth.clamp(-CUT_RATIO, CUT_RATIO) / CUT_RATIO).T)
    ahead = profile.flip(0).cumsum(0).flip(0)
    columns.append((ahead / ahead[0]).clamp(min=math.exp(-CUT_AHEAD)).log() / CUT_AHEAD)
    columns.append((ahead - profile <= 0).double())
    # how far what is ahead is on average, and the highest of it
    places = torch.arange(height, dtype=torch.float64)
    mean = (profile * places).flip(0).cumsum(0).flip(0) / ahead.clamp(min=1e-300) - places
    mean = torch.where(ahead > 0, mean, 0.0)
    columns += [mean / height, torch.log1p(mean.clamp(min=0)) / 4, profile.flip(0).cummax(0).values.flip(0)]
    return torch.stack(columns, dim=1).float()


def position_amounts(target: SeparableTarget) -> Tensor:
    """The amounts (s, G) of the inputs, position after position of each dimension."""
    told = order(target)[:MAX_TOLD].tolist()
    shares = share_numbers(target)
    tables = []
    for i, height in enumerate(target.heights):
        own = [profile_features(target.profiles[i][k]) for k in told]
        own += [torch.zeros_like(own[0])] * (MAX_TOLD - len(told))
        tables.append(torch.cat([geometry(height), *own, shares.expand(height, -1)], dim=1))
    return torch.cat(tables)


def action_amounts(target: SeparableTarget) -> Tensor:
    """The amounts (A, G) of the actions: whether it is exit, its dimension's height, and where terms pay."""
    told = order(target)[:MAX_TOLD].tolist()
    shares = share_numbers(target)
    rows = []
    for i, height in enumerate(target.heights):
        u = torch.linspace(0, 1, height, dtype=torch.float64)
        own = []
        for k in told:
            profile = target.profiles[i][k] / target.profiles[i][k].sum()
            mean = float((profile * u).sum())
            own += [mean, float((profile * (u - mean).square()).sum()) ** 0.5]
        own += [0.0] * (2 * MAX_TOLD - len(own))
        rows.append(torch.tensor([0.0, math.log(height) / 4, *own]))
    leave = torch.zeros_like(rows[0])
    leave[0] = 1.0
    return torch.cat([torch.stack([*rows, leave]), shares.expand(len(rows) + 1, -1)], dim=1)
