"""The configuration of every command, which merges defaults, a TOML file and the command line.

The command line overrides the file, and the file overrides the defaults. An unknown key is an error that
suggests the nearest known one.
"""

from __future__ import annotations

import contextlib
import copy
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from genflow.distributed.process_group import require_gpu_for_each_worker
from genflow.errors import GenflowError
from genflow.given import read_structure
from genflow.noise import Sampler
from genflow.registry import defaults, registry
from genflow.schema import Schema, validate
from genflow.storage.files import read_json
from genflow.storage.runs import PLUGIN_FILES
from genflow.structure import Structure
from genflow.tracking import TrackingOptions
from genflow.training.autoencoder import AutoencoderOptions
from genflow.training.diffusion import DiffusionOptions
from genflow.training.finetune import FinetuneOptions
from genflow.training.options import ZooOptions


class GenerateOptions(Schema):
    """How policies are generated."""

    num: int = Field(
        default=8, ge=1, le=100_000, description="The number of policies to generate for each structure."
    )
    sampler: Sampler | None = Field(
        default=None, description="The diffusion sampler; None means the one on the generator's model card."
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="The number of sampling steps; None means the number on the model card.",
    )
    guidance: float | None = Field(
        default=None,
        ge=0,
        description="The scale of classifier-free guidance; None means the scale on the model card.",
    )


class EvaluationOptions(Schema):
    """Which metrics are computed, and which baselines are compared with."""

    metrics: tuple[str, ...] = Field(
        default=(), description="Registered names of metrics; an empty list means every metric that applies."
    )
    baselines: tuple[Literal["random", "uniform", "mean", "nearest", "perturbed"], ...] = Field(
        default=("random", "mean", "nearest", "perturbed"),
        description="The baselines that are measured beside the policies.",
    )
    num: int = Field(default=8, ge=1, le=100_000, description="The number of policies of each baseline.")
    noise: float = Field(
        default=0.1,
        ge=0,
        description='Standard deviation of the noise of "perturbed", relative to that of each tensor.',
    )
    pretrained: bool = Field(
        default=False,
        description="Whether `genflow run` also measures policies of the generator that ships.",
    )


