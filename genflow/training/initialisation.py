"""Initial weights of a zoo's members: independent, or from one smooth family built from the meaning of the units.

The family is linear in a style: weights = base + sum over k of style_k basis_k. Base and basis are the same
random functions of the units for every structure, so a style means the same everywhere, and all members start
in one basin.

Shapes: M policies, D parameters, Z style numbers, R random features, U units of an axis.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from genflow.layout import WeightLayout
from genflow.population import Population
from genflow.structure import Structure

Init = Literal["independent", "shared", "style"]
RANDOM_FEATURES = 64
#: inverse length scale of the family over input and action coordinates
BANDWIDTH = 3.0
FAMILY_SEED = 20_240_917


def initial_weights(
    structure: Structure, num: int, seed: int, init: Init, noise: float, style_size: int, style_share: float
) -> Tensor:
    """(M, D) starting weights.

    Args:
        structure: what to initialise.
        num: M.
        seed: of the members' own randomness.
        init: "independent" draws each member from the architecture's own initialisation; "shared" starts all
            members of all structures from one function of the units' coordinates; "style" draws each from the
            family around it.
        noise: standard deviation that "shared" and "style" add for each member, relative to each tensor's
            own.
        style_size, style_share: of "style", see `smooth_start`.
    """
    own = Population.initialised(structure, num, seed)
    if init == "independent":
        return own.weights
    bias = structure.initial_bias
    random = own.weights if bias is None else own.weights - bias
    rng = torch.Generator().manual_seed(seed)
    styles = torch.randn(num, style_size if init == "style" else 0, generator=rng)
    start = smooth_start(
        smooth_basis(structure.layout, styles.shape[1]), styles, style_share if init == "style" else 0.0
    )
    spread = torch.cat(
        [
            random[:, place].std().nan_to_num().expand(place.stop - place.start)
            for place in structure.layout.slices().values()
        ]
    )
    start = start if bias is None else start + bias
    return start + noise * spread * torch.randn(start.shape, generator=rng)


def smooth_start(basis: Tensor, styles: Tensor, share: float) -> Tensor:
    """(M, D) members of the family.

    Args:
        basis: (1 + Z, D) of `smooth_basis`.
        styles: (M, Z) of unit variance.
        share: the part of the weights' variance that the style decides; the rest is the base.
    """
    base = math.sqrt(1 - share) * styles.new_ones(len(styles), 1)
    return torch.cat([base, smooth_scale(share, styles.shape[1]) * styles], dim=1) @ basis


def smooth_scale(share: float, size: int) -> float:
    """What a style number of unit variance is multiplied by before it weighs its direction of the family."""
    return math.sqrt(share / max(1, size))


def smooth_basis(layout: WeightLayout, size: int) -> Tensor:
    """(1 + size, D): the base, and `size` variations of it.

    Each is a smooth random function of the units' coordinates, sampled at this layout's units; hidden units
    are known by their number, so a narrow layer is the first part of a wide one. Weights have the scale of
    torch's default initialisation, U(-1/sqrt(fan_in), 1/sqrt(fan_in)); biases are zero.
    """
    rng = torch.Generator().manual_seed(FAMILY_SEED)
    # the order of the draws is that of the layout, so the same architecture gets the same functions at every
    # size
    parts = []
    for name, shape in layout.shapes.items():
        if len(shape) != 2:
            parts.append(torch.zeros(1 + size, math.prod(shape)))
            continue
        # a generator for each tensor, so that what is drawn for one does not shift with the size of another
        *seeds, core = _core(int(torch.randint(2**31, (1,), generator=rng)), size)
        rows, columns = (
            _features(layout.units[label].coordinates if label in layout.units else None, units, seed)
            for label, units, seed in zip(layout.axes[name], shape, seeds, strict=True)
        )
        parts.append((rows @ core @ columns.T).flatten(1) / (RANDOM_FEATURES * math.sqrt(3 * shape[1])))
    return torch.cat(parts, dim=1)


@lru_cache(maxsize=64)
def _core(seed: int, size: int) -> tuple[int, int, Tensor]:
    """Seeds of a tensor's two axes, and its (1 + size, R, R) random functions of their features: the same for every layout."""
    rng = torch.Generator().manual_seed(seed)
    rows, columns = (int(torch.randint(2**31, (1,), generator=rng)) for _ in range(2))
    return (
        rows,
        columns,
        torch.stack([torch.randn(RANDOM_FEATURES, RANDOM_FEATURES, generator=rng) for _ in range(1 + size)]),
    )


def _features(coordinates: Tensor | None, units: int, seed: int) -> Tensor:
    """(U, R) features of unit variance: random Fourier features of coordinates, or the unit's own for hidden axes."""
    own = torch.Generator().manual_seed(seed)
    if coordinates is None:
        return torch.randn(units, RANDOM_FEATURES, generator=own)
    frequencies = BANDWIDTH * torch.randn(coordinates.shape[1], RANDOM_FEATURES, generator=own)
    phases = 2 * math.pi * torch.rand(RANDOM_FEATURES, generator=own)
    return math.sqrt(2) * torch.cos(coordinates @ frequencies + phases)
