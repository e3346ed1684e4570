"""How the coordinate encoder knows what units and conditions mean, and what it writes of that to a file.

Shapes: U units of an axis, G amounts of a unit, C conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genflow import GenflowError, Schema, Structure, UnitDescriptions, WeightLayout, cached_on

from .smooth_family import read_units

#: below these a condition counts as nothing, on two logarithmic scales
FLOORS = (1e-3, 1e-6)
#: amounts or values of a category, and axes whose units are described
MAX_COLUMNS, MAX_DESCRIBED = 2**16, 16
#: repetitions of a layer
MAX_PLACES = 64

Label = Annotated[str, Field(max_length=100, pattern=r"^\P{C}+$")]
Places = Annotated[int, Field(ge=0, le=MAX_PLACES)]
Value = Annotated[int, Field(ge=-(2**62), le=2**62)]


class Described(Schema):
    """How the units of an axis are described: how many amounts and coordinates, and the values of categories.

    Of a category the values are listed, in rising order, that training met.
    """

    amounts: int = Field(ge=0, le=MAX_COLUMNS)
    coordinates: int = Field(ge=0, le=MAX_COLUMNS)
    categories: dict[Label, Annotated[list[Value], Field(min_length=1, max_length=MAX_COLUMNS)]]

    @model_validator(mode="after")
    def _values_rise(self) -> Described:
        for name, values in self.categories.items():
            if values != sorted(set(values)):
                raise ValueError(f"the values of category {name} do not rise")
        return self


class Spec(Schema):
    """What `from_spec` reads from a file, see `for_zoo`."""

    axes: dict[Label, Annotated[list[Label], Field(min_length=1, max_length=2)]]
    widest: int = Field(ge=1, le=65_536)
    conditions: int = Field(ge=1, le=65_536)
    described: dict[Label, Described] = Field(max_length=MAX_DESCRIBED)
    #: where structures have several depths: role of a layer -> how many of it they have, rising
    repeats: dict[Label, Annotated[list[Places], Field(min_length=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _described_once(self) -> Spec:
        for name, labels in self.axes.items():
            if sum(label in self.described for label in labels) > 1:
                raise ValueError(f"two axes of {name} are described")
        if not self.repeats.keys() <= self.axes.keys():
            raise ValueError("a role repeats that no parameter has")
        if any(counts != sorted(set(counts)) or not counts[-1] for counts in self.repeats.values()):
            raise ValueError("the numbers of layers of a role do not rise from 0 or more to 1 or more")
        if not self.described.keys() <= {label for labels in self.axes.values() for label in labels}:
            raise ValueError("units are described that no parameter has")
        return self


def scales(condition: Tensor) -> Tensor:
    """Numbers (..., C) and their logarithms, as they span decades: (..., C * (1 + len(FLOORS)))."""
    return torch.cat([condition, *((condition.abs() + floor).log() for floor in FLOORS)], dim=-1)


def condition_on(device: torch.device | str, structure: Structure) -> Tensor:
    """The condition (C,) of a structure on a device, which is made once."""
    return cached_on(device, structure, "condition", lambda: (structure.condition(),))[0]


def told(units: UnitDescriptions, features: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
    """(U, G) amounts and (U,) categories that are read; without `features` coordinates are the amounts."""
    return units.amounts if features else units.coordinates, units.categories


def require_made(axes: Mapping[str, Sequence[str]], described: Sequence[str]) -> None:
    """Refuse parameters that no network can make from descriptions of units.

    Raises:
        GenflowError: names one.
    """
    for name, labels in axes.items():
        if len(labels) > 2 or sum(label in described for label in labels) > 1:
            raise GenflowError(
                f"the coordinate encoder cannot make {name!r}: it needs one or two axes, at most one of"
                " them an input or action"
            )


def describe(
    layouts: Sequence[WeightLayout], features: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Tensor]]]:
    """`Described` of each axis of a zoo's layouts, and the (U, G) amounts of each layout.

    Raises:
        GenflowError: the layouts describe units in different ways.
    """
    described, tables = {}, {}
    for label, units in read_units(layouts[0]).items():
        own = [told(layout.units[label], features) for layout in layouts]
        if len({(amounts.shape[1], *sorted(categories)) for amounts, categories in own}) > 1:
            raise GenflowError(
                f"the zoo's structures describe {label} units in different ways; train on those of one kind,"
                " e.g. one reward"
            )
        tables[label] = [amounts for amounts, _ in own]
        described[label] = {
            "amounts": own[0][0].shape[1],
            "coordinates": units.coordinates.shape[1],
            "categories": {
                name: torch.cat([categories[name] for _, categories in own]).unique().tolist()
                for name in own[0][1]
            },
        }
    return described, tables
