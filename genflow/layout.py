"""`WeightLayout`: the names, shapes and per-axis meaning of a policy's parameters.

Shapes: D parameters a policy, M policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn


class Tables(Mapping[str, Tensor]):
    """Tables by axis label that are made when one is first read: describing units may cost more than training a policy."""

    def __init__(self, make: Callable[[], Mapping[str, Tensor]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Mapping[str, Tensor]:
        return self._make()

    def __getitem__(self, label: str) -> Tensor:
        return self._made[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


@dataclass(frozen=True)
class WeightLayout:
    """Where each parameter tensor of a policy lies in one flat vector, and what its axes mean.

    Attributes:
        shapes: parameter name (as in ``state_dict()``) -> shape, in the order of the flat vector.
        axes: parameter name -> one label an axis, e.g. ``("hidden1", "input")``; equal labels mean the same
            units.
        coordinates: axis label -> (units, F) float place of each unit, for the labels that have a meaning
            (``"input"`` and ``"action"``); hidden units have none. Distances between rows are meaningful.
        features: axis label -> (units, G) float description of each unit for networks, `coordinates` where
            there is none.
    """

    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, tuple[str, ...]]
    coordinates: Mapping[str, Tensor] = field(default_factory=dict, compare=False)
    features: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        module: nn.Module,
        axes: Mapping[str, tuple[str, ...]],
        coordinates: Mapping[str, Tensor],
        features: Callable[[], Mapping[str, Tensor]] = dict,
    ) -> WeightLayout:
        """Read the layout off a built module; `axes` labels every parameter's axes.

        `features` is called when they are first read.

        Raises:
            ValueError: a label is missing, or a table of coordinates or features does not fit its axis.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        if shapes.keys() != axes.keys() or any(len(shapes[name]) != len(axes[name]) for name in shapes):
            raise ValueError(f"axis labels {dict(axes)} do not fit the parameters {shapes}")

        def fitting(what: str, tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
            for name, shape in shapes.items():
                for size, label in zip(shape, axes[name], strict=True):
                    if label in tables and len(tables[label]) != size:
                        raise ValueError(
                            f"{len(tables[label])} {what} for the {size} units of axis {label!r} of {name}"
                        )
            return dict(tables)

        return cls(
            shapes,
            dict(axes),
            fitting("coordinates", coordinates),
            Tables(lambda: fitting("features", {**coordinates, **features()})),
        )

    @property
    def size(self) -> int:
        """D, the number of parameters of one policy."""
        return sum(prod(shape) for shape in self.shapes.values())

    def slices(self) -> dict[str, slice]:
        """Name -> its place in the flat vector."""
        places, start = {}, 0
        for name, shape in self.shapes.items():
            places[name] = slice(start, start + prod(shape))
            start += prod(shape)
        return places

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Stacked tensors {name: (M, *shape)} -> (M, D)."""
        return torch.cat([tensors[name].reshape(len(tensors[name]), -1) for name in self.shapes], dim=1)

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """(M, D) -> {name: (M, *shape)}, views where possible.

        Raises:
            ValueError: `weights` is not (M, D).
        """
        if weights.ndim != 2 or weights.shape[1] != self.size:
            raise ValueError(f"expected weights of shape (M, {self.size}), got {tuple(weights.shape)}")
        return {
            name: weights[:, place].reshape(-1, *self.shapes[name]) for name, place in self.slices().items()
        }
