"""Run directories, which record the configuration beside the results and belong to one run each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from genflow.distributed.process_group import may_replace_workers
from genflow.distributed.world import world
from genflow.errors import GenflowError
from genflow.plugin_files import file_digests
from genflow.schema import brief
from genflow.storage.files import (
    TEMPORARY_SUFFIX,
    StrPath,
    finite,
    read_json,
    told_in_one_line,
    write_json,
)
from genflow.storage.score_files import FOLDER
from genflow.version import __version__

MANIFEST = "run.json"
FORMAT = "genflow-run-2"
#: in a run's configuration, the digests of the plugin files that it was made with
PLUGIN_FILES = "plugin_files"
#: the folder of the workers' logs
LOGS = "logs"
#: seconds that restarted workers wait for the lock of the workers before them
LOCK_WAIT_SECONDS = 60.0
_LOCK = ".lock"
#: the most differences of two runs in a message
MAX_DIFFERENCES = 3
#: stage -> the option by which later commands take what a run of it has made
_TAKEN_BY = {"zoo": "--zoo", "autoencoder": "--autoencoder"}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version(), "genflow": __version__}
    for package in ("torch", "torchgfn", "diffusers", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


class RunDirectory:
    """A folder that belongs to one run with one configuration.

    It is locked inside ``with RunDirectory.open(...) as run``. The same run may open it again, to resume or
    to find that it is `complete`, and any other run is an error. Of several workers, rank 0 holds the lock
    and writes.
    """

    def __init__(self, path: StrPath, manifest: dict[str, Any]) -> None:
        self.path = Path(path)
        self.manifest = manifest

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        path: StrPath,
        stage: str,
        config: Mapping[str, Any],
        seed: int,
        prepared: Collection[str] = (),
    ) -> Iterator[RunDirectory]:
        """Create or reopen a run directory, and hold its lock inside the context.

        Args:
            path: the folder.
            stage: kind of run, e.g. "zoo".
            config: JSON-serialisable values that identify the run.
            seed: seed of the run.
            prepared: names of files that the run writes before its first result. A run that fails with
                nothing else in the folder has produced nothing, and leaves the folder free for another.

        Raises:
            GenflowError: the folder holds another run or other files, or is in use.
        """
        path = Path(path)
        code = file_digests()  # what such plugins compute may change without a new version
        more = {PLUGIN_FILES: code} if code else {}
        identity = {"stage": stage, "seed": seed, "config": finite({**config, **more})}
        with told_in_one_line():
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
        with contextlib.ExitStack() as held:

            def enter() -> dict[str, Any]:
                with told_in_one_line():
                    return held.enter_context(_locked_manifest(path, identity))

            manifest = world().on_rank_zero(enter)
            try:
                with world().log_to(path / LOGS):
                    yield cls(path, manifest)
            except Exception:
                if world().is_rank_zero and not manifest["complete"]:
                    _remove_if_empty(path, made, prepared)
                raise

    @staticmethod
    def require_free(path: StrPath, stage: str) -> None:
        """Raise `GenflowError` for a folder that holds something else than a run of a stage, or scores."""
        path = Path(path)
        if (path / MANIFEST).exists():
            found = read_json(path / MANIFEST).get("stage", stage)
            if found != stage:
                raise GenflowError(f"{path} holds another run (stage {found!r}); choose another --out")
        else:
            _require_empty(path, stage)

    @property
    def complete(self) -> bool:
        """Whether the run has finished."""
        return bool(self.manifest["complete"])

    def update(self, **facts: Any) -> None:
        """Add values to the manifest."""
        self.manifest.update(facts)
        world().on_rank_zero(lambda: write_json(self.path / MANIFEST, self.manifest))


def _remove_if_empty(path: Path, made: Sequence[Path], prepared: Collection[str]) -> None:
    """Remove what a run without results wrote, with the folders that it made."""
    own = {MANIFEST, *prepared}
    if not {entry.name for entry in path.iterdir()} <= {*own, LOGS, _LOCK}:
        return
    if path in made:
        shutil.rmtree(path, ignore_errors=True)
    for name in own:
        (path / name).unlink(missing_ok=True)
    for parent in made[1:]:
        with contextlib.suppress(OSError):
            parent.rmdir()


@contextlib.contextmanager
def _locked_manifest(path: Path, identity: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Hold the lock of a run directory, and yield its manifest, which is written if it is missing."""
    import torch

    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    if (path / MANIFEST).exists():
        manifest = read_json(path / MANIFEST)
        if "format" not in manifest:
            raise GenflowError(
                f"{path} holds a run of the first edition of genflow, which is not gone on with; its zoo,"
                " policies and"
                " report can be used (--zoo, evaluate, report), its generator and what names a file after"
                " `genflow convert`;"
                " choose another"
                " --out"
            )
        if manifest.get("digest") != digest:
            option = _TAKEN_BY.get(str(manifest.get("stage")))
            taken = f" give {option} {path} to use it as it is," if option else ""
            raise GenflowError(
                f"{path} holds another run ({_describe_difference(manifest, identity)});"
                f" repeat the options of that run,{taken} choose another --out, or remove it"
            )
    else:
        _require_empty(path, identity["stage"])
    with acquire_lock(path):
        _remove_temporary_files(path)
        if not (path / MANIFEST).exists():
            facts = {"format": FORMAT, "digest": digest, "versions": versions(), "complete": False}
            facts["matmul_precision"] = (
                torch.get_float32_matmul_precision()
            )  # affects matrix products on a GPU
            write_json(path / MANIFEST, {**identity, **facts})
        yield read_json(path / MANIFEST)


