"""`Generator`: encoder, denoiser and noise schedule together: condition -> population.

Shapes: M policies, Z latent size, C conditions.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from os.path import exists  # Path's own raises for what may not be looked at
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from genflow import coverage
from genflow.coverage import Quality
from genflow.distributed.world import world
from genflow.errors import GenflowError
from genflow.interfaces.denoiser import Denoiser
from genflow.interfaces.encoder import Encoder
from genflow.noise import NoiseOptions, SamplingOptions, sample_latents
from genflow.population import Population
from genflow.precision import float32_default
from genflow.registry import registry
from genflow.schema import Name, Objects, Schema, brief, validate
from genflow.storage.files import read_json, read_tensors, write_json, write_tensors
from genflow.storage.populations import finite_float, inside
from genflow.structure import Structure

M = TypeVar("M", bound=nn.Module)
CARD = "generator.json"
TENSORS = "generator.safetensors"
FORMAT = "genflow-generator-2"
#: written by the first edition
OLD_FORMAT = "genflow-generator-1"
#: structures and measurements that a card may list
MAX_STRUCTURES, MAX_QUALITY = 10_000, 1000
#: what a network that is built from an impossible card, or given other tensors, may raise
_UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class EncoderCard(Schema):
    """What rebuilds an encoder: its registered name, options and spec."""

    name: Name
    options: dict[str, Any]
    spec: dict[str, Any]

    @classmethod
    def of(cls, name: str, encoder: Encoder) -> EncoderCard:
        """Describe an encoder."""
        return cls(name=name, options=encoder.config.model_dump(mode="json"), spec=encoder.spec())

    def build(self) -> Encoder:
        """An encoder of the same shape, untrained."""
        encoder_cls = registry().load("encoder", self.name)
        return encoder_cls.from_spec(
            validate(encoder_cls.Config, self.options, f"encoder {self.name!r}"), self.spec
        )

    def load(self, tensors: Mapping[str, Tensor], path: Path) -> Encoder:
        """The encoder with the tensors of a file.

        Raises:
            GenflowError: they do not fit.
        """
        return filled(self.build, tensors, path)


class Card(Schema):
    """The model card: everything about a generator but its tensors.

    `training_structures` are the fields of every structure in the zoo, `selection_structures` of those that
    choices were made on.
    `coverage`: field -> the range that the generator is meant for. `quality`: what was measured after
        training.
    """

    format: str
    env: Name
    policy: Name
    training_structures: Objects = Field(max_length=MAX_STRUCTURES)
    selection_structures: Objects = Field(default_factory=list, max_length=MAX_STRUCTURES)
    coverage: dict[Name, tuple[float, float]] = Field(default_factory=dict)
    quality: list[Quality] = Field(default_factory=list, max_length=MAX_QUALITY)
    encoder: EncoderCard
    denoiser: Name
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
    @float32_default()
    def from_pretrained(cls, folder: Path | str, device: str = "cpu") -> Self:
        """Load a generator that `save_pretrained` wrote.

        Raises:
            GenflowError: a file is missing, truncated or foreign.
        """
        folder, card = load_card(Path(folder))
        path = inside(folder, TENSORS)
        tensors, _ = read_tensors(path)
        encoder = card.encoder.load(_part(tensors, "encoder."), path)
        denoiser_cls = registry().load("denoiser", card.denoiser)
        options = validate(denoiser_cls.Config, card.denoiser_options, f"denoiser {card.denoiser!r}")
        sizes = {"latent_size": card.latent_size, "condition_size": card.condition_size}
        denoiser = filled(lambda: denoiser_cls(options, **sizes), _part(tensors, "denoiser."), path)
        mean, std = (
            finite_float(tensors.get(name, torch.tensor(torch.nan)), f"{path}: {name}")
            for name in ("latent_mean", "latent_std")
        )
        size = (card.latent_size,)
        if (encoder.latent_size,) != size or mean.shape != size or std.shape != size or not (std > 0).all():
            raise GenflowError(
                f"{path} does not fit {CARD}: latent_mean and latent_std must be of the latent size, and"
                " latent_std positive"
            )
        return cls(
            card, encoder.to(device).eval(), denoiser.to(device).eval(), mean.to(device), std.to(device)
        )

    @float32_default()
    def rounded(self) -> Generator:
        """A copy with every parameter rounded to float16.

        `save_pretrained(half=True)` stores it without further loss.
        """
        other = copy.deepcopy(self)
        with torch.no_grad():
            for parameter in (*other.encoder.parameters(), *other.denoiser.parameters()):
                parameter.copy_(parameter.half())
        return other

    def save_pretrained(self, folder: Path | str, half: bool = False) -> None:
        """Write ``generator.safetensors`` and its model card ``generator.json``.

        Args:
            folder: where to.
            half: store parameters as float16, which halves the file; buffers and computation stay in float32.

        Raises:
            GenflowError: a file cannot be written.
        """
        folder = Path(folder)
        tensors = {"latent_mean": self.latent_mean, "latent_std": self.latent_std}
        for part, module in (("encoder", self.encoder), ("denoiser", self.denoiser)):
            tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
            if half:
                tensors |= {f"{part}.{name}": each.half() for name, each in module.named_parameters()}
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
        for kind, asked, known in (
            ("environment", structure.env, card.env),
            ("policy", structure.policy, card.policy),
        ):
            if asked != known:
                raise GenflowError(
                    f"this generator was trained on {kind} {known!r}, not on {asked!r}; train one with"
                    f" --env {structure.env}"
                )
        coverage.check(structure, card.training_structures, card.coverage)
        if structure.condition().numel() != card.condition_size:
            raise GenflowError(
                f"this generator reads {card.condition_size} conditions, but {structure.env!r} now gives"
                f" {structure.condition().numel()};"
                " train it anew"
            )
        self.encoder.check(structure.layout)

    @cached_property
    def training_structures(self) -> list[Structure]:
        """Every structure of the zoo."""
        return [
            Structure.restore(self.card.env, fields, self.card.policy)
            for fields in self.card.training_structures
        ]

    def caution(self, structure: Structure) -> str | None:
        """A warning if the structure is at the edge of what this generator was trained on."""
        return coverage.caution(structure, self.training_structures, self.card.quality)

    @float32_default()
    def generate(
        self,
        structure: Structure,
        num: int,
        seed: int = 0,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Population:
        """Generate `num` policies for a structure.

        Several workers decode a part of them each, and all return the whole.

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
        sampling = validate(
            SamplingOptions, {**(sampling or self.card.sampling).model_dump(), **overrides}, "sampling"
        )
        began = time.perf_counter()
        # drawn on the CPU, so that a seed gives the same policies on every device
        rng = torch.Generator().manual_seed(seed)
        condition = structure.condition().to(self.device)
        latents = sample_latents(self.denoiser, condition, num, self.card.noise, sampling, rng)
        latents = latents * self.latent_std + self.latent_mean
        rows = world().rows(num)
        with torch.no_grad():
            weights = torch.zeros(num, structure.layout.size, dtype=torch.float32)
            if rows.start < rows.stop:
                weights[rows] = self.encoder.decode(latents[rows], structure.layout, condition).float().cpu()
        world().all_reduce(weights)
        if not torch.isfinite(weights).all():
            raise GenflowError(
                "the generated weights are not finite; lower the guidance, or use another sampler or more"
                " steps"
            )
        provenance = {
            "source": "generated",
            "training_structures": self.card.training_structures,
            "seed": seed,
            "seconds": time.perf_counter() - began,
            "sampling": sampling.model_dump(mode="json"),
        }
        return Population(structure, weights, provenance)


