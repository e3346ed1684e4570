"""Where generators are found: those that ship by name, others by folder or by their id on a hub."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

from genflow.errors import GenflowError
from genflow.registry import registry
from genflow.schema import brief
from genflow.storage.files import StrPath

CARD = "generator.json"
TENSORS = "generator.safetensors"
#: a repository of the Hugging Face hub, user/repository
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def shipped(env: str) -> list[Path]:
    """Return the folders of the pretrained generators that ship with an environment.

    Raises:
        GenflowError: the environment is unknown, or names a package that is not installed.
    """
    folders = []
    for target in registry().load("environment", env).pretrained:
        package, _, folder = target.partition(":")
        try:
            # packages are installed unzipped, so that the resource is a folder on disk
            folders.append(Path(str(resources.files(package).joinpath(folder))))
        except ModuleNotFoundError as error:
            raise GenflowError(
                f"environment {env!r} says that a generator ships in {target!r}, but {error}"
            ) from error
    return folders


def locate(name: StrPath) -> Path:
    """Return the folder of a generator, which is downloaded if it is on a hub.

    Args:
        name: a folder; an environment, for the first generator that ships with it; ``environment/name``, for
            another; or the id ``user/repository`` of one on the Hugging Face hub. A folder that exists wins,
            then what ships.

    Raises:
        GenflowError: it is none of them, or cannot be downloaded.
    """
    path = Path(name)
    text = path.as_posix()
    if os.path.exists(path) or path.is_absolute() or os.fspath(name).startswith((".", "~")):
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
    if HUB_ID.fullmatch(text):
        if os.path.isdir(first):
            raise GenflowError(
                f"{text} is no folder, although {first} is one, so it is not looked for on a hub; correct the"
                f" path, or call from a folder without {first!r} to download {text}"
            )
        return _downloaded(text)
    raise GenflowError(
        f"{brief(text)} is no folder, no id of a hub (user/repository) and no generator that ships, which are"
        f" {_all_shipped()}; a folder must hold {CARD} and {TENSORS}"
    )


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


def _downloaded(repository: str) -> Path:
    """Download the two files of a generator, or find them again, and return their folder.

    They are kept under huggingface_hub's own home, as files and not as the links of its cache, because a
    generator's files must not lead out of their folder.

    Raises:
        GenflowError: huggingface_hub is not installed, or the repository cannot be had or holds none.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError as error:
        raise GenflowError(
            f"{repository} is no folder here, and to download it huggingface_hub is needed: pip install"
            " huggingface_hub"
        ) from error
    home = Path(huggingface_hub.constants.HF_HOME) / "genflow" / repository
    where = f"cannot download {repository}, which is no folder here"
    try:
        folder = huggingface_hub.snapshot_download(repository, allow_patterns=[CARD, TENSORS], local_dir=home)
    except GatedRepoError as error:
        raise GenflowError(f"{where}: access is restricted; ask for it at the hub and log in") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise GenflowError(
            f"{where}: the hub has no such repository, or not for you; check the spelling"
        ) from error
    except LocalEntryNotFoundError as error:
        raise GenflowError(f"{where}: the hub cannot be reached; go online, or give a folder") from error
    except EntryNotFoundError as error:
        raise GenflowError(f"{where}: {brief(str(error))}") from error
    # httpx's and requests' errors derive from OSError or Exception by version
    except Exception as error:
        raise GenflowError(f"{where}: {type(error).__name__}: {brief(str(error))}") from error
    missing = [name for name in (CARD, TENSORS) if not os.path.isfile(Path(folder) / name)]
    if missing:
        raise GenflowError(f"{repository} on the hub holds no generator: {missing[0]} is missing")
    return Path(folder)