def _require_empty(path: Path, stage: str) -> None:
    """Raise an error for a folder with anything but scores, and what a run that was killed early leaves."""
    unfinished = f".{MANIFEST}{TEMPORARY_SUFFIX}"
    own = (_LOCK, LOGS, FOLDER)
    if path.is_dir() and any(
        each.name not in own and not each.name.startswith(unfinished) for each in path.iterdir()
    ):
        raise GenflowError(f"{path} is not empty and holds no {stage} run; choose another --out")


def _remove_temporary_files(path: Path) -> None:
    """Remove temporary files of a run that was killed, except inside of other runs."""
    for folder in (
        path,
        *(child for child in path.iterdir() if child.is_dir() and not (child / MANIFEST).exists()),
    ):
        for left in folder.glob(f".*{TEMPORARY_SUFFIX}*"):
            left.unlink(missing_ok=True)


def acquire_lock(path: Path) -> AcquireReturnProxy:
    """Lock a folder, without waiting unless these workers replace others that may still be ending.

    The lock file is never removed, because another command could then lock a new file of the same name.

    Returns:
        A context manager that releases the lock.

    Raises:
        GenflowError: another command holds the lock, or the folder cannot be written.
    """
    lock = FileLock(path / _LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(timeout=LOCK_WAIT_SECONDS if may_replace_workers() else 0, poll_interval=0.1)
        (path / _LOCK).touch()  # its modification time records when the run began
        return held
    except Timeout:
        raise GenflowError(
            f"{path} is in use by another genflow command; wait for it or choose another --out"
        ) from None
    except OSError as error:
        raise GenflowError(f"cannot use {path} as an output folder: {error.strerror or error}") from error


def _describe_difference(manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    for key in ("stage", "seed"):
        if manifest.get(key) != identity[key]:
            return f"{key} {manifest.get(key)!r}, not {identity[key]!r}"
    old, new = _leaves(manifest.get("config")), _leaves(identity["config"])
    differ = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    said = [
        f"{brief(key)} is {brief(str(old.get(key)), 40)} there, {brief(str(new.get(key)), 40)} here"
        for key in differ[:MAX_DIFFERENCES]
    ]
    more = len(differ) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "") or "its configuration differs"


def _leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Return the values of nested objects by their dotted keys."""
    if not isinstance(value, dict):
        return {key: value}
    return {
        name: leaf
        for each in value
        for name, leaf in _leaves(value[each], f"{key}.{each}" if key else str(each)).items()
    }
