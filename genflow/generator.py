"""`Generator`: encoder, denoiser and noise schedule together: condition -> population.

Shapes: M policies, Z latent size, C conditions.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from genflow import coverage
from genflow.coverage import Quality
from genflow.errors import GenflowError
from genflow.interfaces import Denoiser, Encoder
from genflow.launch import world
from genflow.noise import NoiseOptions, SamplingOptions, sample_latents
from genflow.population import Population
from genflow.registry import registry
from genflow.runs import read_json, read_tensors, write_json, write_tensors
from genflow.schema import Schema, validate
from genflow.structure import Structure

CARD = "generator.json"
TENSORS = "generator.safetensors"
FORMAT = "genflow-generator-1"


class EncoderCard(Schema):
    """What rebuilds an encoder: its registered name, options and spec."""

    name: str
    options: dict[str, Any]
    spec: dict[str, Any]

    @classmethod
    def of(cls, name: str, encoder: Encoder) -> EncoderCard:
        """Describe an encoder."""
        return cls(name=name, options=encoder.config.model_dump(mode="json"), spec=encoder.spec())

    def build(self) -> Encoder:
        """An encoder of the same shape, untrained."""
        encoder_cls = registry().load("encoder", self.name)
        return encoder_cls.from_spec(validate(encoder_cls.Config, self.options, f"encoder {self.name!r}"), self.spec)


class Card(Schema):
    """The model card: everything about a generator but its tensors.

    `training_structures` are the fields of every structure in the zoo, `selection_structures` of those that choices were made on.
    `coverage`: field -> the range that the generator is meant for. `quality`: what was measured after training.
    """

    format: str
    env: str
    policy: str
    training_structures: list[dict[str, Any]]
    selection_structures: list[dict[str, Any]] = Field(default_factory=list)
    coverage: dict[str, tuple[float, float]] = Field(default_factory=dict)
    quality: list[Quality] = Field(default_factory=list)
    encoder: EncoderCard
    denoiser: str
    denoiser_options: dict[str, Any]
    latent_size: int = Field(ge=1, le=65_536)
    condition_size: int = Field(ge=1, le=65_536)
    noise: NoiseOptions
    sampling: SamplingOptions
    provenance: dict[str, Any] = Field(default_factory=dict)


@dataclass(eq=False)
class Generator:
    """Generates populations for structures, known and unknown.

    Attributes:
        card: what it was trained on and how.
        encoder, denoiser: the networks.
        latent_mean, latent_std: (Z,) the normalisation of the latents.
    """

    card: Card
    encoder: Encoder
    denoiser: Denoiser
    latent_mean: Tensor
    latent_std: Tensor

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "cpu") -> Self:
        """Load a generator that `save_pretrained` wrote.

        Raises:
            GenflowError: a file is missing, truncated or foreign.
        """
        folder, card = load_card(Path(folder))
        tensors, _ = read_tensors(folder / TENSORS)
        try:
            # on the meta device first: a wrong card must not make us allocate more than the file holds
            with torch.device("meta"):
                _check_shapes(tensors, *_build(card))
            encoder, denoiser = _build(card)
            encoder.load_state_dict(_part(tensors, "encoder."))
            denoiser.load_state_dict(_part(tensors, "denoiser."))
            mean, std = tensors["latent_mean"].float(), tensors["latent_std"].float()
            size = (card.latent_size,)
            if (encoder.latent_size,) != size or mean.shape != size or std.shape != size or not torch.isfinite(mean + std).all():
                raise ValueError("latent_mean and latent_std must be finite and of the latent size")
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise GenflowError(f"{folder / TENSORS} does not fit {CARD}: {type(error).__name__}: {str(error).splitlines()[0]}") from error
        return cls(card, encoder.to(device).eval(), denoiser.to(device).eval(), mean.to(device), std.to(device))

    def rounded(self) -> Generator:
        """A copy with every number rounded to float16, which `save_pretrained(half=True)` stores without further loss."""
        other = copy.deepcopy(self)
        for module in (other.encoder, other.denoiser):
            module.load_state_dict({n: t.half() if t.is_floating_point() else t for n, t in module.state_dict().items()})
        other.latent_mean, other.latent_std = self.latent_mean.half().float(), self.latent_std.half().float()
        return other

    def save_pretrained(self, folder: Path | str, half: bool = False) -> None:
        """Write ``generator.safetensors`` and its model card ``generator.json``.

        Args:
            folder: where to.
            half: store float16, which halves the file; computation stays in float32.

        Raises:
            GenflowError: a file cannot be written.
        """
        folder = Path(folder)
        tensors = {f"encoder.{n}": t for n, t in self.encoder.state_dict().items()}
        tensors |= {f"denoiser.{n}": t for n, t in self.denoiser.state_dict().items()}
        tensors |= {"latent_mean": self.latent_mean, "latent_std": self.latent_std}
        if half:
            tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        write_tensors(folder / TENSORS, tensors, {"format": FORMAT})
        write_json(folder / CARD, self.card.model_dump(mode="json"))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.latent_mean.device

    def check(self, structure: Structure) -> None:
        """Refuse a structure that this generator cannot know.

        Raises:
            GenflowError: another environment or architecture, or a structure outside the coverage.
        """
        card = self.card
        for kind, asked, known in (("environment", structure.env, card.env), ("policy", structure.policy, card.policy)):
            if asked != known:
                raise GenflowError(
                    f"this generator was trained on {kind} {known!r}, not on {asked!r}; train one with --env {structure.env}"
                )
        coverage.check(structure, card.training_structures, card.coverage)
        if structure.condition().numel() != card.condition_size:
            raise GenflowError(
                f"this generator reads {card.condition_size} conditions, but {structure.env!r} now gives {structure.condition().numel()};"
                " train it anew"
            )
        self.encoder.check(structure.layout)

    @cached_property
    def training_structures(self) -> list[Structure]:
        """Every structure of the zoo."""
        return [Structure.build(self.card.env, fields, self.card.policy) for fields in self.card.training_structures]

    def caution(self, structure: Structure) -> str | None:
        """A warning if the structure is at the edge of what this generator was trained on."""
        return coverage.caution(structure, self.training_structures, self.card.quality)

    def generate(
        self, structure: Structure, num: int, seed: int = 0, sampling: SamplingOptions | None = None, **overrides: Any
    ) -> Population:
        """Generate `num` policies for a structure; several workers decode a part of them each, and all return the whole.

        Args:
            structure: need not have been trained on; ``population.seen`` tells whether it was.
            num: M.
            seed: of the latents.
            sampling: sampler, steps and guidance; None: as trained.
            overrides: single fields of `sampling`, e.g. ``steps=20``.

        Raises:
            GenflowError: the structure is outside what this generator covers.
        """
        self.check(structure)
        sampling = validate(SamplingOptions, {**(sampling or self.card.sampling).model_dump(), **overrides}, "sampling")
        began = time.perf_counter()
        rng = torch.Generator(device=self.device).manual_seed(seed)
        condition = structure.condition().to(self.device)
        latents = sample_latents(self.denoiser, condition, num, self.card.noise, sampling, rng)
        latents = latents * self.latent_std + self.latent_mean
        rows = world().rows(num)
        with torch.no_grad():
            weights = torch.zeros(num, structure.layout.size)
            if rows.start < rows.stop:
                weights[rows] = self.encoder.decode(latents[rows], structure.layout, condition).float().cpu()
        world().sum(weights)
        if not torch.isfinite(weights).all():
            raise GenflowError("the generated weights are not finite; lower the guidance, or use another sampler or more steps")
        provenance = {
            "source": "generated",
            "training_structures": self.card.training_structures,
            "seed": seed,
            "seconds": time.perf_counter() - began,
            "sampling": sampling.model_dump(mode="json"),
        }
        return Population(structure, weights, provenance)


def load_card(folder: Path) -> tuple[Path, Card]:
    """The folder that holds a generator, which is `folder` or the ``generator`` inside a run, and its model card.

    Raises:
        GenflowError: there is none, or it is of another format.
    """
    if not (folder / CARD).exists() and (folder / "generator" / CARD).exists():
        folder = folder / "generator"
    if not (folder / CARD).exists():
        raise GenflowError(f"{folder} holds no generator ({CARD} is missing); train one with `genflow train-ldm` or `genflow run`")
    facts = read_json(folder / CARD)
    if facts.get("format") != FORMAT:
        raise GenflowError(f"{folder / CARD} has format {facts.get('format')!r}, this genflow reads {FORMAT!r}")
    return folder, validate(Card, facts, str(folder / CARD))


def shipped(env: str) -> list[Path]:
    """The folders of the generators that ship with an environment.

    Raises:
        GenflowError: the environment is unknown, or names a package that is not there.
    """
    folders = []
    for target in registry().load("environment", env).pretrained:
        package, _, folder = target.partition(":")
        try:
            folders.append(Path(str(resources.files(package).joinpath(folder))))  # files on disk: packages are installed unzipped
        except ModuleNotFoundError as error:
            raise GenflowError(f"environment {env!r} says that a generator ships in {target!r}, but {error}") from error
    return folders


def _build(card: Card) -> tuple[Encoder, Denoiser]:
    """Untrained networks of a card."""
    denoiser_cls = registry().load("denoiser", card.denoiser)
    options = validate(denoiser_cls.Config, card.denoiser_options, f"denoiser {card.denoiser!r}")
    return card.encoder.build(), denoiser_cls(options, latent_size=card.latent_size, condition_size=card.condition_size)


def _check_shapes(tensors: dict[str, Tensor], encoder: Encoder, denoiser: Denoiser) -> None:
    own = {f"encoder.{n}": t.shape for n, t in encoder.state_dict().items()} | {
        f"denoiser.{n}": t.shape for n, t in denoiser.state_dict().items()
    }
    odd = sorted(name for name, shape in own.items() if name not in tensors or tensors[name].shape != shape)
    if odd:
        raise ValueError(f"tensor {odd[0]!r} is missing or of another shape")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
