"""Run directories: what was run is written beside what came out, atomically; two runs never share a folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from genflow.errors import GenflowError
from genflow.launch import replacing, world

MANIFEST = "run.json"
#: where workers keep their logs, one each
LOGS = "logs"
#: seconds that workers which were started again wait for the lock of those before them
PREDECESSORS = 60.0
#: most that a JSON file holds, in bytes, values and levels; a population of 100,000 trained policies has 39 MB and 1,200,000
MAX_JSON, MAX_VALUES, MAX_DEPTH = 2**26, 2_000_000, 64
#: most bytes of the header of a safetensors file, some 60,000 tensors
MAX_HEADER = 2**22
_LOCK = ".lock"
_TEMPORARY = ".tmp"


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary name, sync, rename: a reader sees the old file or the whole new one.

    Raises:
        GenflowError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}{_TEMPORARY}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, must outlive a power cut
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise GenflowError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; NaN and infinity become null."""
    write_bytes(path, (json.dumps(finite(data), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        GenflowError: there is no such file, or it holds no JSON object or one that is too large.
    """
    try:
        with _open(path, MAX_JSON) as file:
            text = file.read()
        # parsed, a value takes far more memory than its two characters
        if sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES:
            raise GenflowError(f"{path} holds more than {MAX_VALUES:,} values")
        data = json.loads(text)
    except OSError as error:
        raise GenflowError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise GenflowError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise GenflowError(f"{path} must hold a JSON object, not a {type(data).__name__}")
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        inside = (child for each in level for child in (each.values() if isinstance(each, dict) else each))
        level = [child for child in inside if isinstance(child, dict | list)]
    if level:
        raise GenflowError(f"{path} is nested deeper than {MAX_DEPTH} levels")
    return data


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    write_bytes(path, tensor_bytes(tensors, metadata))


def tensor_bytes(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """What `write_tensors` writes."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata or {}))


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a safetensors file: tensors and metadata. Never unpickles.

    They are views of the file, which takes no memory before it is used.

    Raises:
        GenflowError: there is no such file, or it is truncated or of another format.
    """
    from safetensors import SafetensorError, safe_open

    from genflow.schema import brief

    try:
        with _open(path) as start:
            header = int.from_bytes(start.read(8), "little")
        if header > MAX_HEADER:
            raise ValueError(f"its header would have {header:,} bytes")
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise GenflowError(f"cannot read {path}: no such file") from None
    # torch refuses what safetensors lets pass in several ways, e.g. a size of 2**63 with a TypeError
    except (SafetensorError, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = brief(str(error))
        raise GenflowError(f"{path} is not a usable safetensors file ({why}); it may be cut short or of another format") from error


def _open(path: Path, most: float = math.inf) -> BinaryIO:
    """Open a file for reading: a pipe or a device might never end, or do something when it is opened."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise GenflowError(f"cannot read {path}: it is no file")
    if facts.st_size > most:
        raise GenflowError(f"cannot read {path}: it holds {facts.st_size:,} bytes, more than {most:,}")
    return open(path, "rb")


def finite(data: Any) -> Any:
    """JSON-able data with NaN and infinity, which JSON cannot say, as None."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return data


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for package in ("genflow", "torch", "torchgfn", "diffusers", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


class RunDirectory:
    """A folder that belongs to one task with one configuration.

    Use as ``with RunDirectory.open(...) as run``: it is locked meanwhile. The same task may open it again, to resume
    or to find that it is `complete`; another one is refused. Of several workers the first holds the lock and writes.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, stage: str, config: Mapping[str, Any], seed: int) -> Iterator[RunDirectory]:
        """Create or re-open a run directory, and hold its lock.

        Raises:
            GenflowError: the folder holds another run, other files, or is in use.
        """
        identity = {"stage": stage, "seed": seed, "config": finite(dict(config))}
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        with contextlib.ExitStack() as held:
            manifest = world().first(lambda: held.enter_context(_claimed(path, identity)))
            try:
                with world().logged(path / LOGS):
                    yield cls(path, manifest)
            except Exception:
                # a run that failed before it made anything leaves nothing behind
                if world().main and made and {entry.name for entry in path.iterdir()} <= {MANIFEST, LOGS, _LOCK}:
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
        world().first(lambda: write_json(self.path / MANIFEST, self.manifest))


@contextlib.contextmanager
def _claimed(path: Path, identity: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Hold the lock of a run directory, and find or write its manifest."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    unfinished = f".{MANIFEST}{_TEMPORARY}"  # of a run that was killed as it began
    if (path / MANIFEST).exists():
        manifest = read_json(path / MANIFEST)
        if manifest.get("digest") != digest:
            raise GenflowError(f"{path} holds another run ({_difference(manifest, identity)}); choose another --out or remove it")
    elif path.is_dir() and any(entry.name not in (_LOCK, LOGS) and not entry.name.startswith(unfinished) for entry in path.iterdir()):
        raise GenflowError(f"{path} is not empty and holds no {identity['stage']} run; choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / _LOCK, "w")  # noqa: SIM115  held until the run ends
    except OSError as error:
        raise GenflowError(f"cannot use {path} as an output folder: {error.strerror or error}") from error
    # the file stays: removing it would let a third command lock another one of the same name
    with lock:
        _take(lock, path)
        _tidy(path)
        if not (path / MANIFEST).exists():
            write_json(path / MANIFEST, {**identity, "digest": digest, "versions": versions(), "complete": False})
        yield read_json(path / MANIFEST)


def _tidy(path: Path) -> None:
    """Remove what a run that was killed while it wrote has left, here and in folders that are not runs of their own."""
    for folder in (path, *(child for child in path.iterdir() if child.is_dir() and not (child / MANIFEST).exists())):
        for left in folder.glob(f".*{_TEMPORARY}*"):
            left.unlink(missing_ok=True)


def _take(lock: TextIO, path: Path) -> None:
    """Lock at once or not at all; workers that may replace others wait until the last of those has ended."""
    deadline = time.monotonic() + (PREDECESSORS if replacing() else 0)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise GenflowError(f"{path} is in use by another genflow command; wait for it or choose another --out") from None
            time.sleep(0.1)


def _difference(manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    for key in ("stage", "seed"):
        if manifest.get(key) != identity[key]:
            return f"{key} {manifest.get(key)!r}, not {identity[key]!r}"
    old, new = manifest.get("config"), identity["config"]
    if isinstance(old, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return f"its configuration differs in {key!r}"
    return "its configuration differs"
