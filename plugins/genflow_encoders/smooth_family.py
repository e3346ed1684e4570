"""The smooth family: initial weights of a zoo's members, built from the meaning of the units.

The family is linear in a style: weights = base + sum over k of style_k variation_k. Base and variations are
the same random functions of the units for every structure, so a style means the same everywhere, and all
members start in one basin. The functions are drawn once and then stored, since another version of torch may
draw other numbers: as parameters that do not learn, so that a generator exported in float16 has them so.

Shapes: M policies, D parameters, Z style numbers, R random features, U units of an axis, F coordinates of a
unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from genflow import GenflowError, Population, Starts, Structure, UnitDescriptions, WeightLayout

from .parts import Parts

Init = Literal["independent", "shared", "style"]
RANDOM_FEATURES = 64
#: inverse length scale of the family over coordinates
BANDWIDTH = 3.0
FAMILY_SEED = 20_240_917


class SmoothFamily(nn.Module):
    """Random functions of the units of every parameter with two axes; biases are zero, gains one.

    Hidden units are known by their number, so a narrow layer is the first part of a wide one.
    """

    def __init__(self, parts: Parts, widest: int, coordinates: Mapping[str, int], size: int) -> None:
        """Make room for a family.

        Args:
            parts: the tensors.
            widest: units of the widest axis that is not described.
            coordinates: label of each described axis -> F.
            size: Z.
        """
        super().__init__()
        self.size, self.widest, self.parts, self._coordinates = size, widest, parts, dict(coordinates)
        self._axes = {name: each.labels for name, each in parts.tensors.items() if len(each.labels) == 2}
        for name, labels in self._axes.items():
            self._reserve(name, "core", (1 + size, RANDOM_FEATURES, RANDOM_FEATURES))
            for side, label in zip(("rows", "columns"), labels, strict=True):
                # frequencies of each coordinate, then phases; or the features of each hidden unit
                units = coordinates[label] + 1 if label in coordinates else widest
                self._reserve(name, side, (units, RANDOM_FEATURES))

    def _reserve(self, name: str, part: str, shape: tuple[int, ...]) -> None:
        table = nn.Parameter(torch.zeros(shape, dtype=torch.float32), requires_grad=False)
        self.register_parameter(_key(name, part), table)

    def _part(self, name: str, part: str) -> Tensor:
        return self.get_parameter(_key(name, part))

    @classmethod
    def of(
        cls, layouts: Sequence[WeightLayout], size: int, stored: Mapping[str, Tensor] | None = None
    ) -> SmoothFamily:
        """The family of some layouts: the stored one as far as it goes, else drawn.

        Raises:
            GenflowError: the layouts describe units by different coordinates.
        """
        coordinates = {label: units.coordinates.shape[1] for label, units in read_units(layouts[0]).items()}
        widest = [
            units
            for layout in layouts
            for name, shape in layout.shapes.items()
            for units, label in zip(shape, layout.axes[name], strict=True)
            if label not in layout.units
        ]

        def build(by_role: bool) -> SmoothFamily:
            return cls(Parts.of(layouts, by_role), max(widest, default=1), coordinates, size)

        family = build(False)
        for layout in layouts:
            family.check(layout)
        if not family._restore(stored or {}):
            # a part of a zoo of several depths has its tensors by role
            other = build(True) if stored else family
            if other._restore(stored or {}):
                return other
            family.draw()
        return family

    def _restore(self, stored: Mapping[str, Tensor]) -> bool:
        """Take the first part of stored tensors, of a wider zoo perhaps; False if they do not reach."""
        parts = {}
        for name, own in self.named_parameters():
            found = stored.get(name)
            if found is None or found.ndim != own.ndim:
                return False
            parts[name] = found[tuple(slice(length) for length in own.shape)]
            if parts[name].shape != own.shape:
                return False
        self.load_state_dict(parts)
        return True

    def draw(self) -> None:
        """Draw the functions: the same ones for every layout, and for a larger size more of them."""
        rng = torch.Generator().manual_seed(FAMILY_SEED)
        for name, labels in self._axes.items():
            # a generator for each tensor: what is drawn for one does not shift with another's size
            own = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
            seeds = [int(torch.randint(2**31, (1,), generator=own)) for _ in labels]
            for core in self._part(name, "core"):
                core.copy_(_normal(*core.shape, rng=own))
            for side, label, seed in zip(("rows", "columns"), labels, seeds, strict=True):
                table, single = self._part(name, side), torch.Generator().manual_seed(seed)
                if label not in self._coordinates:
                    table.copy_(_normal(*table.shape, rng=single))
                    continue
                table[:-1] = BANDWIDTH * _normal(len(table) - 1, RANDOM_FEATURES, rng=single)
                phases = torch.rand(RANDOM_FEATURES, generator=single, dtype=torch.float32)
                table[-1] = 2 * math.pi * phases

    def check(self, layout: WeightLayout) -> None:
        """Refuse other layers, and units that are described by other coordinates.

        Raises:
            GenflowError: says which.
        """
        self.parts.check(layout)
        for label, columns in self._coordinates.items():
            found = layout.units[label].coordinates.shape[1] if label in layout.units else 0
            if found != columns:
                raise GenflowError(
                    f"these structures have {found} coordinates of {label} units instead of {columns};"
                    " use structures of one kind"
                )

    def basis(self, layout: WeightLayout) -> Tensor:
        """(1 + Z, D) on the CPU: the base, and the variations of it.

        Each is a smooth function of the units' coordinates, sampled at this layout's units. Weights have the
        scale of torch's default initialisation, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
        """
        parts = []
        for parameter, shape in layout.shapes.items():
            name = self.parts.name(layout, parameter)
            if name not in self._axes:
                parts.append(torch.zeros(1 + self.size, math.prod(shape), dtype=torch.float32))
                continue
            rows, columns = (
                self._features(layout, name, side, label, units)
                for side, label, units in zip(("rows", "columns"), self._axes[name], shape, strict=True)
            )
            core = self._part(name, "core").cpu()
            parts.append((rows @ core @ columns.T).flatten(1) / (RANDOM_FEATURES * math.sqrt(3 * shape[1])))
        return torch.cat(parts, dim=1)

    def _features(self, layout: WeightLayout, name: str, side: str, label: str, units: int) -> Tensor:
        """Features (U, R) of unit variance: random Fourier features, or a hidden unit's own."""
        table = self._part(name, side).cpu()
        if label not in self._coordinates:
            return table[:units]
        return math.sqrt(2) * torch.cos(layout.units[label].coordinates @ table[:-1] + table[-1])


