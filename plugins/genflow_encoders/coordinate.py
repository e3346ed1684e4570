"""An autoencoder that decodes weights from the meaning of the units: one decoder for every size of task and every width.

A weight between a described unit (an input or an action) and a hidden unit comes from a network that reads
the description; weights between hidden units are a mixture of learned matrices. Latent and condition steer
all of it. The latent is a *style*: the decoded weights are the member of genflow's smooth family that the
style names, plus the learned correction (docs/decisions/0004-coordinates.md).

Shapes: M policies, D parameters, Z latent size, C conditions, U units of an axis, G features of a unit, E
embedding of condition and style, H hidden size, W widest hidden layer, N rows of all policies and their
units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genflow import (
    Encoder,
    GenflowError,
    Noise,
    Population,
    Schema,
    WeightLayout,
    smooth_basis,
    smooth_scale,
    smooth_start,
)

MIN_STD = 1e-3
#: below these a condition counts as nothing, on two logarithmic scales
FLOORS = (1e-3, 1e-6)
#: scale of the units' last layers at the start, so that training begins near the smooth family
START = 0.3
RIDGE = 1e-3
#: least spread of a tensor relative to the largest
MIN_SPREAD = 1e-3
#: units a structure that the statistics of their features are taken from
SAMPLED_UNITS = 64
#: tables of layouts that are kept, two of each that is trained on
MAX_TABLES = 4096
#: units of all policies that are read at once, which bounds the memory of `decode`
MAX_ROWS = 2**13
#: features of a unit, and axes whose units are described
MAX_FEATURES, MAX_DESCRIBED = 2**16, 16


Label = Annotated[str, Field(max_length=100, pattern=r"^\P{C}+$")]


class Described(Schema):
    """How the units of an axis are described: how many features, and which columns are names: column -> (lowest, count)."""

    features: int = Field(ge=1, le=MAX_FEATURES)
    names: dict[
        Annotated[int, Field(ge=0, lt=MAX_FEATURES)],
        tuple[Annotated[int, Field(ge=-(2**31), le=2**31)], Annotated[int, Field(ge=1, le=2**31)]],
    ]

    @model_validator(mode="after")
    def _columns_are_features(self) -> Described:
        if max(self.names, default=0) >= self.features:
            raise ValueError("a column of names lies beyond the features")
        return self


class Spec(Schema):
    """What `from_spec` reads from a file, see `for_zoo`."""

    axes: dict[Label, Annotated[list[Label], Field(min_length=1, max_length=2)]]
    widest: int = Field(ge=1, le=65_536)
    conditions: int = Field(ge=1, le=65_536)
    described: dict[Label, Described] = Field(min_length=1, max_length=MAX_DESCRIBED)
    family: float | None = None

    @model_validator(mode="after")
    def _described_once(self) -> Spec:
        for name, labels in self.axes.items():
            if sum(label in self.described for label in labels) > 1:
                raise ValueError(f"two axes of {name} are described")
        if not self.described.keys() <= {label for labels in self.axes.values() for label in labels}:
            raise ValueError("units are described that no parameter has")
        return self


class Residual(nn.Module):
    """x + Linear(SiLU(Linear(norm(x)) + Linear(e))), nothing at first."""

    def __init__(self, size: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.first = nn.Linear(size, size)
        self.embed = nn.Linear(embedding, size)
        self.last = nn.Linear(size, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, e: Tensor, owner: Tensor | None = None) -> Tensor:
        """(N, size), (M, E) -> (N, size); `owner` (N,) tells which row of `e` is each one's; None: the rows agree."""
        embedded = self.embed(e)
        return x + self.last(
            F.silu(self.first(self.norm(x)) + (embedded if owner is None else embedded[owner]))
        )


