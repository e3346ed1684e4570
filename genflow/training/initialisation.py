"""Initial weights of a zoo's members: independent, or one shared start built from the meaning of the units.

Shapes: M policies, D parameters, R random features, U units of an axis.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from genflow.population import Population
from genflow.structure import Structure

Init = Literal["independent", "shared"]
RANDOM_FEATURES = 64
#: inverse length scale of the shared start over input and action coordinates
BANDWIDTH = 3.0
SHARED_SEED = 20_240_917


def initial_weights(structure: Structure, num: int, seed: int, init: Init, noise: float) -> Tensor:
    """(M, D) starting weights.

    Args:
        structure: what to initialise.
        num: M.
        seed: of the members' own randomness.
        init: "independent" draws each member from the architecture's own initialisation; "shared" starts all members
            of all structures from one function of the units' coordinates, which keeps a zoo in one basin.
        noise: standard deviation that "shared" adds for each member, relative to each tensor's own.
    """
    own = Population.initialised(structure, num, seed)
    if init == "independent":
        return own.weights
    base = structure.layout.flatten({name: tensor[None] for name, tensor in shared_start(structure).items()})
    rng = torch.Generator().manual_seed(seed)
    spread = torch.cat(
        [own.weights[:, place].std().nan_to_num().expand(place.stop - place.start) for place in structure.layout.slices().values()]
    )
    return base + noise * spread * torch.randn(num, base.shape[1], generator=rng)


def shared_start(structure: Structure) -> dict[str, Tensor]:
    """One smooth random function of the unit coordinates, sampled at this structure's units.

    Weights have the scale of torch's default initialisation, U(-1/sqrt(fan_in), 1/sqrt(fan_in)); biases are zero.
    """
    layout = structure.layout
    rng = torch.Generator().manual_seed(SHARED_SEED)
    # the order of the draws is that of the layout, so the same architecture gets the same functions at every size
    tensors = {}
    for name, shape in layout.shapes.items():
        if len(shape) != 2:
            tensors[name] = torch.zeros(shape)
            continue
        rows, columns = (
            _features(layout.coordinates.get(label), units, rng) for label, units in zip(layout.axes[name], shape, strict=True)
        )
        core = torch.randn(rows.shape[1], columns.shape[1], generator=rng)
        tensors[name] = rows @ core @ columns.T / math.sqrt(3 * shape[1])
    return tensors


def _features(coordinates: Tensor | None, units: int, rng: torch.Generator) -> Tensor:
    """(U, R) features of unit variance: random Fourier features of coordinates, or one per unit for hidden axes."""
    if coordinates is None:
        return torch.eye(units)
    frequencies = BANDWIDTH * torch.randn(coordinates.shape[1], RANDOM_FEATURES, generator=rng)
    phases = 2 * math.pi * torch.rand(RANDOM_FEATURES, generator=rng)
    return math.sqrt(2 / RANDOM_FEATURES) * torch.cos(coordinates @ frequencies + phases)
