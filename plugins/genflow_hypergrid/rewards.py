"""Rewards of the hypergrid: our own exact one, and torchgfn's others by name.

The product rewards of the field, R(x) = R0 + R1 prod_i [outer(x_i)] + R2 prod_i [band(x_i)], need two yes/no
answers a position. They are decided here in exact fractions, so that they are symmetric in x; torchgfn
decides them in float32, where its tolerance of 1e-12 vanishes: at heights 11, 21, 31, 41, 51 and 61 the
boundary position 0.9 (H-1) counts as in the band.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

#: rewards decided by `indicators`: "original" divides x by H-1 (Bengio et al. 2021's code), "paper" by H, as
#: it prints
EXACT_REWARDS = ("original", "paper")
#: torchgfn's other rewards
TORCHGFN_REWARDS = (
    "cosine",
    "sparse",
    "deceptive",
    "bitwise_xor",
    "multiplicative_coprime",
    "conditional_multiscale",
)
_WITH_PRESETS = TORCHGFN_REWARDS[3:]
_FIELDS = {"cosine": ("R0", "R1"), "sparse": (), "deceptive": ("R0", "R1", "R2")}


def indicators(height: int, reward: str, outer: float, band: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Which positions lie in the outer region and in the band: two (height,) bool tensors.

    With a = |k/(H-1) - 1/2| (or k/H for ``"paper"``): outer is a > `outer`, band is `band[0]` < a <
    `band[1]`.
    """
    divisor = height if reward == "paper" else height - 1
    distance = [abs(Fraction(k, divisor) - Fraction(1, 2)) for k in range(height)]
    # str() gives the decimal that the user wrote, not its binary neighbour
    edge, low, high = (Fraction(str(value)) for value in (outer, *band))
    return torch.tensor([a > edge for a in distance]), torch.tensor([low < a < high for a in distance])


def torchgfn_kwargs(reward: str, ndim: int, height: int, values: dict[str, float]) -> dict[str, Any]:
    """Keyword arguments for torchgfn's reward function: R0, R1, R2 where it has them, else its "easy" preset over R0."""
    if reward in _WITH_PRESETS:
        from gfn.gym.hypergrid import get_reward_presets

        return {**get_reward_presets(reward, ndim, height)["easy"], "R0": values["R0"]}
    return {key: values[key] for key in _FIELDS.get(reward, ("R0", "R1", "R2"))}


def log_reward(states: Tensor, outer: Tensor, band: Tensor, r0: float, r1: float, r2: float) -> Tensor:
    """Exact log R of states (..., n) by lookup of the per-position indicators: (...) float64."""
    in_outer, in_band = outer[states].all(-1), band[states].all(-1)
    table = torch.tensor(
        [math.log(r0 + a * r1 + b * r2) for a in (0, 1) for b in (0, 1)],
        dtype=torch.float64,
        device=states.device,
    )
    return table[2 * in_outer.long() + in_band.long()]
