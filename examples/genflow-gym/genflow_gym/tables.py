"""Tables of numbers as options: written in TOML or on the command line, or read from a user's file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, ValidationInfo
from torch import Tensor

from genflow import require_may_read

#: the most bytes of a file
MAX_BYTES = 1_000_000


def read_matrix(value: Any, info: ValidationInfo) -> Any:
    """The content of the file that a text names, as rows of numbers; other values as they are."""
    if not isinstance(value, str):
        return value
    require_may_read(info, value)
    try:
        with open(value, encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"file {value!r} cannot be read ({error})") from None
    if len(text) > MAX_BYTES:
        raise ValueError(f"file {value!r} is larger than {MAX_BYTES:,} bytes")
    rows = []
    for number, line in enumerate(csv.reader(text.replace(";", ",").replace("\t", ",").splitlines()), 1):
        cells = [cell for part in line for cell in part.split()]
        try:
            rows.append(tuple(float(cell) for cell in cells))
        except ValueError:
            raise ValueError(f"file {value!r}, line {number}: {line!r} is not all numbers") from None
    return tuple(row for row in rows if row)


def _flat(value: Any, info: ValidationInfo) -> Any:
    """A list of numbers, which a file may have in one row, in one column, or in several."""
    rows = read_matrix(value, info)
    return tuple(number for row in rows for number in row) if isinstance(value, str) else rows


#: rows of numbers, or the name of a file of them (separated by commas or spaces, a line a row)
Matrix = Annotated[tuple[tuple[float, ...], ...], BeforeValidator(read_matrix)]
#: numbers, or the name of a file of them
Numbers = Annotated[tuple[float, ...], BeforeValidator(_flat)]


def require_symmetric(name: str, rows: Sequence[Sequence[float]], size: int) -> None:
    """Raise a ValueError unless rows are a symmetric matrix of a size."""
    if len(rows) != size or any(len(row) != size for row in rows):
        widths = "+".join(sorted({str(len(row)) for row in rows})) or "0"
        raise ValueError(f"{name} has {len(rows)} rows of {widths} numbers; give {size} rows of {size}")
    for i in range(size):
        for j in range(i):
            if not math.isclose(rows[i][j], rows[j][i], rel_tol=1e-9, abs_tol=1e-12):
                raise ValueError(
                    f"{name} is not symmetric: row {i + 1} has {rows[i][j]:g} where row {j + 1}"
                    f" has {rows[j][i]:g}"
                )


def padded(rows: Tensor, columns: int) -> Tensor:
    """Rows (..., n) with zeros behind, (..., columns)."""
    return torch.nn.functional.pad(rows, (0, columns - rows.shape[-1]))


def drawn(rng: torch.Generator, low: float, high: float) -> float:
    """A number between two, evenly over its logarithm."""
    share = float(torch.rand((), generator=rng, dtype=torch.float64))
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def random_symmetric(size: int, scale: float, rng: torch.Generator) -> Tensor:
    """A symmetric matrix (size, size) with a zero diagonal, of one of several kinds, in float64.

    Its entries are of about `scale` / sqrt(size): normal, of one sign, all alike, or some of them 0.
    """
    kind = int(torch.randint(4, (), generator=rng))
    values = torch.randn(size, size, generator=rng, dtype=torch.float64)
    if kind == 1:
        values = values.abs() * (1 - 2 * int(torch.randint(2, (), generator=rng)))
    elif kind == 2:
        values = torch.full_like(values, 1.0 - 2 * int(torch.randint(2, (), generator=rng)))
        values += 0.1 * torch.randn(size, size, generator=rng, dtype=torch.float64)
    if int(torch.randint(2, (), generator=rng)):
        share = 0.25 + 0.5 * float(torch.rand((), generator=rng))
        kept = torch.rand(size, size, generator=rng) < share
        values = values * kept / share**0.5
    upper = values.triu(1) * scale / size**0.5
    return upper + upper.T
