"""Where generators are found: those that ship by name, others by folder or by their id on a hub."""

from __future__ import annotations

import os
from importlib import resources
from os.path import exists  # Path.exists raises for a path without permission
from pathlib import Path
from typing import Any

from genflow.errors import GenflowError
from genflow.hub import HUB_ID, PREFIX, download
from genflow.model_card import Card
from genflow.registry import registry
from genflow.schema import brief, validate
from genflow.storage.files import StrPath, read_json
from genflow.storage.populations import inside

CARD = "generator.json"
TENSORS = "generator.safetensors"
FORMAT = "genflow-generator-2"
#: the format of genflow's first edition
OLD_FORMAT = "genflow-generator-1"


def shipped(env: str) -> list[Path]:
    """Return the folders of the pretrained generators that ship with an environment.

    Raises:
        GenflowError: the environment is unknown, or names a package that is not installed.
    """
    targets = registry().load("environment", env).pretrained
    return [packaged(target, f"environment {env!r} says that a generator ships") for target in targets]


def packaged(target: str, says: str) -> Path:
    """Return the folder that ``"package:folder"`` names, whether or not it exists.

    Args:
        target: the folder.
        says: how the error begins.

    Raises:
        GenflowError: the package is not installed.
    """
    package, _, folder = target.partition(":")
    try:
        # packages are installed unzipped, so that the resource is a folder on disk
        return Path(str(resources.files(package).joinpath(folder)))
    except (ModuleNotFoundError, ValueError) as error:
        raise GenflowError(f"{says} in {target!r}, but {error}") from error


def locate(name: StrPath, revision: str | None = None, **hub: Any) -> Path:
    """Return the folder of a generator, which is downloaded if it is on a hub.

    Args:
        name: a folder; an environment, for the first generator that ships with it; ``environment/name``, for
            another; or the id ``user/repository`` or ``user/repository@revision`` of one on the Hugging Face
            hub. A folder that exists wins, then what ships; ``hf://`` before an id leaves only the hub.
        revision: a branch, tag or commit, for what is on a hub.
        hub: further options of `genflow.hub.download`.

    Raises:
        GenflowError: it is none of them, cannot be downloaded, or has no revisions.
    """
    given = os.fspath(name)
    text = given if given.startswith(PREFIX) else Path(given).as_posix()
    on_hub = HUB_ID.fullmatch(text.removeprefix(PREFIX))
    if not text.startswith(PREFIX):
        here = _local(given, text, on_hub is not None)
        if here is not None:
            if revision is not None:
                raise GenflowError(
                    f"{brief(text)} is no repository of a hub, so it has no revision; leave it out"
                )
            return here
    if on_hub is None:
        raise GenflowError(
            f"{brief(text)} is no folder, no id of a hub (user/repository) and no generator that ships, which"
            f" are {_all_shipped()}; a folder must hold {CARD} and {TENSORS}"
        )
    repository, named = on_hub.groups()
    if named and revision not in (None, named):
        raise GenflowError(f"{text} names another revision than {brief(revision)}; leave one of them out")
    return download(repository, (CARD, TENSORS), revision=named or revision, **hub)


def _local(given: str, text: str, on_hub: bool) -> Path | None:
    """Return the folder that a name is here or ships as, or None if it may be on a hub.

    Raises:
        GenflowError: it looks as if it were one of them, and is not there.
    """
    path = Path(given)
    if not os.path.exists(path):
        path = Path(os.path.expanduser(path))  # unlike Path.expanduser, leaves an unknown user's as it is
    if os.path.exists(path) or path.is_absolute() or given.startswith((".", "~")):
        return path
    first, slash, rest = text.partition("/")
    if first in registry().names("environment"):
        names = {folder.name: folder for folder in shipped(first)}
        if not slash and names:
            return next(iter(names.values()))
        if rest in names:
            return names[rest]
        known = ", ".join(f"{first}/{each}" for each in names) or "none"
        raise GenflowError(
            f"there is no folder {brief(text)!r} here, and no such generator ships with environment"
            f" {first!r}, which has: {known}"
        )
    if on_hub and os.path.isdir(first):
        raise GenflowError(
            f"{text} is no folder, although {first} is one, so it is not looked for on a hub; correct the"
            f" path, or write {PREFIX}{text} to download it"
        )
    return None


def require_plugins(path: Path, **named: str) -> None:
    """Refuse a file that names something, by its kind, that no plugin registers.

    Raises:
        GenflowError: says which, and what to do.
    """
    for kind, name in named.items():
        try:
            registry().load(kind, name, saved=True)
        except GenflowError as error:
            raise GenflowError(f"{path}: {error}") from error


def _all_shipped() -> str:
    found = []
    for env in registry().names("environment"):
        try:
            found += [f"{env}/{folder.name}" for folder in shipped(env)]
        except GenflowError:  # of an environment that cannot be used, nothing can be loaded
            continue
    return ", ".join(found) or "none"


def load_card(name: StrPath, **where: Any) -> tuple[Path, Card]:
    """Read the model card of the generator of a name, or in the ``generator`` folder of a run.

    The name and further options are those of `locate`.

    Raises:
        GenflowError: nothing has this name, or the folder has no generator, one of another format, or one
            whose environment or policy is not registered.
    """
    folder = locate(name, **where)
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
    card = validate(Card, facts, str(path))
    require_plugins(path, environment=card.env, policy=card.policy)
    return folder, card
