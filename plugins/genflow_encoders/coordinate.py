"""An autoencoder that decodes weights from the meaning of the units, for every size of task and every width.

A weight between a described unit (an input or an action) and a hidden unit comes from a network that reads
the description; weights between hidden units are a mixture of learned matrices. Latent and condition steer
all of it. The latent is a *style*: the decoded weights are the member of the smooth family that the style
names, plus the learned correction (docs/decisions/0004-coordinates.md).

Shapes: M policies, D parameters, Z latent size, C conditions, U units, E embedding, W widest hidden layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from genflow import GenflowError, Noise, Population, Starts, Structure, WeightLayout, cached_on

from .descriptions import FLOORS, Spec, condition_on, describe, require_made, scales, told
from .hidden import HiddenParts
from .options import CoordinateOptions
from .parts import Parts
from .smooth_family import SmoothFamily, read_units, smooth_members, smooth_scale, smooth_starts
from .units import Pool, Residual, Standardise, UnitNet

RIDGE = 1e-3
#: least spread of a tensor relative to the largest
MIN_SPREAD = 1e-3
#: units a structure that the statistics of their amounts are taken from
SAMPLED_UNITS = 64
#: units of all policies that are read at once, which bounds the memory of `decode`; more keep a GPU busy
MAX_ROWS, MAX_GPU_ROWS = 2**13, 2**15


class CoordinateEncoder(HiddenParts):
    """Weights as a function of what the units that they connect mean, which new tasks share."""

    reads_units = True

    class Config(CoordinateOptions):
        """See `CoordinateOptions`."""

    def __init__(self, config: Any = None, *, spec: Mapping[str, Any]) -> None:
        """Build for the sizes in `spec`, see `for_zoo`."""
        super().__init__(config)
        c = self.config
        self.latent_size = c.latent_size
        self._spec = dict(spec)
        # changes with the encoder's tensors, from which tables of layouts are made
        self._version = object()
        axes: dict[str, tuple[str, ...]] = {name: tuple(labels) for name, labels in spec["axes"].items()}
        repeats = {role: tuple(counts) for role, counts in spec.get("repeats", {}).items()}
        described: dict[str, dict[str, Any]] = spec["described"]
        places = {label: int(facts["coordinates"]) for label, facts in described.items()}
        self.parts, self.widest, size = Parts(axes, repeats), int(spec["widest"]), c.embedding
        self.family, width = SmoothFamily(self.parts, self.widest, places, c.latent_size), self.widest
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
        for name, part in self.parts.tensors.items():
            label = next((label for label in part.labels if label in described), None)
            if label is not None:
                count = width if len(part.labels) == 2 else 1
                self._places[name] = (label, self._ends[label], self._ends[label] + count)
                self._ends[label] += count
        self.units = nn.ModuleDict(
            {
                label: UnitNet(int(facts["amounts"]), facts["categories"], c, self._ends[label])
                for label, facts in described.items()
            }
        )
        self.pools = nn.ModuleDict({label: Pool(c.hidden, size) for label in described} if c.pool else {})
        self.add_hidden(self.parts, set(described), width)
        # of the styles that the zoo's members show, before they are brought to unit scale
        self.style = Standardise(c.latent_size)
        # the spread of each tensor over the zoo, which the loss on weights is relative to
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(len(self.parts.tensors)))
        self.register_load_state_dict_post_hook(_forget_tables)

    @classmethod
    def from_spec(cls, config: Any, spec: dict[str, Any]) -> Self:
        """Rebuild from `spec`."""
        Spec.model_validate(spec)  # for_zoo makes no other
        return cls(config, spec=spec)

    def spec(self) -> dict[str, Any]:
        """Parameters and their axes, the widest hidden layer, and how units are described."""
        return self._spec

    @classmethod
    def starts(
        cls, config: Any, structures: Sequence[Structure], stored: Mapping[str, Tensor] | None = None
    ) -> Starts:
        """Starts in the smooth family, as the option `init` says."""
        return smooth_starts(
            config.init, structures, config.latent_size, config.style_variance, config.init_noise, stored
        )

    @classmethod
    def objective(cls) -> type[Any]:
        """The losses of docs/decisions/0004-coordinates.md."""
        from .objective import CoordinateObjective

        return CoordinateObjective

    @classmethod
    def for_zoo(
        cls, config: Any, populations: list[Population], starts: Mapping[str, Tensor] | None = None
    ) -> Self:
        """Size and normalise for a zoo.

        Raises:
            GenflowError: a parameter has more than two axes, or two described ones.
        """
        layouts = [p.layout for p in populations]
        labels = list(read_units(layouts[0]))
        family = SmoothFamily.of(layouts, config.latent_size, starts)
        axes = {name: list(own) for name, own in family.parts.axes.items()}
        require_made(axes, labels)
        described, tables = describe(layouts, config.features)
        conditions = torch.stack([p.structure.condition() for p in populations])
        spec = {
            "axes": axes,
            "widest": family.widest,
            "conditions": conditions.shape[1],
            "described": described,
        }
        if family.parts.repeats:
            spec["repeats"] = {role: list(counts) for role, counts in family.parts.repeats.items()}
        encoder = cls(config, spec=spec)
        encoder.family = family
        encoder.condition.fit(scales(conditions))
        for label in labels:
            # every structure counts the same, however many units it has
            sampled = [
                rows[torch.linspace(0, len(rows) - 1, SAMPLED_UNITS).round().long()] for rows in tables[label]
            ]
            encoder._net(label).standardise.fit(torch.cat(sampled), torch.cat(tables[label]))
        encoder.style.fit(torch.cat([encoder._read(p) for p in populations]))
        squares = defaultdict[str, list[Tensor]](list)
        for population in populations:
            for name, tensor in population.state_dict().items():
                squares[encoder.parts.name(population.layout, name)].append(tensor.square().mean())
        for row, name in enumerate(encoder.parts.tensors):
            encoder.spread[row] = torch.stack(squares[name]).mean().sqrt()
        # biases that are all 0 would make any other value infinitely wrong
        encoder.spread.clamp_(min=MIN_SPREAD * float(encoder.spread.max()))
        return encoder

    def _net(self, label: str) -> UnitNet:
        return cast(UnitNet, self.units[label])

    def check(self, layout: WeightLayout) -> None:
        """Refuse other parameters than the zoo's, wider layers, and units that training has not met."""
        self.parts.check(layout)
        for name, shape in layout.shapes.items():
            for size, label in zip(shape, layout.axes[name], strict=True):
                if label not in self.units and size > self.widest:
                    raise GenflowError(
                        f"this generator covers hidden layers of up to {self.widest} units, not {size}"
                    )
        for label in self.units:
            if label not in layout.units:
                raise GenflowError(
                    f"this generator is told what {label} units mean, and the structure does not say it"
                )
            self._net(label).check(*told(layout.units[label], self.config.features), label)
        self.family.check(layout)

    def _basis(self, layout: WeightLayout) -> Tensor:
        """The smooth family (1 + Z, D) at a layout; a layout is checked when it is first met."""

        def make() -> tuple[Tensor]:
            self.check(layout)
            return (self.family.basis(layout),)

        # layouts that differ in amounts alone share it
        described = [layout.units[label] for label in self.units if label in layout.units]
        place = described[0].coordinates if described else layout
        name = ("family", self._version, tuple(layout.shapes.items()))
        return cached_on(self.spread.device, place, name, make)[0]

    def _reader(self, layout: WeightLayout) -> Tensor:
        """The matrix (1 + Z, Z) from products of weights with the family to the nearest member's style."""

        def make() -> tuple[Tensor]:
            basis = self._basis(layout).cpu()
            gram = basis @ basis.T
            ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
            scale = smooth_scale(self.config.style_variance, self.latent_size)
            return (torch.linalg.inv(gram + ridge)[:, 1:] / scale,)

        return self._table("reader", layout, make)[0]

    def _described(self, label: str, layout: WeightLayout) -> tuple[Tensor, ...]:
        """Describe the units of an axis to their network, (U, H), and where their categories are, (U,)."""
        net = self._net(label)

        def make() -> tuple[Tensor, ...]:
            amounts, categories = told(layout.units[label], self.config.features)
            return amounts, *net.places(categories)

        amounts, *places = self._table(f"units {label}", layout, make)
        return net.describe(amounts, *places), *places

    def _table(
        self, what: str, layout: WeightLayout, make: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Tables of a layout, which are made once for these tensors of the encoder and their device."""
        return cached_on(self.spread.device, layout, (what, self._version), make)

    def encode(self, population: Population) -> Tensor:
        """Encode weights (M, D) as the style (M, Z) of the family's nearest member, by least squares."""
        return self.style(self._read(population))

    def _read(self, population: Population) -> Tensor:
        return (
            population.weights_on(self.spread.device)
            @ self._basis(population.layout).T
            @ self._reader(population.layout)
        )

    def _condition(self, condition: Tensor) -> Tensor:
        scaled = scales(condition)
        if len(scaled) != len(self.condition.mean):
            raise GenflowError(f"this generator's encoder does not read {len(condition)} conditions")
        return self.condition(scaled)

    def decode(self, latents: Tensor, layout: WeightLayout, condition: Tensor) -> Tensor:
        """Decode latents (M, Z) to weights (M, D) of a layout, under a condition (C,), a few at a time."""
        units = max((len(layout.units[label]) for label in self.units if label in layout.units), default=1)
        rows = MAX_GPU_ROWS if latents.device.type == "cuda" else MAX_ROWS
        parts = latents.split(max(1, rows // units))
        return torch.cat([self.decode_all([(part, layout, condition)])[0] for part in parts])

    def decode_all(self, items: Sequence[tuple[Tensor, WeightLayout, Tensor]]) -> list[Tensor]:
        """Decode for several structures at once: latents (M, Z), layout and condition (C,) to (M, D) each."""
        bases = [self._basis(layout) for _, layout, _ in items]
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
            label: [self._described(label, layout) for _, layout, _ in items] for label in self.units
        }
        e = self.from_condition(c) + self.from_style(z)
        for label, pool in self.pools.items():
            pooled, repeats = torch.stack([pool(own) for own, *_ in described[label]]), torch.tensor(sizes)
            e = e + pooled.repeat_interleave(repeats.to(device), dim=0, output_size=len(z))
        for block in self.trunk:
            e = block(e, z)
        member = torch.arange(len(z), device=device)
        written = {}
        for label in self.units:
            net = self._net(label)
            repeated = [own.repeat(size, 1) for (own, *_), size in zip(described[label], sizes, strict=True)]
            places = [
                torch.cat([own.repeat(size) for own, size in zip(each, sizes, strict=True)])
                for each in list(zip(*described[label], strict=True))[1:]
            ]
            counts = [
                len(own) for (own, *_), size in zip(described[label], sizes, strict=True) for _ in range(size)
            ]
            # told the length, it need not wait for the device to count
            owner = member.repeat_interleave(torch.tensor(counts).to(device), output_size=sum(counts))
            rows = net(torch.cat(repeated), e, owner, places)
            blocks = rows.split([len(own) for own in repeated])
            written[label] = [b.unflatten(0, (size, -1)) for b, size in zip(blocks, sizes, strict=True)]
        hidden = {name: made.split(sizes) for name, made in self.write_hidden(e, z).items()}
        results = []
        for index, (latents, layout, _) in enumerate(items):
            tensors = {}
            for parameter, shape in layout.shapes.items():
                name = self.parts.name(layout, parameter)
                if name in hidden:
                    tensor = hidden[name][index]
                else:
                    label, start, end = self._places[name]
                    tensor = written[label][index][:, :, start:end]  # (M, U, W), or (M, U, 1) for a bias
                    if len(shape) == 1:
                        tensor = tensor.squeeze(2)
                    elif self.parts.tensors[name].labels[1] == label:
                        tensor = tensor.transpose(1, 2)
                # a narrower layer is the first part of the widest
                tensor = tensor[(slice(None), *(slice(units) for units in shape))]
                tensors[parameter] = 1 + tensor if parameter in layout.gains else tensor
            start_weights = smooth_members(bases[index], latents, self.config.style_variance)
            results.append(start_weights + layout.flatten(tensors))
        return results

    def noisy(self, latents: Tensor, noise: Noise) -> Tensor:
        """Add Gaussian noise to latents."""
        return latents + self.config.latent_noise * noise(latents)

    def reconstruct(self, populations: list[Population], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """The mean squared error relative to each tensor's spread, with noise on latents."""
        device = self.spread.device
        latents = self.noisy(torch.cat([self.encode(p) for p in populations]), noise).split(
            [len(p) for p in populations]
        )
        rebuilt = self.decode_all(
            [
                (z, p.layout, condition_on(device, p.structure))
                for z, p in zip(latents, populations, strict=True)
            ]
        )
        losses = []
        for population, weights in zip(populations, rebuilt, strict=True):
            spread = self.spread[self._rows(population.layout)]
            relative = (weights - population.weights_on(device)) / spread
            losses.append(relative.square().mean(1))
        return torch.cat(losses), rebuilt

    def _rows(self, layout: WeightLayout) -> Tensor:
        """The row in `spread` of each parameter, (D,)."""

        def make() -> tuple[Tensor]:
            names = list(self.parts.tensors)
            rows = torch.tensor([names.index(self.parts.name(layout, each)) for each in layout.shapes])
            return (rows[layout.owners()],)

        return self._table("rows", layout, make)[0]


def _forget_tables(encoder: CoordinateEncoder, keys: Any) -> None:
    """Drop what was computed from the tensors, after others were loaded."""
    encoder._version = object()
