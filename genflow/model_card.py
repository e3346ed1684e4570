"""`Card`: everything that is known of a generator but its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from genflow import coverage
from genflow.coverage import Quality
from genflow.errors import GenflowError
from genflow.interfaces.encoder import Encoder
from genflow.noise import NoiseOptions, SamplingOptions
from genflow.registry import registry
from genflow.schema import Name, Objects, Schema, validate
from genflow.storage.modules import build_with_tensors
from genflow.structure import Structure

#: the most structures and measurements that a card may list
MAX_STRUCTURES, MAX_QUALITY = 10_000, 1000


class EncoderCard(Schema):
    """The registered name, options and spec from which an encoder is rebuilt."""

    name: Name
    options: dict[str, Any]
    spec: dict[str, Any]

    @classmethod
    def of(cls, name: str, encoder: Encoder) -> EncoderCard:
        """Create the card of an encoder."""
        return cls(name=name, options=encoder.config.model_dump(mode="json"), spec=encoder.spec())

    def build(self) -> Encoder:
        """Build an untrained encoder of the same shape."""
        encoder_cls = registry().load("encoder", self.name, saved=True)
        return encoder_cls.from_spec(
            validate(encoder_cls.Config, self.options, f"encoder {self.name!r}"), self.spec
        )

    def load(self, tensors: Mapping[str, Tensor], path: Path) -> Encoder:
        """Build the encoder and load the tensors of a file.

        Raises:
            GenflowError: the tensors do not fit the card.
        """
        return build_with_tensors(self.build, tensors, path)


class Card(Schema):
    """The model card of a generator, which holds everything except its tensors.

    `training_structures` and `selection_structures` hold the fields of the structures that were trained on
    and that training options were selected on. `coverage` maps a field to the range that the generator
    serves. `quality` holds the metrics that were measured after training.
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

    def complete(self, structure: Structure) -> Structure:
        """Return a structure in which what was left open is as in training, see `coverage.complete`."""
        return coverage.complete(structure, self.training_structures)

    def check(self, structure: Structure) -> None:
        """Refuse a structure that this generator cannot know, as far as the card tells.

        Raises:
            GenflowError: another environment or architecture, or a structure outside the coverage.
        """
        for kind, asked, known in (
            ("environment", structure.env, self.env),
            ("policy", structure.policy, self.policy),
        ):
            if asked != known:
                raise GenflowError(
                    f"this generator was trained on {kind} {known!r}, not on {asked!r}; train one with"
                    f" --env {structure.env}"
                )
        structure = self.complete(structure)
        reads_units = registry().load("encoder", self.encoder.name).reads_units
        coverage.check(structure, self.training_structures, self.coverage, reads_units)
        if structure.condition().numel() != self.condition_size:
            raise GenflowError(
                f"this generator reads {self.condition_size} conditions, but {structure.env!r} now gives"
                f" {structure.condition().numel()}; train it anew"
            )
