"""Checkpoints of a training run, which are written atomically and verified when they are read.

A checkpoint is ``checkpoint-<step>-<digest>.safetensors``. The digest covers all bytes of the file, so that a
truncated or modified checkpoint is detected and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from genflow.errors import GenflowError
from genflow.storage.files import read_tensors, tensor_bytes, write_bytes

FORMAT = "genflow-checkpoint-1"
PATTERN = "checkpoint*.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)-([0-9a-f]{16})\.safetensors")


class Checkpoints:
    """The checkpoints in a folder, of which the last few are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._good: list[Path] = []

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint, then remove the oldest ones.

        Raises:
            GenflowError: it cannot be written, e.g. because the disk is full. Earlier ones are kept.
        """
        data = tensor_bytes(tensors, {"format": FORMAT, "facts": json.dumps({**facts, "step": step})})
        path = self._folder / f"checkpoint-{step:09}-{_digest(data)}.safetensors"
        write_bytes(path, data)
        self._good = [*(other for other in self._good if other != path), path]
        for old in self._good[: -self._keep]:
            old.unlink(missing_ok=True)
        self._good = self._good[-self._keep :]

    @property
    def last(self) -> Path | None:
        """The newest valid checkpoint that was found or written, or None."""
        return self._good[-1] if self._good else None

    def find(self) -> tuple[str | None, list[str]]:
        """Return the name of the newest valid checkpoint, and a message for each newer invalid one."""
        whole, refused = [], []
        for path in sorted(self._folder.glob(PATTERN), reverse=True):
            why = _flaw(path)
            if why is None:
                whole.append(path)
            elif not whole:
                refused.append(f"{path} {why}")
        self._good = whole[::-1]
        return (whole[0].name if whole else None), refused

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the tensors and the facts of a checkpoint that `find` has returned.

        Raises:
            GenflowError: the file cannot be read.
        """
        tensors, metadata = read_tensors(self._folder / name)
        return tensors, json.loads(metadata["facts"])


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a finished training run."""
    for path in folder.glob(PATTERN):
        path.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _flaw(path: Path) -> str | None:
    """Return why a checkpoint is invalid, or None."""
    named = _NAME.fullmatch(path.name)
    if named is None:
        return "is not of this version of genflow"
    try:
        if _digest(path.read_bytes()) != named[2]:
            return "is damaged (its checksum is wrong)"
        _, metadata = read_tensors(path)
    except (OSError, GenflowError):
        return "cannot be read"
    return (
        None if metadata.get("format") == FORMAT else f"has format {metadata.get('format')!r}, not {FORMAT!r}"
    )
