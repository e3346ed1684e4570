"""Stacked parameters of M policies, and of the state flows that some objectives learn beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from genflow.interfaces.environment import Units
from genflow.precision import float32_default
from genflow.seeding import seeded_cpu
from genflow.structure import Structure


def leaf(tensor: Tensor) -> Tensor:
    """Create a leaf tensor with a gradient of zeros."""
    tensor = tensor.detach().requires_grad_()
    tensor.grad = torch.zeros_like(tensor)
    return tensor


def values(parameters: Mapping[str, Tensor], own: slice) -> dict[str, Tensor]:
    """Return the parameters of a block without an autograd graph."""
    return {name: parameter.detach()[own] for name, parameter in parameters.items()}


def grads(parameters: Mapping[str, Tensor], own: slice) -> dict[str, Tensor]:
    """Return views of the gradients of a block."""
    return {name: cast(Tensor, parameter.grad)[own] for name, parameter in parameters.items()}


def flow_module(structure: Structure) -> torch.nn.Module:
    """Build a network of the policy's architecture with the single output log F, in float32."""
    units = structure.layout.units
    with float32_default():
        return structure.arch.build_for(Units(units["input"], units["action"][-1:]))


def state_flow(structure: Structure, members: int, seed: int) -> dict[str, Tensor]:
    """Initialise stacked weights (M, *shape) of a log-flow network for each policy."""
    with seeded_cpu(seed + 1):
        states = [flow_module(structure).state_dict() for _ in range(members)]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
