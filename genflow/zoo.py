"""Populations on disk, and `Zoo`: one folder a structure, each a population.

A population's folder holds ``population.safetensors`` (the policy's ``state_dict()`` names, each tensor with a leading M)
and ``population.json`` (environment, structure, policy, provenance).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field

from genflow.errors import GenflowError
from genflow.population import Population
from genflow.runs import read_json, read_tensors, write_json, write_tensors
from genflow.schema import Schema, validate
from genflow.structure import Structure

TENSORS = "population.safetensors"
FACTS = "population.json"
#: how deep `find_populations` looks: a run directory holds zoo/<structure>/
DEPTH = 3


class Budget(Schema):
    """What a training spent."""

    model_config = ConfigDict(extra="ignore")

    objective: str
    steps: int
    batch_size: int


class Provenance(Schema):
    """The keys of a provenance that other code reads; a population may carry more."""

    model_config = ConfigDict(extra="ignore")

    source: str = "trained"
    started_from: str | None = None
    training_structures: list[dict[str, Any]] = Field(default_factory=list)
    seconds: float | None = None
    budget: Budget | None = None
    members: list[dict[str, Any]] | None = None


def save_population(population: Population, folder: Path) -> None:
    """Write a population; the JSON comes last, so a folder with it is whole."""
    write_tensors(folder / TENSORS, population.state_dict(), {"format": "genflow-population-1"})
    write_json(folder / FACTS, {**population.structure.to_json(), "num": len(population), "provenance": dict(population.provenance)})


def load_population(folder: Path) -> Population:
    """Read a population.

    Raises:
        GenflowError: a file is missing, truncated or foreign, or the tensors do not fit the structure.
    """
    structure, facts = read_facts(folder)
    tensors, _ = read_tensors(folder / TENSORS)
    shapes = structure.layout.shapes
    num = len(next(iter(tensors.values()))) if tensors and next(iter(tensors.values())).ndim else 0
    if tensors.keys() != shapes.keys():
        odd = sorted(tensors.keys() ^ shapes.keys())[0]
        raise GenflowError(
            f"{folder / TENSORS} does not fit structure {structure.name}: tensor {odd!r} is {'extra' if odd in tensors else 'missing'}"
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != (num, *shape) or not num:
            raise GenflowError(f"{folder / TENSORS}: tensor {name!r} has shape {tuple(tensors[name].shape)}, expected (M, {str(shape)[1:]}")
        if not tensors[name].dtype.is_floating_point or not torch.isfinite(tensors[name]).all():
            raise GenflowError(f"{folder / TENSORS}: tensor {name!r} must hold finite floating-point numbers")
    members = facts["provenance"].get("members")
    if members is not None and len(members) != num:
        raise GenflowError(f"{folder / FACTS}: 'provenance.members' must list an object for each of the {num} policies")
    return Population(structure, structure.layout.flatten(tensors).float(), facts["provenance"])


def read_facts(folder: Path) -> tuple[Structure, dict[str, Any]]:
    """Read what ``population.json`` says, without the weights: the structure, and the whole object with a checked provenance.

    Raises:
        GenflowError: the file is missing or malformed, or names something that is not installed.
    """
    path = folder / FACTS
    facts = read_json(path)
    facts.setdefault("provenance", {})
    if not isinstance(facts["provenance"], dict):
        raise GenflowError(f"{path}: 'provenance' must be an object")
    validate(Provenance, facts["provenance"], f"{path}: provenance")
    try:
        return Structure.from_json(facts), facts
    except GenflowError as error:
        raise GenflowError(f"{path}: {error}") from error


def find_populations(folder: Path) -> list[Path]:
    """Folders at or under `folder` that hold a population, sorted.

    Raises:
        GenflowError: `folder` does not exist.
    """
    if not folder.is_dir():
        raise GenflowError(f"{folder} is no folder; give one that holds {FACTS}, a zoo or a run")
    level, found = [folder], []
    for _ in range(DEPTH):
        found += [path for path in level if (path / FACTS).exists()]
        level = [child for path in level for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")]
    return sorted(found)


class Zoo:
    """Many populations on disk, loaded when they are asked for."""

    def __init__(self, folder: Path | str) -> None:
        """Open a zoo, or the ``zoo`` inside a run directory.

        Raises:
            GenflowError: there is no population in it.
        """
        folder = Path(folder)
        self.folder = folder / "zoo" if (folder / "zoo").is_dir() else folder
        self._folders = find_populations(self.folder)
        if not self._folders:
            raise GenflowError(f"{folder} holds no populations; make a zoo with `genflow train-zoo --out {folder}`")
        self._loaded: list[Population] | None = None

    @property
    def populations(self) -> list[Population]:
        """All populations, one a structure, in the order of their folders.

        Raises:
            GenflowError: a population cannot be read.
        """
        if self._loaded is None:
            self._loaded = [load_population(folder) for folder in self._folders]
        return self._loaded

    @property
    def structures(self) -> list[Structure]:
        """The structures that have a population."""
        return [population.structure for population in self.populations]

    def get(self, structure: Structure) -> Population | None:
        """The population of a structure, or None."""
        return next((p for p in self.populations if p.structure == structure), None)

    def only(self, structures: Sequence[Structure]) -> Zoo:
        """The same zoo, restricted to some structures."""
        zoo = Zoo(self.folder)
        zoo._loaded = [p for p in self.populations if p.structure in structures]
        return zoo
