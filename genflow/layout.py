"""`WeightLayout`: the names, shapes and per-axis meaning of a policy's parameters.

Shapes: D parameters a policy, M policies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from genflow.caching import cached_on
from genflow.errors import GenflowError
from genflow.reward_calls import RewardCalls
from genflow.schema import brief
from genflow.storage.score_files import Row

#: modules whose weight multiplies, and starts at 1
NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
#: tensors that a message lists
LISTED = 6


class UnitDescriptions:
    """Descriptions of the U units of an axis, by numeric amounts and by categories."""

    def __init__(
        self,
        amounts: Tensor | Callable[[], Tensor],
        categories: Mapping[str, Tensor] | None = None,
        coordinates: Tensor | None = None,
    ) -> None:
        """Describe units by columns and categories that all structures of an environment share.

        Args:
            amounts: (U, G) numbers, or a function that returns them and is called when they are first read.
                A function is for amounts that are expensive to compute, and requires `coordinates`.
            categories: name -> (U,) int64 category of each unit, e.g. ``{"dimension": ...}``.
            coordinates: (U, F) coordinates in which similar units are close to each other. By default they
                are the amounts, followed by the numbers of the categories.

        Raises:
            GenflowError: a table has another shape or type, or numbers that are not finite.
        """
        self._make = amounts
        #: seconds that computing the amounts took, if a function computes them and was called
        self.seconds = 0.0
        #: the scores that this asked for where nobody else counted them
        self.reward_calls: list[Row] = []
        self.categories = dict(categories or {})
        if coordinates is not None:
            places = _table("coordinates", coordinates)
        elif callable(amounts):
            raise GenflowError("units whose amounts are a function need coordinates")
        else:
            places = _table("amounts", amounts)
        for name, numbers in self.categories.items():
            if numbers.dtype != torch.int64 or numbers.shape != places.shape[:1]:
                raise GenflowError(
                    f"category {name!r} of units must be ({len(places)},) int64, not {tuple(numbers.shape)}"
                    f" {numbers.dtype}"
                )
        if coordinates is None:
            places = torch.cat([places, *(numbers[:, None] for numbers in self.categories.values())], dim=1)
        self.coordinates = places
        if not callable(amounts):
            _ = self.amounts

    def __len__(self) -> int:
        """Return the number of units U."""
        return len(self.coordinates)

    def __getitem__(self, rows: slice) -> UnitDescriptions:
        """Return the descriptions of some units; their amounts are computed when they are first read."""
        return UnitDescriptions(
            lambda: self.amounts[rows],
            {name: numbers[rows] for name, numbers in self.categories.items()},
            self.coordinates[rows],
        )

    def with_amounts(self, amounts: Tensor) -> UnitDescriptions:
        """Return the same units with other amounts (U, G), and the very same coordinates."""
        others = UnitDescriptions(amounts, self.categories, self.coordinates)
        others.coordinates = self.coordinates  # by which tables are kept
        return others

    @cached_property
    def amounts(self) -> Tensor:
        """The amounts of all units, (U, G) float32."""
        began = time.perf_counter()
        if callable(self._make):
            alone = RewardCalls.current() is None
            counted = RewardCalls(None).as_current() if alone else nullcontext()
            with counted as calls, torch.device("cpu"):  # also where a network is built on the meta device
                amounts = _table("amounts", self._make())
            self.reward_calls = calls.rows() if calls is not None else []
            self.seconds = time.perf_counter() - began
        else:
            amounts = _table("amounts", self._make)
        if len(amounts) != len(self):
            raise GenflowError(f"{len(amounts)} rows of amounts for {len(self)} units")
        return amounts


def _table(what: str, values: Tensor) -> Tensor:
    values = values.detach().float()
    if values.ndim == 2 and not torch.isfinite(values).all():
        row, column = (~torch.isfinite(values)).nonzero()[0].tolist()
        raise GenflowError(
            f"{what} of units must be finite, and column {column} of unit {row} is"
            f" {float(values[row, column])}"
        )
    if values.ndim != 2:
        raise GenflowError(
            f"{what} of units must be a table with a row a unit, not of shape {tuple(values.shape)}"
        )
    return values


def tensor_difference(expected: Mapping[str, tuple[Any, ...]], found: Mapping[str, tuple[Any, ...]]) -> str:
    """Say how tensors differ from those expected, by their shapes or the labels of their axes.

    Args:
        expected: name -> shape or labels.
        found: the same of other tensors.

    Returns:
        E.g. ``without net.6.weight; with norm.weight; net.4.weight (3, 8) instead of (8, 8)``, or an empty
        text if they are the same.
    """
    parts = []
    for word, names in (
        ("without", expected.keys() - found.keys()),
        ("with", found.keys() - expected.keys()),
    ):
        if names:
            listed = sorted(names, key=list({**expected, **found}).index)
            parts.append(f"{word} {', '.join(listed[:LISTED])}{', ...' * (len(listed) > LISTED)}")
    odd = [name for name in expected if name in found and tuple(expected[name]) != tuple(found[name])]
    if odd:
        told = (f"{name} {_tuple(found[name])} instead of {_tuple(expected[name])}" for name in odd[:LISTED])
        parts.append(f"{', '.join(told)}{', ...' * (len(odd) > LISTED)}")
    return brief("; ".join(parts), 400)


def _tuple(values: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, values))})"


@dataclass(frozen=True)
class WeightLayout:
    """The position of each parameter of a policy in one flat vector, and the meaning of its axes.

    Attributes:
        shapes: parameter name (as in ``state_dict()``) -> shape, in the order of the flat vector.
        axes: parameter name -> a label for each axis, e.g. ``("hidden1", "input")``. Axes with the same label
            have the same units.
        units: axis label -> descriptions of its units, for ``"input"`` and ``"action"`` but not hidden units.
        roles: see `PolicyArch.roles`; parameters that are not in it are known by their name.
        residual: see `PolicyArch.residual`.
        gains: the parameters that start at 1 because they multiply: the weights of normalisations.
    """

    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, tuple[str, ...]]
    units: Mapping[str, UnitDescriptions] = field(default_factory=dict, compare=False)
    roles: Mapping[str, tuple[str, int]] = field(default_factory=dict, compare=False)
    residual: bool = field(default=False, compare=False)
    gains: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def of(
        cls,
        module: nn.Module,
        axes: Mapping[str, tuple[str, ...]],
        units: Mapping[str, UnitDescriptions],
        roles: Mapping[str, tuple[str, int]] | None = None,
        residual: bool = False,
    ) -> WeightLayout:
        """Create the layout of a module.

        Args:
            module: a network, of which only names and shapes are read.
            axes: parameter name -> a label for each axis.
            units: axis label -> descriptions of its units.
            roles, residual: see `PolicyArch`.

        Raises:
            ValueError: a label is missing, the descriptions of units do not fit their axis, or two parameters
                have one role.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        if shapes.keys() != axes.keys() or any(len(shapes[name]) != len(axes[name]) for name in shapes):
            raise ValueError(f"axis labels {dict(axes)} do not fit the parameters {shapes}")
        for name, shape in shapes.items():
            for size, label in zip(shape, axes[name], strict=True):
                if label in units and len(units[label]) != size:
                    raise ValueError(
                        f"{len(units[label])} descriptions for the {size} units of axis {label!r} of {name}"
                    )
        roles = dict(roles or {})
        if not roles.keys() <= shapes.keys() or len(set(roles.values())) < len(roles):
            raise ValueError(f"roles {roles} are not of the parameters {list(shapes)}, one each")
        gains = {
            f"{name}.weight" if name else "weight"
            for name, part in module.named_modules()
            if isinstance(part, NORMALISATIONS)
        }
        return cls(shapes, dict(axes), dict(units), roles, residual, frozenset(gains & shapes.keys()))

    @property
    def size(self) -> int:
        """D, the number of parameters of one policy."""
        return sum(prod(shape) for shape in self.shapes.values())

    def with_amounts(self, amounts: Mapping[str, Tensor]) -> WeightLayout:
        """Return the same layout, in which the units of some labels have other amounts (U, G)."""
        changed = {label: self.units[label].with_amounts(own) for label, own in amounts.items()}
        return replace(self, units={**self.units, **changed})

    @property
    def describing_seconds(self) -> float:
        """The seconds that describing the units has taken."""
        return sum(units.seconds for units in self.units.values())

    @property
    def reward_calls(self) -> list[Row]:
        """The scores that describing the units asked for in this process, where nobody else counted them."""
        return [row for units in self.units.values() for row in units.reward_calls]

    def slices(self) -> dict[str, slice]:
        """Return the slice of each parameter in the flat vector, by name."""
        places, start = {}, 0
        for name, shape in self.shapes.items():
            places[name] = slice(start, start + prod(shape))
            start += prod(shape)
        return places

    def owners(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the number of the tensor that each parameter belongs to, (D,) int64.

        Tensors are numbered in the order of `shapes`. The table is made once for each device.
        """

        def make() -> tuple[Tensor]:
            sizes = torch.tensor([prod(shape) for shape in self.shapes.values()])
            return (torch.arange(len(sizes)).repeat_interleave(sizes),)

        return cached_on(device, self, "owners", make)[0]

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Flatten stacked parameters {name: (M, *shape)} to weights (M, D)."""
        return torch.cat([tensors[name].reshape(len(tensors[name]), -1) for name in self.shapes], dim=1)

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """Split weights (M, D) into stacked parameters {name: (M, *shape)}, as views where possible.

        Raises:
            ValueError: `weights` is not (M, D).
        """
        if weights.ndim != 2 or weights.shape[1] != self.size:
            raise ValueError(f"expected weights of shape (M, {self.size}), got {tuple(weights.shape)}")
        return {
            name: weights[:, place].reshape(-1, *self.shapes[name]) for name, place in self.slices().items()
        }
