"""The configuration of every command: defaults < TOML file < command line.

Unknown keys are refused with a suggestion.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from genflow.distributed.process_group import require_gpu_for_each_worker
from genflow.errors import GenflowError
from genflow.noise import Sampler
from genflow.registry import registry
from genflow.schema import Schema, validate
from genflow.storage.files import read_json
from genflow.structure import Structure
from genflow.training.autoencoder import AutoencoderOptions
from genflow.training.diffusion import DiffusionOptions
from genflow.training.finetune import FinetuneOptions
from genflow.training.options import ZooOptions


class GenerateOptions(Schema):
    """How policies are generated: `num` a structure.

    The sampler, its steps and guidance (None: as trained).
    """

    num: int = Field(default=8, ge=1, le=100_000)
    sampler: Sampler | None = None
    steps: int | None = Field(default=None, ge=1, le=100_000)
    guidance: float | None = Field(default=None, ge=0)


class EvaluationOptions(Schema):
    """What is measured: `metrics` (empty: all that fit), `baselines`, and `num` policies of each baseline.

    `noise` is the standard deviation of the perturbed baseline relative to each tensor's own.
    """

    metrics: tuple[str, ...] = ()
    baselines: tuple[Literal["random", "uniform", "mean", "nearest", "perturbed"], ...] = (
        "random",
        "mean",
        "nearest",
        "perturbed",
    )
    num: int = Field(default=8, ge=1, le=100_000)
    noise: float = Field(default=0.1, ge=0)


class Config(Schema):
    """Everything that a run depends on.

    `structures` are trained on, `selection_structures` only measured to choose between recipes,
    `test_structures` only generated and evaluated; `train_tests` trains the latter from scratch too, for
    comparison. `coverage`: field -> the range that a generator is meant for; requests outside are refused.
    `policy` may be any registered architecture. `device` is "auto", "cpu", "cuda", ...
    """

    env: str = Field(min_length=1)
    policy: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: str = "auto"
    structures: tuple[str | dict[str, Any], ...] = ()
    selection_structures: tuple[str | dict[str, Any], ...] = ()
    test_structures: tuple[str | dict[str, Any], ...] = ()
    coverage: dict[str, tuple[float, float]] = Field(default_factory=dict)
    train_tests: bool = True
    zoo: ZooOptions = ZooOptions()
    autoencoder: AutoencoderOptions
    diffusion: DiffusionOptions
    generate: GenerateOptions = GenerateOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    finetune: FinetuneOptions = FinetuneOptions()

    @field_validator("coverage")
    @classmethod
    def _ranges_in_order(cls, coverage: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for key, (low, high) in coverage.items():
            if low > high:
                raise ValueError(f"{key} must be [lowest, highest], not [{low:g}, {high:g}]")
        return coverage

    def training_structures(self) -> list[Structure]:
        """The structures to train on: those named, else the environment's defaults.

        Raises:
            GenflowError: one is impossible, or none is named and the environment has no defaults.
        """
        named = self.structures or registry().load("environment", self.env).default_structures
        if not named:
            raise GenflowError(
                f"environment {self.env!r} has no default structures; name some with --structure"
            )
        return self._build(named)

    def validation_structures(self, training: Sequence[Structure]) -> list[Structure]:
        """The structures that recipes are chosen on.

        Args:
            training: what the generator is, or was, trained on.

        Raises:
            GenflowError: one is impossible, or is trained on too.
        """
        return require_disjoint("selection", self._build(self.selection_structures), training, "trained on")

    def unseen_structures(self, training: Sequence[Structure]) -> list[Structure]:
        """The structures that are only generated and evaluated.

        Arguments and errors as for `validation_structures`.
        """
        tests = require_disjoint("test", self._build(self.test_structures), training, "trained on")
        return require_disjoint("test", tests, self._build(self.selection_structures), "selected on")

    def _build(self, named: Sequence[str | dict[str, Any]]) -> list[Structure]:
        structures = []
        for item in named:
            structure = (
                Structure.parse(self.env, item, self.policy)
                if isinstance(item, str)
                else Structure.build(self.env, item, self.policy)
            )
            if structure in structures:
                raise GenflowError(f"structure {structure.name} is named twice")
            structures.append(structure)
        return structures

    def torch_device(self) -> str:
        """The device to compute on.

        Raises:
            GenflowError: it is not there, or there are more workers than GPUs.
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
    for structure in structures:
        if structure in others:
            raise GenflowError(
                f"{role} structure {structure.name} is also {use}; remove it from one of the lists"
            )
    return structures


def load_config(file: Path | str | None = None, **overrides: Any) -> Config:
    """Build a configuration.

    Args:
        file: a TOML file, or the ``run.json`` of a run to repeat, or None.
        overrides: top-level keys, and nested ones with dots, e.g. ``**{"zoo.steps": 300}``; None means "not
            given".

    Raises:
        GenflowError: the file cannot be read, a key is unknown, or a value does not fit.
    """
    values = tomllib.loads(resources.files("genflow").joinpath("defaults.toml").read_text())
    where = "configuration"
    if file is not None:
        where = str(file)
        _merge(values, _read(Path(file)))
    for key, value in overrides.items():
        if value is not None:
            *sections, last = key.split(".")
            _merge(values, _nested(sections, {last: value}))
    if "env" not in values:
        raise GenflowError("no environment is named; give --env NAME (see `genflow list-plugins`)")
    return validate(Config, values, where)


def parse_override(text: str) -> tuple[str, Any]:
    """Parse ``section.key=value``; the value is TOML, and text where it is not.

    Raises:
        GenflowError: there is no ``=``.
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
        return config
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