class SmoothStarts(Starts):
    """Starts of a zoo that lie in the smooth family.

    "shared" starts all members of all structures from the base; "style" draws each from the family around it.
    """

    def __init__(self, family: SmoothFamily, style_variance: float, noise: float) -> None:
        """Start from a family.

        Args:
            family: of size 0 for "shared".
            style_variance: see `smooth_members`; 0 for "shared".
            noise: standard deviation that is added for each member, relative to each tensor's own.
        """
        self.family, self.style_variance, self.noise = family, style_variance, noise

    def facts(self) -> dict[str, float]:
        """The size, variance and noise of the starts, as a zoo stores them."""
        return {"size": self.family.size, "style_variance": self.style_variance, "noise": self.noise}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the family."""
        return self.family.state_dict()

    def weights(self, untrained: Population, seed: int) -> Tensor:
        """The starts (M, D) of a structure, with styles and noise by the seed."""
        layout, bias = untrained.layout, untrained.structure.initial_bias
        random = untrained.weights if bias is None else untrained.weights - bias
        rng = torch.Generator().manual_seed(seed)
        styles = _normal(len(random), self.family.size, rng=rng)
        start = smooth_members(self.family.basis(layout), styles, self.style_variance)
        spread = torch.cat(
            [
                random[:, place].std().nan_to_num().expand(place.stop - place.start)
                for place in layout.slices().values()
            ]
        )
        start = start if bias is None else start + bias
        for name in layout.gains:
            start[:, layout.slices()[name]] += 1
        return start + self.noise * spread * _normal(*start.shape, rng=rng)


def smooth_starts(
    init: Init, structures: Sequence[Structure], size: int, style_variance: float, noise: float,
    stored: Mapping[str, Tensor] | None,
) -> Starts:  # fmt: skip
    """The starts that an option `init` names; "independent" are the architecture's own."""
    if init == "independent":
        return Starts()
    size, style_variance = (size, style_variance) if init == "style" else (0, 0.0)
    family = SmoothFamily.of([structure.layout for structure in structures], size, stored)
    return SmoothStarts(family, style_variance, noise)


def smooth_members(basis: Tensor, styles: Tensor, style_variance: float) -> Tensor:
    """(M, D) members of the family.

    Args:
        basis: (1 + Z, D) of `SmoothFamily.basis`.
        styles: (M, Z) of unit variance.
        style_variance: the part of the weights' variance that the style decides; the rest is the base.
    """
    base = math.sqrt(1 - style_variance) * styles.new_ones(len(styles), 1)
    return torch.cat([base, smooth_scale(style_variance, styles.shape[1]) * styles], dim=1) @ basis


def smooth_scale(style_variance: float, size: int) -> float:
    """What a style number of unit variance is multiplied by before it weighs its variation."""
    return math.sqrt(style_variance / max(1, size))


def read_units(layout: WeightLayout) -> dict[str, UnitDescriptions]:
    """The units of a layout that a parameter has, in the order of their labels there."""
    used = {label for labels in layout.axes.values() for label in labels}
    return {label: units for label, units in layout.units.items() if label in used}


def _normal(*shape: int, rng: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float32)


def _key(name: str, part: str) -> str:
    """The name of a buffer, which may hold no dots."""
    return f"{name.replace('.', '_')}_{part}"
