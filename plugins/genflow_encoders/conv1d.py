"""The paper's autoencoder: 1-D convolutions over the flattened weights.

Shapes: M policies, D parameters of the largest structure, padded to P (a multiple of stride^levels), Z latent
size. A level trades length for channels, so that every level holds P numbers: P x 1, P/4 x 4, P/16 x 16, ...
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genflow import (
    Encoder,
    GenflowError,
    Noise,
    Population,
    Schema,
    Starts,
    Structure,
    WeightLayout,
    tensor_difference,
)

from .smooth_family import smooth_starts

MIN_STD = 1e-6
SLOPE = 0.2
PRINTABLE = r"^\P{C}+$"


class Spec(Schema):
    """What a file says of an encoder: names of a policy's parameters, and how many numbers it has at most."""

    names: tuple[Annotated[str, Field(max_length=100, pattern=PRINTABLE)], ...] = Field(max_length=1000)
    length: int = Field(ge=1, le=2**40)


class Conv1dEncoder(Encoder):
    """Convolutions over the flat vector of weights, which are not told what a weight connects.

    Strided each way, over padded and normalised weights, with Gaussian noise and a squared error.
    """

    class Config(Schema):
        """Options of the network, and of the zoo's starts."""

        latent_size: int = Field(default=256, ge=1, le=65_536, description="How many numbers a latent has.")
        levels: int = Field(default=4, ge=1, le=8, description="How many convolutions there are each way.")
        stride: int = Field(default=4, ge=2, le=8, description="The stride of each convolution.")
        kernel: int = Field(default=9, ge=1, le=63, description="The length of each convolution's kernel.")
        residual: bool = Field(
            default=True,
            description="Whether each level has a skip connection; docs/decisions/0002-autoencoder.md says"
            " what it changes.",
        )
        least_length: int = Field(
            default=1,
            ge=1,
            le=2**40,
            description="How many parameters can be decoded at least, where the zoo has no structure of so"
            " many. Nothing is learned of those beyond the zoo's.",
        )
        weight_noise: float = Field(
            default=0.01, ge=0, description="The noise on the normalised weights while training."
        )
        latent_noise: float = Field(
            default=0.1, ge=0, description="The noise on latents, which have unit scale, while training."
        )
        init: Literal["independent", "shared"] = Field(
            default="shared",
            description='A zoo\'s members start from one function of the units ("shared"), or as the'
            ' architecture initialises them ("independent").',
        )
        init_noise: float = Field(
            default=0.1,
            ge=0,
            description="The noise on a shared start, relative to each tensor's own spread.",
        )

    def __init__(self, config: Any = None, *, names: tuple[str, ...] = (), length: int = 1) -> None:
        """Build for parameters called `names` and vectors of at most `length`."""
        super().__init__(config)
        c = self.config
        if c.kernel < c.stride or (c.kernel - c.stride) % 2 == 0:
            raise GenflowError(
                f"conv1d: kernel {c.kernel} must be odd for an even stride and even for an odd one,"
                f" and at least stride {c.stride}"
            )
        self.latent_size = c.latent_size
        self.names, self.length = tuple(names), length
        factor = c.stride**c.levels
        self.padded = -(-length // factor) * factor
        channels = [c.stride**level for level in range(c.levels + 1)]
        pad = (c.kernel - c.stride + 1) // 2
        self.down = nn.ModuleList(
            nn.Conv1d(a, b, c.kernel, c.stride, pad) for a, b in itertools.pairwise(channels)
        )
        self.to_latent = nn.Linear(self.padded, c.latent_size)
        self.from_latent = nn.Linear(c.latent_size, self.padded)
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(b, a, c.kernel, c.stride, pad, output_padding=c.stride - (c.kernel - 2 * pad))
            for a, b in reversed(list(itertools.pairwise(channels)))
        )
        # one row a parameter tensor, in the order of `names`
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("std", torch.ones(len(names)))

    @classmethod
    def from_spec(cls, config: Any, spec: dict[str, Any]) -> Self:
        """Rebuild from `spec`."""
        sizes = Spec.model_validate(spec)
        return cls(config, names=sizes.names, length=sizes.length)

    def spec(self) -> dict[str, Any]:
        """What `from_spec` rebuilds from: the parameter names and the length of the longest vector."""
        return {"names": list(self.names), "length": self.length}

    @classmethod
    def starts(
        cls, config: Any, structures: Sequence[Structure], stored: Mapping[str, Tensor] | None = None
    ) -> Starts:
        """One start for all members of all structures, or the architecture's own, as `init` says.

        Raises:
            GenflowError: the structures have other parameters, for which a flat vector has no place.
        """
        first = structures[0].layout
        for structure in structures:
            if tuple(structure.layout.shapes) != tuple(first.shapes):
                raise GenflowError(
                    "conv1d is for structures of one zoo that have the same parameters, and"
                    f" {structure.name} differs: {tensor_difference(first.axes, structure.layout.axes)}; use"
                    " one depth, or autoencoder.encoder=coordinate"
                )
        return smooth_starts(config.init, structures, 0, 0.0, config.init_noise, stored)

    @classmethod
    def for_zoo(
        cls, config: Any, populations: list[Population], starts: Mapping[str, Tensor] | None = None
    ) -> Self:
        """Size and normalise for a zoo: mean and deviation of each parameter tensor over all structures."""
        names = populations[0].layout.shapes.keys()
        length = max(config.least_length, *(p.layout.size for p in populations))
        encoder = cls(config, names=tuple(names), length=length)
        for row, name in enumerate(names):
            values = torch.cat([p.state_dict()[name].flatten() for p in populations])
            encoder.mean[row] = values.mean()
            encoder.std[row] = values.std().nan_to_num().clamp(min=MIN_STD)
        return encoder

    def check(self, layout: WeightLayout) -> None:
        """Refuse other parameters than the zoo's, and more of them."""
        if tuple(layout.shapes) != self.names:
            none = dict.fromkeys(self.names, ())
            differ = tensor_difference(none, dict.fromkeys(layout.shapes, ()))
            raise GenflowError(
                f"this conv1d encoder does not make these parameters: {differ or 'in another order'}"
            )
        if layout.size > self.length:
            raise GenflowError(
                f"this conv1d encoder decodes at most {self.length:,} parameters of {_listed(self.names)};"
                " the"
                f" structure has {layout.size:,} of {_listed(tuple(layout.shapes))}: train on a larger"
                " structure,"
                " or use a smaller width"
            )

    def _statistics(self, layout: WeightLayout) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each parameter of a layout, (D,) each."""
        self.check(layout)
        owners = layout.owners(self.mean.device)
        return self.mean[owners], self.std[owners]

    def _normalise(self, population: Population) -> Tensor:
        mean, std = self._statistics(population.layout)
        return F.pad(
            (population.weights_on(mean.device) - mean) / std, (0, self.padded - population.layout.size)
        )

    def _denormalise(self, padded: Tensor, layout: WeightLayout) -> Tensor:
        mean, std = self._statistics(layout)
        return padded[:, : layout.size] * std + mean

    def _to_latent(self, padded: Tensor) -> Tensor:
        x = padded[:, None]
        for conv in self.down:
            skip = _fold(x, self.config.stride) if self.config.residual else 0.0
            x = skip + conv(F.leaky_relu(x, SLOPE))
        # unit scale, so that the latent noise means the same for every zoo
        return F.layer_norm(self.to_latent(x.flatten(1)), (self.latent_size,))

    def _from_latent(self, latents: Tensor) -> Tensor:
        x = self.from_latent(latents).reshape(len(latents), self.config.stride**self.config.levels, -1)
        for conv in self.up:
            skip = _unfold(x, self.config.stride) if self.config.residual else 0.0
            x = skip + conv(F.leaky_relu(x, SLOPE))
        return x[:, 0]

    def encode(self, population: Population) -> Tensor:
        """Encode weights (M, D) as latents (M, Z)."""
        return self._to_latent(self._normalise(population))

    def decode(self, latents: Tensor, layout: WeightLayout, condition: Tensor) -> Tensor:
        """Decode latents (M, Z) to weights (M, D), whatever the condition.

        In the paper only the diffusion model reads the condition.
        """
        return self._denormalise(self._from_latent(latents), layout)

    def noisy(self, latents: Tensor, noise: Noise) -> Tensor:
        """Add Gaussian noise to latents."""
        return latents + self.config.latent_noise * noise(latents)

    def loss_weight(self, layout: WeightLayout) -> float:
        """How much a structure counts: by its parameters, since the paper's mean is over parameters."""
        return layout.size

    def reconstruct(self, populations: list[Population], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """The mean squared error of the normalised weights, with noise on weights and latents."""
        clean = torch.cat([self._normalise(p) for p in populations])
        real = torch.cat(
            [
                (torch.arange(self.padded, device=clean.device) < p.layout.size).expand(len(p), -1)
                for p in populations
            ]
        )
        latents = self._to_latent(clean + self.config.weight_noise * noise(clean) * real)
        padded = self._from_latent(self.noisy(latents, noise))
        loss = ((padded - clean).square() * real).sum(1) / real.sum(1)
        parts = padded.split([len(p) for p in populations])
        return loss, [self._denormalise(part, p.layout) for part, p in zip(parts, populations, strict=True)]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join((*names[:6], "...") if len(names) > 7 else names)


def _fold(x: Tensor, stride: int) -> Tensor:
    """Make neighbours channels, (B, C, L * stride) -> (B, C * stride, L), as the skip of a level down."""
    return x.unflatten(2, (-1, stride)).transpose(2, 3).flatten(1, 2)


def _unfold(x: Tensor, stride: int) -> Tensor:
    """Undo `_fold`: (B, C * stride, L) -> (B, C, L * stride)."""
    return x.unflatten(1, (-1, stride)).transpose(2, 3).flatten(2, 3)
