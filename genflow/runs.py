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
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from genflow.errors import GenflowError

MANIFEST = "run.json"
_LOCK = ".lock"


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary name, sync, rename: a reader sees the old file or the whole new one.

    Raises:
        GenflowError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
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
        GenflowError: there is no such file, or it holds no JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise GenflowError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise GenflowError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise GenflowError(f"{path} must hold a JSON object, not a {type(data).__name__}")
    return data


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    from safetensors.torch import save

    write_bytes(path, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata or {})))


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a safetensors file: tensors and metadata. Never unpickles.

    Raises:
        GenflowError: there is no such file, or it is truncated or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise GenflowError(f"cannot read {path}: no such file") from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise GenflowError(f"{path} is not a usable safetensors file ({error}); it may be cut short or of another format") from error


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
    or to find that it is `complete`; another one is refused.
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
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        manifest_path = path / MANIFEST
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        if manifest_path.exists():
            manifest = read_json(manifest_path)
            if manifest.get("digest") != digest:
                raise GenflowError(f"{path} holds another run ({_difference(manifest, identity)}); choose another --out or remove it")
        elif path.is_dir() and any(entry.name != _LOCK for entry in path.iterdir()):
            raise GenflowError(f"{path} is not empty and holds no {stage} run; choose another --out")
        else:
            manifest = {**identity, "digest": digest, "versions": versions(), "complete": False}
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = open(path / _LOCK, "w")  # noqa: SIM115  held until the run ends
        except OSError as error:
            raise GenflowError(f"cannot use {path} as an output folder: {error.strerror or error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise GenflowError(f"{path} is in use by another genflow command; wait for it or choose another --out") from None
        run = cls(path, manifest)
        try:
            if not manifest_path.exists():
                write_json(manifest_path, manifest)
            yield run
        except Exception:
            # a run that failed before it made anything leaves nothing behind
            if made and {entry.name for entry in path.iterdir()} <= {MANIFEST, _LOCK}:
                shutil.rmtree(path, ignore_errors=True)
                for parent in made[1:]:
                    with contextlib.suppress(OSError):
                        parent.rmdir()
            raise
        finally:
            lock.close()  # the file stays: removing it would let a third command lock another one of the same name

    @property
    def complete(self) -> bool:
        """Whether the task was finished before."""
        return bool(self.manifest["complete"])

    def update(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)
        write_json(self.path / MANIFEST, self.manifest)


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
