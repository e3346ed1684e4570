"""The parameters that an encoder makes, under names that all structures of its zoo share.

Structures of one depth share the names of their parameters. Of several depths they share roles
(`genflow.PolicyArch.roles`), some of which are repeated: a shallow network is the first part of a deep one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from genflow import GenflowError, WeightLayout, tensor_difference

#: the label of hidden units where layers that repeat have labels of their own
HIDDEN = "hidden"
#: parameters that a message lists
LISTED = 4


@dataclass(frozen=True)
class Part:
    """One tensor: its role, its place among the repetitions of that role, and the labels of its axes."""

    role: str
    place: int
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """What an encoder makes.

    Attributes:
        axes: role -> a label for each axis; the name of a parameter is its role where there is one depth.
        repeats: role of a layer -> how many of it structures have, rising; empty where there is one depth.
    """

    axes: Mapping[str, tuple[str, ...]]
    repeats: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, layouts: Sequence[WeightLayout], by_role: bool = False) -> Self:
        """The parts of the layouts of a zoo: parameters by name where these agree, or else by role.

        Args:
            layouts: of the zoo's structures.
            by_role: whether roles are used in any case, for a part of a zoo of several depths.

        Raises:
            GenflowError: the layouts have other parameters, which are named.
        """
        first = layouts[0]
        if not by_role and all(layout.axes == first.axes for layout in layouts):
            return cls({name: tuple(labels) for name, labels in first.axes.items()}, {})
        axes: dict[str, tuple[str, ...]] = {}
        repeated = {role for layout in layouts for role, _ in layout.roles.values()}
        counts = [Counter(role for role, _ in _roles(layout).values()) for layout in layouts]
        for layout in layouts:
            own = _labels(layout)
            # a layer that repeats may be missing from one depth or the other
            both = {*axes, *own} - (repeated & (axes.keys() ^ own.keys()))
            known, found = ({role: each[role] for role in each if role in both} for each in (axes, own))
            if axes and known != found:
                raise GenflowError(
                    "structures of one zoo have the same layers, and these differ:"
                    f" {tensor_difference(known, found)}; use one policy, and the same options"
                )
            axes = {**own, **axes}
        ranges = {role: [count[role] for count in counts] for role in axes if role in repeated}
        return cls(axes, {role: tuple(sorted(set(found))) for role, found in ranges.items()})

    @cached_property
    def tensors(self) -> dict[str, Part]:
        """All tensors by a name of their own: a role, with the place where it is repeated."""
        once = (role for role in self.axes if role not in self.repeats)
        found = {role: Part(role, 0, tuple(self.axes[role])) for role in once}
        # what comes later in deeper networks comes last, so that it changes nothing before it
        for place in range(self.deepest):
            for role, counts in self.repeats.items():
                if place < counts[-1]:
                    found[f"{role}.{place}"] = Part(role, place, tuple(self.axes[role]))
        return found

    @property
    def deepest(self) -> int:
        """The most places of any role; 0 where there is one depth."""
        return max((counts[-1] for counts in self.repeats.values()), default=0)

    def name(self, layout: WeightLayout, parameter: str) -> str:
        """The name in `tensors` of a parameter of a layout that fits."""
        role, place = self._role(layout, parameter)
        return f"{role}.{place}" if role in self.repeats else role

    def _role(self, layout: WeightLayout, parameter: str) -> tuple[str, int]:
        return layout.roles.get(parameter, (parameter, 0)) if self.repeats else (parameter, 0)

    def check(self, layout: WeightLayout) -> None:
        """Refuse a layout with other parameters, or with another number of repetitions.

        Raises:
            GenflowError: names the tensors that differ.
        """
        found = {parameter: self._role(layout, parameter)[0] for parameter in layout.axes}
        labels = {
            role: _generic(layout, parameter) if self.repeats else layout.axes[parameter]
            for parameter, role in found.items()
        }
        expected = {
            role: own for role, own in self.axes.items() if role in labels or role not in self.repeats
        }
        if differ := tensor_difference(expected, labels):
            raise GenflowError(f"this generator does not make these parameters: {differ}")
        for role, counts in self.repeats.items():
            own = [parameter for parameter, each in found.items() if each == role]
            if len(own) in counts or (layout.residual and counts[0] <= len(own) <= counts[-1]):
                continue
            told = f": {', '.join(own[:LISTED])}{', ...' * (len(own) > LISTED)}" if own else ""
            others = "; others between need networks with residuals" * (not layout.residual)
            raise GenflowError(
                f"this generator makes {' or '.join(map(str, counts))} of {role!r}, the structure has"
                f" {len(own)}{told}; choose a depth of its zoo{others or ', or one between'}"
            )


def _roles(layout: WeightLayout) -> dict[str, tuple[str, int]]:
    return {name: layout.roles.get(name, (name, 0)) for name in layout.axes}


def _labels(layout: WeightLayout) -> dict[str, tuple[str, ...]]:
    """Role -> labels, with one label for all hidden units."""
    return {role: _generic(layout, name) for name, (role, _) in _roles(layout).items()}


def _generic(layout: WeightLayout, name: str) -> tuple[str, ...]:
    return tuple(label if label in layout.units else HIDDEN for label in layout.axes[name])
