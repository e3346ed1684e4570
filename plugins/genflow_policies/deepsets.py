"""DeepSets, a policy that reads what units mean, whose parameters do not depend on the size of the task.

Source: Zaheer et al., "Deep sets" (2017). The elements of the set are the values of the categories that
inputs and actions share, e.g. the dimensions of a hypergrid; without such categories all inputs are one
element. An element is the sum of its inputs, each times a network of its description. Layers exchange the
mean of all elements, and the logit of an action comes from its element, the mean, and its description. So no
order of elements, inputs or actions is told from another.

Shapes: B states, s inputs, A actions, G amounts, E elements, K inputs of an element, d width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genflow import Environment, PolicyArch, Schema, UnitDescriptions, Units, WeightLayout, described, size


class Exchange(nn.Module):
    """A layer (..., E, d) -> (..., E, d) that adds what it reads in an element and in the mean of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.pooled = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Add to each element (..., E, d)."""
        return h + F.leaky_relu(self.own(h) + self.pooled(h.mean(-2, keepdim=True)))


class Network(nn.Module):
    """The network of a single policy, for the units that it is built for."""

    inputs: Tensor
    actions: Tensor
    members: Tensor
    elements: Tensor

    def __init__(self, units: Units, width: int, depth: int) -> None:
        super().__init__()
        self.input_dim, self.output_dim = len(units.inputs), len(units.actions)
        members, elements = grouped(units)
        tables = {"inputs": units.inputs.amounts, "actions": units.actions.amounts}
        for name, table in {**tables, "members": members, "elements": elements}.items():
            self.register_buffer(name, table, persistent=False)
        self.unit = nn.Sequential(
            nn.Linear(self.inputs.shape[1], width), nn.LeakyReLU(), nn.Linear(width, width)
        )
        self.layers = nn.ModuleList(Exchange(width) for _ in range(depth))
        self.own, self.pooled = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.action = nn.Linear(self.actions.shape[1], width, bias=False)
        self.logit = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (..., s) to logits (..., A)."""
        # a last input of 0 fills elements that have fewer inputs than others
        units = F.pad(self.unit(self.inputs), (0, 0, 0, 1))[self.members]
        h = torch.einsum("...ek,ekd->...ed", F.pad(x, (0, 1))[..., self.members], units)
        for layer in self.layers:
            h = layer(h)
        own = F.pad(self.own(h), (0, 0, 0, 1))[..., self.elements, :]
        h = own + self.pooled(h.mean(-2, keepdim=True)) + self.action(self.actions)
        return self.logit(F.leaky_relu(h)).squeeze(-1)


def grouped(units: Units) -> tuple[Tensor, Tensor]:
    """Group units by their categories.

    Returns:
        The inputs of each element (E, K), filled with s; and the element of each action (A,), or E for an
        action of none, such as exit.
    """
    names = sorted(units.inputs.categories.keys() & units.actions.categories.keys())
    ofs, wanted = (
        list(zip(*(each.categories[name].tolist() for name in names), strict=True)) or [()] * len(each)
        for each in units
    )
    places: dict[tuple[int, ...], list[int]] = {}
    for place, key in enumerate(ofs):
        places.setdefault(key, []).append(place)
    most, order = max(map(len, places.values())), {key: place for place, key in enumerate(places)}
    filled = [own + [len(ofs)] * (most - len(own)) for own in places.values()]
    # said explicitly, as networks are also built on the meta device, of which these are never
    return (
        torch.tensor(filled, device="cpu"),
        torch.tensor([order.get(key, len(order)) for key in wanted], device="cpu"),
    )


def numbered(count: int) -> UnitDescriptions:
    """Units that nothing but their number tells apart."""
    return UnitDescriptions(torch.eye(count, device="cpu"))


class DeepSets(PolicyArch):
    """Sums of described units, layers that exchange their mean, and a logit for each described action.

    Its parameters have no axis of inputs or actions; those of the amounts that describe them have the labels
    "input_amount" and "action_amount".
    """

    reads_units = True
    residual = True

    class Config(Schema):
        """The size of the network."""

        width: int = size(64, ge=1, le=8192, description="Hidden units d of each layer.")
        depth: int = described(2, ge=0, le=32, description="How often the elements exchange their mean.")

    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """A network for units that are known by their number alone."""
        return self.build_for(Units(numbered(n_inputs), numbered(n_outputs)))

    def build_for(self, units: Units) -> nn.Module:
        """A network with torch's default initialisation that reads amounts and categories of units."""
        return Network(units, self.config.width, self.config.depth)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Label the axes of each parameter; what is added to an element has its units, "set"."""
        axes: dict[str, tuple[str, ...]] = {
            "unit.0.weight": ("unit", "input_amount"),
            "unit.0.bias": ("unit",),
            "unit.2.weight": ("set", "unit"),
            "unit.2.bias": ("set",),
        }
        for layer in range(self.config.depth):
            axes |= {
                f"layers.{layer}.own.weight": ("set", "set"),
                f"layers.{layer}.own.bias": ("set",),
                f"layers.{layer}.pooled.weight": ("set", "set"),
            }
        return axes | {
            "own.weight": ("head", "set"),
            "own.bias": ("head",),
            "pooled.weight": ("head", "set"),
            "action.weight": ("head", "action_amount"),
            "logit.weight": ("logit", "head"),
            "logit.bias": ("logit",),
        }

    def roles(self) -> dict[str, tuple[str, int]]:
        """The layers repeat."""
        parts = ("own.weight", "own.bias", "pooled.weight")
        return {
            f"layers.{layer}.{part}": (f"layers.{part}", layer)
            for layer in range(self.config.depth)
            for part in parts
        }

    def layout(self, environment: Environment) -> WeightLayout:
        """The layout, in which amounts are known by their number."""
        own = super().layout(environment)
        amounts = {f"{label}_amount": numbered(units.amounts.shape[1]) for label, units in own.units.items()}
        return replace(own, units={**own.units, **amounts})

    def condition(self) -> dict[str, float]:
        """The width and the depth."""
        return {"width": float(self.config.width), "depth": float(self.config.depth)}