def load_card(folder: Path) -> tuple[Path, Card]:
    """Find a generator and read its model card: in `folder`, or in the ``generator`` inside a run.

    Raises:
        GenflowError: there is none, or it is of another format.
    """
    if not exists(folder / CARD) and exists(folder / "generator" / CARD):
        folder = inside(folder, "generator")
    if not exists(folder / CARD):
        raise GenflowError(
            f"{folder} holds no generator ({CARD} is missing); train one with `genflow train-ldm` or"
            " `genflow run`"
        )
    path = inside(folder, CARD)
    facts = read_json(path)
    if facts.get("format") == OLD_FORMAT:
        raise GenflowError(
            f"{path} was written by the first edition; convert it with `genflow convert {folder} --out DIR`"
        )
    if facts.get("format") != FORMAT:
        raise GenflowError(f"{path} has format {brief(facts.get('format'))!r}, this genflow reads {FORMAT!r}")
    return folder, validate(Card, facts, str(path))


def shipped(env: str) -> list[Path]:
    """The folders of the generators that ship with an environment.

    Raises:
        GenflowError: the environment is unknown, or names a package that is not there.
    """
    folders = []
    for target in registry().load("environment", env).pretrained:
        package, _, folder = target.partition(":")
        try:
            folders.append(
                Path(str(resources.files(package).joinpath(folder)))
            )  # files on disk: packages are installed unzipped
        except ModuleNotFoundError as error:
            raise GenflowError(
                f"environment {env!r} says that a generator ships in {target!r}, but {error}"
            ) from error
    return folders


def filled(build: Callable[[], M], tensors: Mapping[str, Tensor], path: Path) -> M:
    """The module that a card describes with the tensors of a file.

    Raises:
        GenflowError: the card is impossible, or the tensors are of other names, shapes or kinds, or not
            finite.
    """
    try:
        # on the meta device first: a wrong card must not make us allocate more than the file holds
        with torch.device("meta"):
            own = build().state_dict()
        shapes, found = ({name: tensor.shape for name, tensor in each.items()} for each in (own, tensors))
        if shapes != found:
            odd = min(name for name in {*shapes, *found} if shapes.get(name) != found.get(name))
            raise ValueError(f"tensor {brief(odd)!r} is missing, extra or of another shape")
        floats = {
            n: finite_float(t, f"{path}: tensor {n!r}") if own[n].is_floating_point() else t
            for n, t in tensors.items()
        }
        module = build().float()  # whatever torch's default is
        module.load_state_dict(floats)
    except _UNFIT as error:
        raise GenflowError(
            f"{path} does not fit its card: {type(error).__name__}: {brief(str(error), 400)}"
        ) from error
    return module


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
