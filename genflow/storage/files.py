"""Functions that write files atomically and check them when they are read."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from genflow.errors import GenflowError

#: the most bytes, values and levels of a JSON file; that of 100,000 trained policies has 39 MB and 1,200,000
#: values
MAX_JSON, MAX_VALUES, MAX_DEPTH = 2**26, 2_000_000, 64
#: the most bytes of the header of a safetensors file, enough for some 60,000 tensors
MAX_HEADER = 2**22
TEMPORARY_SUFFIX = ".tmp"
#: the path of a file
StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def told_in_one_line() -> Iterator[None]:
    """Turn what the operating system says of a path inside into an error of the user's.

    Raises:
        GenflowError: names the path and why it cannot be used, e.g. that its name is too long.
    """
    try:
        yield
    except OSError as error:
        raise system_error(error) from error


def system_error(error: OSError) -> GenflowError:
    """Return the one line for an error of the operating system, most often about a path."""
    from genflow.schema import brief

    why = error.strerror or str(error)
    if error.filename is None:
        return GenflowError(f"the system refused an operation: {why}")
    return GenflowError(f"cannot use {brief(str(error.filename))}: {why}")


def write_bytes(path: StrPath, data: bytes) -> None:
    """Write a file atomically, so that a reader sees either the old content or all of the new.

    Raises:
        GenflowError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # makes the new name survive a power failure
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise GenflowError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: StrPath, data: Any) -> None:
    """Write a JSON file atomically, with NaN and infinity as null."""
    write_bytes(path, (json.dumps(finite(data), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: StrPath) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        GenflowError: the file does not exist, is too large, or does not contain a JSON object.
    """
    try:
        with _open_regular_file(path, MAX_JSON) as file:
            text = file.read()
        # checked before parsing, because a parsed value takes far more memory than its text
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


def read_text(path: StrPath) -> str:
    """Read a text file.

    Raises:
        GenflowError: the file does not exist, is too large, or is not UTF-8.
    """
    try:
        with _open_regular_file(path, MAX_JSON) as file:
            return file.read().decode("utf-8-sig")
    except OSError as error:
        raise GenflowError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise GenflowError(f"{path} is no text in UTF-8 (byte {error.start})") from error


def write_tensors(
    path: StrPath, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically."""
    write_bytes(path, tensor_bytes(tensors, metadata))


def tensor_bytes(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the content of the file that `write_tensors` writes."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata or {}))


def read_tensors(path: StrPath) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file, which never unpickles.

    The tensors are views of the memory-mapped file.

    Raises:
        GenflowError: the file does not exist, is truncated or has another format.
    """
    from safetensors import SafetensorError, safe_open

    from genflow.schema import brief

    try:
        with _open_regular_file(path) as start:
            header = int.from_bytes(start.read(8), "little")
        if header > MAX_HEADER:
            raise ValueError(f"its header would have {header:,} bytes")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise GenflowError(f"cannot read {path}: no such file") from None
    # torch raises various errors for what safetensors accepts, e.g. a TypeError for a size of 2**63
    except (
        SafetensorError,
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        why = brief(str(error))
        raise GenflowError(
            f"{path} is not a usable safetensors file ({why}); it may be cut short or of another format"
        ) from error


def _open_regular_file(path: StrPath, most: float = math.inf) -> BinaryIO:
    """Open a regular file for reading, because reading a pipe or a device might never end."""
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise GenflowError(f"cannot read {path}: it is no file")
    if facts.st_size > most:
        raise GenflowError(f"cannot read {path}: it holds {facts.st_size:,} bytes, more than {most:,}")
    return open(path, "rb")


def finite(data: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return data