class Standardise(nn.Module):
    """(x - mean) / std with statistics of the zoo; what did not vary there is left out."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, rows: Tensor) -> None:
        """Take the statistics of (N, size) rows."""
        std = rows.std(0, correction=0)
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(
            torch.where(std > MIN_STD * self.mean.abs().clamp(min=1), 1 / std.clamp(min=1e-9), 0.0)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return (x - self.mean) * self.scale


class UnitNet(nn.Module):
    """Reads the description of a unit, its names and its features, under an embedding; writes its weights to all hidden units."""

    def __init__(
        self,
        n_features: int,
        names: Mapping[str, Sequence[int]],
        embedding: int,
        hidden: int,
        depth: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.names = {int(column): (int(low), int(count)) for column, (low, count) in names.items()}
        self.standardise = Standardise(n_features)
        self.first = nn.Linear(n_features, hidden)
        self.named = nn.ModuleList(nn.Embedding(count, hidden) for _, count in self.names.values())
        self.embed = nn.Linear(embedding, hidden)
        self.blocks = nn.ModuleList(Residual(hidden, embedding) for _ in range(depth))
        self.last = nn.Linear(hidden, outputs)
        nn.init.normal_(self.last.weight, 0, START * hidden**-0.5)
        nn.init.zeros_(self.last.bias)

    def describe(self, features: Tensor) -> Tensor:
        """(U, G) -> (U, H), the part that depends on the unit alone."""
        x = self.standardise(features)
        # a name is an embedding, not an amount
        x = (
            x.index_fill(1, torch.tensor(list(self.names), dtype=torch.long, device=x.device), 0.0)
            if self.names
            else x
        )
        x = self.first(x)
        for (column, (low, _)), table in zip(self.names.items(), self.named, strict=True):
            x = x + table(features[:, column].long() - low)
        return x

    def forward(self, described: Tensor, e: Tensor, owner: Tensor) -> Tensor:
        """(N, H), (M, E), (N,) -> (N, outputs)."""
        x = described + self.embed(e)[owner]
        for block in self.blocks:
            x = block(x, e, owner)
        return self.last(F.silu(x))


class Pool(nn.Module):
    """Reads the units of an axis together, whatever their order and number; writes what they say of the task."""

    def __init__(self, hidden: int, embedding: int) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.all = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, embedding)
        )

    def forward(self, described: Tensor) -> Tensor:
        """(U, H) -> (E,)."""
        return self.all(self.each(described).mean(0))


class CoordinateEncoder(Encoder):
    """Latent = style; weights = smooth family(style) + correction(condition, style, description of the units)."""

    class Config(Schema):
        """`style_share` is the part of the family's variance that the style decides; it should be the zoo's.

        `hidden` and `embedding` are layer sizes, `depth` blocks read a unit, `matrices` learned matrices and
        `rank` more directions make the weights between hidden units. `features` False hides what the
        environment tells beyond coordinates. `pool` adds to the condition what a learned network reads in all
        units together, for tasks that are a set of things. `latent_noise` is added to latents, which have
        unit scale.
        """

        latent_size: int = Field(default=16, ge=1, le=1024)
        style_share: float = Field(default=0.3, ge=0, le=1)
        hidden: int = Field(default=256, ge=1, le=8192)
        embedding: int = Field(default=256, ge=1, le=8192)
        depth: int = Field(default=2, ge=0, le=32)
        matrices: int = Field(default=24, ge=1, le=1024)
        rank: int = Field(default=4, ge=1, le=1024)
        features: bool = True
        pool: bool = False
        latent_noise: float = Field(default=0.2, ge=0)

    def __init__(self, config: Any = None, *, spec: Mapping[str, Any]) -> None:
        """Build for the sizes in `spec`, see `for_zoo`."""
        super().__init__(config)
        c = self.config
        self.latent_size = c.latent_size
        self._spec = dict(spec)
        self._tables: dict[tuple[str, int], tuple[WeightLayout, Tensor]] = {}
        axes: dict[str, tuple[str, ...]] = {name: tuple(labels) for name, labels in spec["axes"].items()}
        described: dict[str, dict[str, Any]] = spec["described"]
        self.axes, self.widest = axes, int(spec["widest"])
        width, size = self.widest, c.embedding
        self.condition = Standardise(int(spec["conditions"]) * (1 + len(FLOORS)))
        self.from_condition = nn.Sequential(
            nn.Linear(len(self.condition.mean), size), nn.SiLU(), nn.Linear(size, size)
        )
        self.from_style = nn.Linear(c.latent_size, size)
        self.trunk = nn.ModuleList(Residual(size, c.latent_size) for _ in range(2))
        # parameter -> its place in what the units of a label write: W numbers where the other axis is hidden,
        # one for a bias
        self._places: dict[str, tuple[str, int, int]] = {}
        self._ends = dict.fromkeys(described, 0)
        self._hidden = {name: labels for name, labels in axes.items() if not set(labels) & described.keys()}
        for name, labels in axes.items():
            if name not in self._hidden:
                label = next(label for label in labels if label in described)
                count = width if len(labels) == 2 else 1
                self._places[name] = (label, self._ends[label], self._ends[label] + count)
                self._ends[label] += count
        self.units = nn.ModuleDict(
            {
                label: UnitNet(
                    int(facts["features"]), facts["names"], size, c.hidden, c.depth, self._ends[label]
                )
                for label, facts in described.items()
            }
        )
        self.pools = nn.ModuleDict({label: Pool(c.hidden, size) for label in described} if c.pool else {})
        self.vectors = nn.ModuleDict(
            {_key(n): nn.Linear(size, width) for n, labels in self._hidden.items() if len(labels) == 1}
        )
        self.matrices, self.mixes, self.factors = nn.ParameterDict(), nn.ModuleDict(), nn.ModuleDict()
        for name, labels in self._hidden.items():
            if len(labels) == 2:
                spread = (3 * width * c.matrices) ** -0.5
                self.matrices[_key(name)] = nn.Parameter(spread * torch.randn(c.matrices, width, width))
                self.mixes[_key(name)] = nn.Linear(size, c.matrices)
                self.factors[_key(name)] = nn.Linear(size, 2 * c.rank * width)
        # of the styles that the zoo's members show, before they are brought to unit scale
        self.style = Standardise(c.latent_size)
        # the spread of each tensor over the zoo, which the loss on weights is relative to
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(len(axes)))

    @classmethod
    def from_spec(cls, config: Any, spec: dict[str, Any]) -> Self:
        """Rebuild from `spec`.

        Raises:
            GenflowError: this torch draws another smooth family than the one that the encoder was trained
                with.
        """
        Spec.model_validate(spec)  # for_zoo makes no other
        if spec.get("family", family_checksum()) != family_checksum():
            raise GenflowError(
                "this version of torch draws other random numbers than the one this generator was trained with; use that one"
            )
        return cls(config, spec=spec)

    def spec(self) -> dict[str, Any]:
        """Parameter names and axes, the widest hidden layer, how units are described, and a checksum of the smooth family."""
        return {**self._spec, "family": family_checksum()}

    @classmethod
    def for_zoo(cls, config: Any, populations: list[Population]) -> Self:
        """Size and normalise for a zoo.

        Raises:
            GenflowError: a parameter has more than two axes, or two described ones.
        """
        layouts = [p.layout for p in populations]
        axes = {name: list(labels) for name, labels in layouts[0].axes.items()}
        labels = list(layouts[0].coordinates)
        for name, own in axes.items():
            if len(own) > 2 or sum(label in labels for label in own) > 1:
                raise GenflowError(
                    f"the coordinate encoder cannot make {name!r}: it needs one or two axes, at most one of them an input or action"
                )
        hidden = [
            size
            for layout in layouts
            for n, s in layout.shapes.items()
            for size, a in zip(s, layout.axes[n], strict=True)
            if a not in labels
        ]
        tables = {label: [cls._table(config, layout, label) for layout in layouts] for label in labels}
        described = {}
        for label in labels:
            if len({table.shape[1] for table in tables[label]}) > 1:
                raise GenflowError(
                    f"the zoo's structures describe {label} units in different ways; train on those of one kind, e.g. one reward"
                )
            rows = torch.cat(tables[label])
            names = {
                str(column): [int(values.min()), int(values.max() - values.min()) + 1]
                for column, values in enumerate(rows.T)
                if (values == values.round()).all() and values.max() > 1
            }
            described[label] = {"features": rows.shape[1], "names": names}
        conditions = torch.stack([p.structure.condition() for p in populations])
        spec = {
            "axes": axes,
            "widest": max(hidden, default=1),
            "conditions": conditions.shape[1],
            "described": described,
        }
        encoder = cls(config, spec=spec)
        encoder.condition.fit(_scales(conditions))
        for label in labels:
            # every structure counts the same, however many units it has
            rows = torch.cat(
                [
                    table[torch.linspace(0, len(table) - 1, SAMPLED_UNITS).round().long()]
                    for table in tables[label]
                ]
            )
            encoder._net(label).standardise.fit(rows)
        encoder.style.fit(torch.cat([encoder._read(p) for p in populations]))
        for row, name in enumerate(axes):
            values = torch.stack([p.state_dict()[name].square().mean() for p in populations])
            encoder.spread[row] = values.mean().sqrt()
        # biases that are all 0 would make any other value infinitely wrong
        encoder.spread.clamp_(min=MIN_SPREAD * float(encoder.spread.max()))
        return encoder

    def _net(self, label: str) -> UnitNet:
        return cast(UnitNet, self.units[label])

    @staticmethod
    def _table(config: Any, layout: WeightLayout, label: str) -> Tensor:
        return (layout.features if config.features else layout.coordinates)[label]

    def check(self, layout: WeightLayout) -> None:
        """Refuse other parameters than the zoo's, wider hidden layers, and units with other features or names than the zoo's."""
        if {name: tuple(labels) for name, labels in layout.axes.items()} != self.axes:
            made, asked = (", ".join(list(axes)[:6]) for axes in (self.axes, layout.axes))
            raise GenflowError(f"this generator makes {made}; the structure has {asked}, or other axes")
        for name, shape in layout.shapes.items():
            for size, label in zip(shape, layout.axes[name], strict=True):
                if label not in self.units and size > self.widest:
                    raise GenflowError(
                        f"this generator covers hidden layers of up to {self.widest} units, not {size}"
                    )
        for label in self.units:
            net = self._net(label)
            if label not in layout.coordinates:
                raise GenflowError(
                    f"this generator is told what {label} units mean, and the structure does not say it"
                )
            table = self._table(self.config, layout, label)
            if table.shape[1] != net.first.in_features:
                raise GenflowError(
                    f"this generator reads {net.first.in_features} features of {label} units, the structure has {table.shape[1]}"
                )
            for column, (low, count) in net.names.items():
                values = table[:, column]
                if values.min() < low or values.max() >= low + count or (values != values.round()).any():
                    raise GenflowError(
                        f"this generator covers {label} units numbered {low} to {low + count - 1} (column {column} of their description),"
                        f" not {values.min():g} to {values.max():g}"
                    )

    def _family(self, layout: WeightLayout) -> Tensor:
        """The smooth family (1 + Z, D) at a layout."""
        return self._kept("family", layout, lambda: smooth_basis(layout, self.latent_size))

    def _reader(self, layout: WeightLayout) -> Tensor:
        """(1 + Z, Z): from the products of weights with the family to the style of its nearest member."""

        def make() -> Tensor:
            basis = self._family(layout).cpu()
            gram = basis @ basis.T
            ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
            return torch.linalg.inv(gram + ridge)[:, 1:] / smooth_scale(
                self.config.style_share, self.latent_size
            )

        return self._kept("reader", layout, make)

    def _kept(self, what: str, layout: WeightLayout, make: Callable[[], Tensor]) -> Tensor:
        """A table of a layout, made once."""
        kept = self._tables.get((what, id(layout)))
        # a number may be given to another layout after its own is gone, and the module may have moved
        if kept is None or kept[0] is not layout or kept[1].device != self.spread.device:
            if len(self._tables) >= MAX_TABLES:
                self._tables.clear()
            kept = self._tables[what, id(layout)] = (layout, make().to(self.spread.device))
        return kept[1]

    def encode(self, population: Population) -> Tensor:
        """(M, D) -> (M, Z): the style of the member of the smooth family that is nearest to the weights (least squares)."""
        self.check(population.layout)
        return self.style(self._read(population))

    def _read(self, population: Population) -> Tensor:
        return (
            population.weights.to(self.spread.device)
            @ self._family(population.layout).T
            @ self._reader(population.layout)
        )

    def _condition(self, condition: Tensor) -> Tensor:
        scales = _scales(condition)
        if len(scales) != len(self.condition.mean):
            raise GenflowError(f"this generator's encoder does not read {len(condition)} conditions")
        return self.condition(scales)

    def decode(self, latents: Tensor, layout: WeightLayout, condition: Tensor) -> Tensor:
        """(M, Z), layout and condition (C,) -> (M, D), a few policies at a time."""
        units = max(len(self._table(self.config, layout, label)) for label in self.units)
        parts = latents.split(max(1, MAX_ROWS // units))
        return torch.cat([self.decode_all([(part, layout, condition)])[0] for part in parts])

    def decode_all(self, items: Sequence[tuple[Tensor, WeightLayout, Tensor]]) -> list[Tensor]:
        """Latents (M, Z), layout and condition (C,) of several structures at once -> (M, D) each."""
        for _, layout, _ in items:
            self.check(layout)
        sizes = [len(latents) for latents, _, _ in items]
        device = self.spread.device
        z = torch.cat([latents for latents, _, _ in items])
        c = torch.cat(
            [
                self._condition(condition).expand(size, -1)
                for size, (_, _, condition) in zip(sizes, items, strict=True)
            ]
        )
        # what depends on the units alone is the same for all policies of a structure
        described = {
            label: [
                self._net(label).describe(self._table(self.config, layout, label).to(device))
                for _, layout, _ in items
            ]
            for label in self.units
        }
        e = self.from_condition(c) + self.from_style(z)
        for label, pool in self.pools.items():
            e = e + torch.stack([pool(own) for own in described[label]]).repeat_interleave(
                torch.tensor(sizes, device=device), dim=0
            )
        for block in self.trunk:
            e = block(e, z)
        owner = torch.arange(len(z), device=device)
        written = {}
        for label in self.units:
            net = self._net(label)
            repeated = [own.repeat(size, 1) for own, size in zip(described[label], sizes, strict=True)]
            counts = [
                len(own) for own, size in zip(described[label], sizes, strict=True) for _ in range(size)
            ]
            rows = net(torch.cat(repeated), e, owner.repeat_interleave(torch.tensor(counts, device=device)))
            blocks = rows.split([len(own) for own in repeated])
            written[label] = [
                block.unflatten(0, (size, -1)) for block, size in zip(blocks, sizes, strict=True)
            ]
        hidden = {name: self._between(name, labels, e).split(sizes) for name, labels in self._hidden.items()}
        results = []
        for index, (latents, layout, _) in enumerate(items):
            tensors = {}
            for name, shape in layout.shapes.items():
                if name in hidden:
                    tensor = hidden[name][index]
                else:
                    label, start, end = self._places[name]
                    tensor = written[label][index][:, :, start:end]  # (M, U, W), or (M, U, 1) for a bias
                    if len(shape) == 1:
                        tensor = tensor.squeeze(2)
                    elif self.axes[name][1] == label:
                        tensor = tensor.transpose(1, 2)
                # a narrower layer is the first part of the widest
                tensors[name] = tensor[(slice(None), *(slice(units) for units in shape))]
            start_weights = smooth_start(self._family(layout), latents, self.config.style_share)
            results.append(start_weights + layout.flatten(tensors))
        return results

    def _between(self, name: str, labels: tuple[str, ...], e: Tensor) -> Tensor:
        """(M, W, W) or (M, W): weights between hidden units, or their biases."""
        key = _key(name)
        if len(labels) == 1:
            return self.vectors[key](e)
        mixed = torch.einsum("mk,kab->mab", self.mixes[key](e), self.matrices[key])
        left, right = self.factors[key](e).unflatten(1, (2, self.config.rank, self.widest)).unbind(1)
        return mixed + torch.einsum("mra,mrb->mab", left, right) / self.widest**0.5

    def noisy(self, latents: Tensor, noise: Noise) -> Tensor:
        """Gaussian noise."""
        return latents + self.config.latent_noise * noise(latents)

    def reconstruct(self, populations: list[Population], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """Squared error relative to each tensor's spread, mean over the parameters of each policy; noise on latents."""
        device = self.spread.device
        latents = self.noisy(torch.cat([self.encode(p) for p in populations]), noise).split(
            [len(p) for p in populations]
        )
        rebuilt = self.decode_all(
            [
                (z, p.layout, p.structure.condition().to(device))
                for z, p in zip(latents, populations, strict=True)
            ]
        )
        losses = []
        for population, weights in zip(populations, rebuilt, strict=True):
            sizes = torch.tensor(
                [place.stop - place.start for place in population.layout.slices().values()], device=device
            )
            relative = (weights - population.weights.to(device)) / self.spread.repeat_interleave(sizes)
            losses.append(relative.square().mean(1))
        return torch.cat(losses), rebuilt


def family_checksum() -> float:
    """A number of the smooth family that differs where torch's random numbers do: the family is drawn anew, not stored."""
    with torch.device("cpu"):  # a generator is first built on the meta device
        layout = WeightLayout(
            {"w": (3, 2)}, {"w": ("hidden", "input")}, {"input": torch.tensor([[0.0], [1.0]])}
        )
        return round(float(smooth_basis(layout, 2).double().abs().sum()), 4)


def _scales(condition: Tensor) -> Tensor:
    """(..., C) -> (..., C * (1 + len(FLOORS))): the numbers and their logarithms, as conditions span decades and may be 0."""
    return torch.cat([condition, *((condition.abs() + floor).log() for floor in FLOORS)], dim=-1)


def _key(name: str) -> str:
    """A parameter name as the name of a submodule."""
    return name.replace(".", "_")
