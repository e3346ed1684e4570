"""Functions that the stages share, for components, checks before training and fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch

from genflow import coverage
from genflow.config import Config
from genflow.distributed.world import world
from genflow.progress import Progress
from genflow.registry import registry
from genflow.schema import validate
from genflow.seeding import seeded_cpu
from genflow.storage.zoo import Zoo
from genflow.structure import Structure
from genflow.training.autoencoder import objective_of
from genflow.training.loop import NON_IDENTITY_FIELDS

T = TypeVar("T")


def resolve_component(config: Config, kind: Literal["encoder", "denoiser"]) -> tuple[type[Any], Any]:
    """Return the class and the validated options of the configured encoder or denoiser.

    Raises:
        GenflowError: the name is unknown, or an option is invalid.
    """
    section, options = (
        ("autoencoder", config.autoencoder) if kind == "encoder" else ("diffusion", config.diffusion)
    )
    name = getattr(options, kind)
    cls = registry().load(kind, name)
    # an encoder's options were options of the zoo and the autoencoder once
    renamed = {**type(config.zoo).renamed, **type(options).renamed} if kind == "encoder" else {}
    where = f"{section}.options of {kind} {name!r}"
    return cls, validate(cls.Config, options.options, where, renamed=renamed)


def check_components(config: Config) -> None:
    """Raise an error for an invalid encoder, denoiser or device before anything is trained.

    Raises:
        GenflowError: one of them is invalid.
    """
    resolve_component(config, "encoder")
    resolve_component(config, "denoiser")
    config.torch_device()


def check_plan(
    config: Config, known: Sequence[Structure], unknown: Sequence[Structure] = ()
) -> list[Structure]:
    """Check the options of the stages after the zoo before anything is trained.

    Args:
        config: all options.
        known: the structures to train on.
        unknown: further structures that the generator will be asked for.

    Returns:
        The selection structures.

    Raises:
        GenflowError: a component is invalid, or a structure is not covered.
    """
    check_components(config)
    encoder_cls, encoder_config = resolve_component(config, "encoder")
    selected = config.validation_structures(known)
    training = [structure.fields() for structure in known]
    for structure in [*known, *unknown, *selected]:
        coverage.check(structure, training, config.coverage, reads_units=encoder_cls.reads_units)
    objective_of(encoder_cls).check(encoder_config, config.autoencoder, known)
    return selected


def map_with_progress(
    items: Sequence[T],
    work: Callable[[T], Any],
    progress: Progress,
    label: str,
    cost: Callable[[T], float] = lambda item: 0.0,
) -> list[Any]:
    """Apply a function to all items by `World.map_dynamic`, with a progress bar."""
    with progress.bar(label, len(items)) as bar:
        return world().map_dynamic(items, work, cost, bar.set)


def estimated_cost(structure: Structure) -> float:
    """Estimate the cost of a structure relative to others, as parameters times inputs.

    The number of inputs stands for the length of trajectories.
    """
    return structure.layout.size * len(structure.layout.units["input"])


def zoo_digest(zoo: Zoo) -> str:
    """Return a fingerprint of a zoo's structures, weights and stored starts, from which encoders are made."""
    names = json.dumps([structure.to_json() for structure in zoo.structures], sort_keys=True)
    starts = sorted(zoo.starts.items())
    names += "".join(f"{name}{list(tensor.shape)}" for name, tensor in starts)
    weights = digest(*(p.weights for p in zoo.populations), *(tensor for _, tensor in starts))
    return hashlib.sha256((names + weights).encode()).hexdigest()[:16]


def digest(*tensors: torch.Tensor) -> str:
    """Return a fingerprint of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def seeded(seed: int, build: Callable[[], Any]) -> Any:
    """Build a module whose initial weights depend on the seed only."""
    with seeded_cpu(seed):
        return build()


def dump(options: Any) -> dict[str, Any]:
    """Return the options that identify a run, without those that may change when it is resumed."""
    return options.model_dump(mode="json", exclude=NON_IDENTITY_FIELDS)
