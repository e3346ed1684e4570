"""Populations on disk, each a folder with ``population.safetensors`` and ``population.json``.

The tensors have the names of the policy's ``state_dict()`` and the shapes (M, *shape). The JSON file holds
environment, structure, policy and provenance.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from genflow.errors import GenflowError
from genflow.layout import tensor_difference
from genflow.schema import Name, Objects, Schema, brief, validate
from genflow.storage.files import StrPath, read_json, read_tensors, write_json, write_tensors
from genflow.structure import Structure

TENSORS = "population.safetensors"
FACTS = "population.json"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: the name of a content in a cache of huggingface_hub, which nobody knows who does not know the content
HASH = re.compile(r"[0-9a-f]{32,64}")
#: the folders of a fine-tuning: the policies that it was given, and a random start beside them
TRAININGS = ("finetuned", "from_random")
#: the levels of folders that `find_populations` searches, as a run directory has zoo/<structure>/
DEPTH = 3


class Budget(Schema):
    """The budget of a training run."""

    model_config = ConfigDict(extra="ignore")

    objective: Name
    steps: int
    batch_size: int
    reward_calls: int | None = None


class Provenance(Schema):
    """The keys of a provenance that genflow reads, beside which a population may have others."""

    model_config = ConfigDict(extra="ignore")

    source: Name = "trained"
    started_from: Name | None = None
    training_structures: Objects = Field(default_factory=list)
    seconds: float | None = Field(default=None, ge=0, le=1e12, strict=True)
    budget: Budget | None = None
    members: Objects | None = None


def write_policies(
    folder: StrPath, structure: Structure, weights: Tensor, provenance: Mapping[str, Any]
) -> None:
    """Write the parts of a population, the JSON file last, so that a folder which has it is complete."""
    folder = Path(folder)
    tensors = structure.layout.unflatten(weights)
    write_tensors(folder / TENSORS, tensors, {"format": "genflow-population-1"})
    write_json(folder / FACTS, {**structure.to_json(), "num": len(weights), "provenance": dict(provenance)})


def read_policies(folder: StrPath, read_files: bool = False) -> tuple[Structure, Tensor, dict[str, Any]]:
    """Read the parts of a population: its structure, weights (M, D) and provenance.

    `read_files` is as for `Structure.restore`.

    Raises:
        GenflowError: a file is missing, truncated or of another format, or its tensors do not fit.
    """
    folder = Path(folder)
    structure, facts = read_facts(folder, read_files)
    path = inside(folder, TENSORS)
    tensors, _ = read_tensors(path)
    shapes = structure.layout.shapes
    num = len(next(iter(tensors.values()))) if tensors and next(iter(tensors.values())).ndim else 0
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differ = tensor_difference({name: (num, *shape) for name, shape in shapes.items()}, found)
    if differ or not num:
        raise GenflowError(
            f"{path} does not fit structure {structure.name}: it is {differ or 'without any policy'}"
        )
    if facts.get("num", num) != num:
        raise GenflowError(
            f"{folder / FACTS} says that the number of policies is {brief(facts['num'])},"
            f" {TENSORS} holds {num}; the two files do not belong together"
        )
    members = facts["provenance"].get("members")
    if members is not None and len(members) != num:
        raise GenflowError(
            f"{folder / FACTS}: 'provenance.members' must list an object for each of its policies ({num})"
        )
    finite = {name: finite_float(tensors[name], f"{path}: tensor {name!r}") for name in shapes}
    return structure, structure.layout.flatten(finite), facts["provenance"]


def convert_populations(folder: StrPath, out: StrPath) -> int:
    """Write the populations in a folder as they are saved today, at the same places under `out`.

    The first edition saved the paths of files such as a vocabulary. These files are read now.

    Returns:
        The number of populations.

    Raises:
        GenflowError: a population or a file that it names cannot be read, or `out` already holds populations.
    """
    folder, out = Path(folder), Path(out)
    found = find_populations(folder)
    if out.resolve().is_relative_to(folder.resolve()) or (out.is_dir() and find_populations(out)):
        raise GenflowError(f"{out} holds populations already, or lies in {folder}; choose another --out")
    for path in found:
        read_facts(path, read_files=True)  # all are checked before the first is written
    for path in found:
        own, weights, provenance = read_policies(path, read_files=True)
        trained_on = [
            Structure.restore(own.env, fields, own.policy, read_files=True).fields()
            for fields in provenance.get("training_structures", [])
        ]
        provenance = {**provenance, "training_structures": trained_on}
        write_policies(out / path.relative_to(folder), own, weights, provenance)
    return len(found)


def finite_float(tensor: Tensor, where: str) -> Tensor:
    """Convert a tensor of a file to float32.

    Raises:
        GenflowError: its dtype is not float16, bfloat16, float32 or float64, or a number is not finite.
    """
    if tensor.dtype in FLOATS and torch.isfinite(tensor := tensor.float()).all():
        return tensor
    raise GenflowError(f"{where} must hold finite floating-point numbers of 16, 32 or 64 bits")


def inside(folder: Path, name: str) -> Path:
    """Return the path of a name in a folder, after a check that it does not lead out of the folder.

    The author of a folder must not choose which files are read elsewhere. The folder itself may be a link. A
    snapshot in the cache of huggingface_hub consists of links to contents beside it that their hashes name:
    ``models--x/blobs/HASH``, or for several repositories ``blobs/HA/HASH``.

    Raises:
        GenflowError: the path is a symbolic link that leads out of the folder.
    """
    path, home = folder / name, Path(os.path.realpath(folder))
    found, contents = Path(os.path.realpath(path)), []
    if home.parent.name == "snapshots" and (repository := home.parents[1]).name.startswith("models--"):
        contents = [repository / "blobs", repository.parent / "blobs" / found.name[:2]]
    if not found.is_relative_to(home) and not (found.parent in contents and HASH.fullmatch(found.name)):
        raise GenflowError(f"{path} is a link that leads out of {folder}; put a copy in its place")
    return path


def read_facts(folder: StrPath, read_files: bool = False) -> tuple[Structure, dict[str, Any]]:
    """Read ``population.json`` without the weights, with `read_files` as for `Structure.restore`.

    Returns:
        The structure, and the JSON object with a validated provenance.

    Raises:
        GenflowError: the file is missing or invalid, or names something that is not installed.
    """
    path = inside(Path(folder), FACTS)
    facts = read_json(path)
    validate(Provenance, facts.setdefault("provenance", {}), f"{path}: provenance")
    try:
        return Structure.from_json(facts, read_files), facts
    except GenflowError as error:
        raise GenflowError(f"{path}: {error}") from error


def find_populations(folder: StrPath) -> list[Path]:
    """Find the folders that hold a population, `folder` itself or folders inside it, sorted.

    Raises:
        GenflowError: the folder does not exist or cannot be read, or a link in it leads out of it.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):  # Path.is_dir raises for a path without permission
        raise GenflowError(f"{folder} is no folder; give one that holds {FACTS}, a zoo or a run")
    level, found = [folder], []
    try:
        for _ in range(DEPTH):
            found += [path for path in level if (path / FACTS).exists()]
            level = [child for path in level for child in path.iterdir() if _within(child, folder)]
    except OSError as error:
        raise GenflowError(f"cannot read {folder}: {error}") from error
    return sorted(found)


def find_population(folder: StrPath) -> Path:
    """Find the folder of the one population that a folder is or holds; of a fine-tuning, the fine-tuned one.

    Raises:
        GenflowError: it holds several populations.
    """
    folder = Path(folder)
    if os.path.isfile(folder / FACTS):
        return folder
    found = find_populations(folder)
    if [path.name for path in found] == list(TRAININGS):
        return found[0]
    if len(found) > 1:
        raise GenflowError(f"{folder} holds {len(found)} populations; name one, such as {found[0]}")
    return found[0] if found else folder


def _within(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder that must be searched.

    A link to another folder in `folder` is not followed, because its target is searched anyway and links may
    form a cycle.
    """
    if path.name.startswith(".") or not path.is_dir():
        return False
    if not path.name.isprintable():
        raise GenflowError(f"{folder} holds a folder with an unprintable name, {path.name!r}; rename it")
    if path.is_symlink():
        inside(folder, str(path.relative_to(folder)))
        return False
    return True
