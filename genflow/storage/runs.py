"""Run directories: what was run is written beside what came out; two runs never share a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from genflow.distributed.process_group import may_replace_workers
from genflow.distributed.world import world
from genflow.errors import GenflowError
from genflow.storage.files import TEMPORARY_SUFFIX, StrPath, finite, read_json, write_json

MANIFEST = "run.json"
FORMAT = "genflow-run-2"
#: where workers keep their logs, one each
LOGS = "logs"
#: seconds that workers which were started again wait for the lock of those before them
LOCK_WAIT_SECONDS = 60.0
_LOCK = ".lock"


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for package in ("genflow", "torch", "torchgfn", "diffusers", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


class RunDirectory:
    """A folder that belongs to one task with one configuration.

    Use as ``with RunDirectory.open(...) as run``: it is locked meanwhile. The same task may open it again, to
    resume or to find that it is `complete`; another one is refused. Of several workers the first holds the
    lock and writes.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: StrPath, stage: str, config: Mapping[str, Any], seed: int) -> Iterator[RunDirectory]:
        """Create or re-open a run directory, and hold its lock.

        Raises:
            GenflowError: the folder holds another run, other files, or is in use.
        """
        path = Path(path)
        identity = {"stage": stage, "seed": seed, "config": finite(dict(config))}
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        with contextlib.ExitStack() as held:
            manifest = world().on_rank_zero(lambda: held.enter_context(_locked_manifest(path, identity)))
            try:
                with world().log_to(path / LOGS):
                    yield cls(path, manifest)
            except Exception:
                # a run that failed before it made anything leaves nothing behind
                if (
                    world().is_rank_zero
                    and made
                    and {entry.name for entry in path.iterdir()} <= {MANIFEST, LOGS, _LOCK}
                ):
                    shutil.rmtree(path, ignore_errors=True)
                    for parent in made[1:]:
                        with contextlib.suppress(OSError):
                            parent.rmdir()
                raise

    @property
    def complete(self) -> bool:
        """Whether the task was finished before."""
        return bool(self.manifest["complete"])

    def update(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)
        world().on_rank_zero(lambda: write_json(self.path / MANIFEST, self.manifest))


@contextlib.contextmanager
def _locked_manifest(path: Path, identity: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Hold the lock of a run directory, and find or write its manifest."""
    import torch

    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    unfinished = f".{MANIFEST}{TEMPORARY_SUFFIX}"  # of a run that was killed as it began
    if (path / MANIFEST).exists():
        manifest = read_json(path / MANIFEST)
        if "format" not in manifest:
            raise GenflowError(
                f"{path} holds a run of the first edition of genflow, which is not gone on with; its zoo,"
                " policies and"
                " report can be used (--zoo, evaluate, report), its generator after `genflow convert`;"
                " choose another"
                " --out"
            )
        if manifest.get("digest") != digest:
            raise GenflowError(
                f"{path} holds another run ({_describe_difference(manifest, identity)});"
                " choose another --out or remove it"
            )
    elif path.is_dir() and any(
        entry.name not in (_LOCK, LOGS) and not entry.name.startswith(unfinished) for entry in path.iterdir()
    ):
        raise GenflowError(f"{path} is not empty and holds no {identity['stage']} run; choose another --out")
    with acquire_lock(path):
        _remove_temporary_files(path)
        if not (path / MANIFEST).exists():
            facts = {"format": FORMAT, "digest": digest, "versions": versions(), "complete": False}
            facts["matmul_precision"] = torch.get_float32_matmul_precision()  # of products on a GPU
            write_json(path / MANIFEST, {**identity, **facts})
        yield read_json(path / MANIFEST)


def _remove_temporary_files(path: Path) -> None:
    """Remove what a run that was killed while it wrote has left, but not inside of other runs."""
    for folder in (
        path,
        *(child for child in path.iterdir() if child.is_dir() and not (child / MANIFEST).exists()),
    ):
        for left in folder.glob(f".*{TEMPORARY_SUFFIX}*"):
            left.unlink(missing_ok=True)


def acquire_lock(path: Path) -> AcquireReturnProxy:
    """Lock a folder at once or not at all.

    Only workers that may replace others wait, until the last of those has ended. The file stays:
    removing it would let a third command lock another one of the same name.

    Returns:
        What releases the lock when its ``with`` ends.

    Raises:
        GenflowError: another command has it, or the folder cannot be written.
    """
    lock = FileLock(path / _LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(timeout=LOCK_WAIT_SECONDS if may_replace_workers() else 0, poll_interval=0.1)
        (path / _LOCK).touch()  # its time says when this run began
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
    old, new = manifest.get("config"), identity["config"]
    if isinstance(old, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return f"its configuration differs in {key!r}"
    return "its configuration differs"