class Config(Schema):
    """All options of a run."""

    env: str = Field(min_length=1, description="Registered name of the environment.")
    policy: str = Field(min_length=1, description="Registered name of the policy architecture.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="The seed of all random numbers.")
    device: str = Field(
        default="auto", description='"auto", which prefers a GPU, or a torch device such as "cpu" or "cuda".'
    )
    structures: tuple[str | dict[str, Any], ...] = Field(
        default=(), description="The structures that are trained on."
    )
    selection_structures: tuple[str | dict[str, Any], ...] = Field(
        default=(), description="Structures that are only measured, to choose between options of training."
    )
    test_structures: tuple[str | dict[str, Any], ...] = Field(
        default=(), description="Structures that are only generated and evaluated."
    )
    coverage: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="Lowest and highest value of a field that the generator serves; others are refused.",
    )
    train_tests: bool = Field(
        default=True, description="Whether the test structures are also trained from scratch, to compare."
    )
    zoo: ZooOptions = ZooOptions()
    autoencoder: AutoencoderOptions
    diffusion: DiffusionOptions
    generate: GenerateOptions = GenerateOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    finetune: FinetuneOptions = FinetuneOptions()
    tracking: TrackingOptions = TrackingOptions()

    @field_validator("coverage")
    @classmethod
    def _ranges_in_order(cls, coverage: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for key, (low, high) in coverage.items():
            if low > high:
                raise ValueError(f"{key} must be [lowest, highest], not [{low:g}, {high:g}]")
        return coverage

    def training_structures(self) -> list[Structure]:
        """Return the structures to train on, by default those that the environment names.

        Raises:
            GenflowError: a structure is invalid, or none is named and the environment has no defaults.
        """
        named = self.structures or registry().load("environment", self.env).default_structures
        if not named:
            raise GenflowError(
                f"environment {self.env!r} has no default structures; name some with --structure"
            )
        return self._build(named)

    def validation_structures(self, training: Sequence[Structure]) -> list[Structure]:
        """Return the structures that training options are selected on.

        Args:
            training: the structures that the generator is trained on.

        Raises:
            GenflowError: a structure is invalid, or is trained on too.
        """
        return require_disjoint("selection", self._build(self.selection_structures), training, "trained on")

    def unseen_structures(self, training: Sequence[Structure]) -> list[Structure]:
        """Return the structures that are only generated and evaluated.

        Arguments and errors are those of `validation_structures`.
        """
        tests = require_disjoint("test", self._build(self.test_structures), training, "trained on")
        return require_disjoint("test", tests, self._build(self.selection_structures), "selected on")

    def _build(self, named: Sequence[str | dict[str, Any]]) -> list[Structure]:
        structures = []
        for item in named:
            structure = read_structure(self.env, item, self.policy)
            if structure in structures:
                raise GenflowError(f"structure {structure.name} is named twice")
            structures.append(structure)
        return structures

    def torch_device(self) -> str:
        """Return the torch device to compute on.

        Raises:
            GenflowError: the device is not available or has no float64, or workers outnumber GPUs.
        """
        require_gpu_for_each_worker(self.device)
        if self.device == "auto":  # each worker has chosen its own GPU
            return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
        if self.device.partition(":")[0] == "mps":
            raise GenflowError(
                "device 'mps' has no float64, which rewards and exact figures need; use -o device=cpu"
            )
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise GenflowError(
                f"device {self.device!r} cannot be used: {str(error).splitlines()[0]}"
            ) from error
        return self.device


def require_disjoint(
    role: str, structures: list[Structure], others: Sequence[Structure], use: str
) -> list[Structure]:
    """Return the structures, after a check that none of them is also among the others.

    Args:
        role: what the structures are for, in an error message.
        structures: the list to check.
        others: the list that it must not overlap.
        use: what the others are for, in an error message.

    Raises:
        GenflowError: a structure is in both lists.
    """
    for structure in structures:
        if structure in others:
            raise GenflowError(
                f"{role} structure {structure.name} is also {use}; remove it from one of the lists"
            )
    return structures


def load_config(
    file: Path | str | None = None, *, origins: Mapping[str, str] | None = None, **overrides: Any
) -> Config:
    """Build a configuration.

    Args:
        file: a TOML file, or the ``run.json`` of a run to repeat, or None.
        origins: where overrides were given, e.g. ``{"zoo.num": "--num"}``, for messages; others are named by
            their key.
        overrides: values by key, with dots in nested keys, e.g. ``**{"zoo.steps": 300}``. A value of None
            is ignored.

    Raises:
        GenflowError: the file cannot be read, a key is unknown, or a value does not fit.
    """
    values = defaults()
    del values["new_plugin"]  # the rest are options
    if file is not None:
        _merge(values, _read(Path(file)))
    below = copy.deepcopy(values)
    given = {tuple(key.split(".")): value for key, value in overrides.items() if value is not None}
    for (*sections, last), value in given.items():
        _merge(values, _nested(sections, {last: value}))
    if "env" not in values:
        raise GenflowError("no environment is named; give --env NAME (see `genflow list-plugins`)")

    def where(place: Sequence[str]) -> str:
        """Return what gave the wrong value: an override, or the file that it was laid over."""
        for path in reversed(given):  # the last one counts
            if path[: len(place)] == tuple(place) or path == tuple(place[: len(path)]):
                key = ".".join(path)
                # values that are wrong together are the file's fault where they are so without the override
                if len(path) <= len(place) or not _wrong_at(place, {**below, "env": values["env"]}):
                    return (origins or {}).get(key, f"option {key}")
        return "configuration" if file is None else str(file)

    return validate(Config, values, where)


def _wrong_at(place: Sequence[str], values: Mapping[str, Any]) -> bool:
    """Return whether values are wrong at a place."""
    found: list[tuple[str, ...]] = []

    def note(at: Sequence[str]) -> str:
        found.append(tuple(at))
        return ""

    with contextlib.suppress(GenflowError):
        validate(Config, values, note)
    return tuple(place) in found


def parse_override(text: str) -> tuple[str, Any]:
    """Parse ``section.key=value`` into its key and value.

    The value is read as TOML, and taken as plain text if it is not valid TOML.

    Raises:
        GenflowError: the text has no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise GenflowError(f"-o {text!r} is not section.key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return key.strip(), value.strip()


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        config = read_json(path).get("config")
        if not isinstance(config, dict) or "env" not in config or "diffusion" not in config:
            raise GenflowError(
                f"{path} holds no configuration to repeat; give the run.json of `genflow run`, or a TOML file"
            )
        # of the code that there was: what repeats the run uses that of today
        return {key: value for key, value in config.items() if key != PLUGIN_FILES}
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise GenflowError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GenflowError(f"{path} is not valid TOML: {error}") from error


def _nested(sections: Sequence[str], leaf: dict[str, Any]) -> dict[str, Any]:
    for section in reversed(sections):
        leaf = {section: leaf}
    return leaf


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
