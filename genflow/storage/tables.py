"""Tables of objects on disk: .csv, .jsonl, .smi and .parquet, by the suffix of the file's name."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genflow.errors import GenflowError
from genflow.storage.files import finite, write_bytes
from genflow.value_text import count_of

#: the column of the objects' names
OBJECT = "object"
#: what a name must be for the format that lists names alone
SMILES = "smiles"
#: rows that a notebook shows
HTML_ROWS = 20
#: column -> its values; all are equally long
Table = Mapping[str, Sequence[Any]]


#: columns that have the titles of objects, the likeliest first
TITLE_COLUMNS = ("name", "title", "id")


def csv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a user's table with the number of the line where each ends.

    Cells stand between commas, semicolons or tabs, whichever the first row has most of. Empty rows and those
    that begin with ``#`` are passed over.

    Raises:
        csv.Error: it is no table.
    """
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    delimiter = max(",;\t", key=next(lines, "").count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    for cells in reader:
        if any(cell.strip() for cell in cells) and not cells[0].startswith("#"):
            yield reader.line_num, cells


def title_column(header: Sequence[str]) -> int | None:
    """Return which column of a table, by names in small letters, has the titles of its objects."""
    return next((header.index(each) for each in TITLE_COLUMNS if each in header), None)


def check_table_path(path: Path, name_kind: str = "") -> None:
    """Raise an error for a file that a table cannot be written to, before anything is computed.

    Args:
        path: the file.
        name_kind: `Gallery.name_kind`; empty where a list of names alone would not do.

    Raises:
        GenflowError: the suffix is unknown, its format does not fit or needs a package that is not
            installed, or the path is a folder or lies inside of a file.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise GenflowError(f"--out {path}: name a file that ends in {', '.join(_FORMATS)}")
    if suffix == ".smi" and name_kind != SMILES:
        raise GenflowError(f"--out {path}: .smi holds nothing but SMILES; name a .csv file")
    if suffix == ".parquet":
        _pyarrow(path)
    if path.is_dir():
        raise GenflowError(f"--out {path} is a folder; name a file")
    if blocking := next((each for each in path.parents if each.exists() and not each.is_dir()), None):
        raise GenflowError(f"--out {path}: {blocking} is a file, not a folder")


def write_table(path: Path, table: Table) -> None:
    """Write a table atomically, in the format of the file's suffix.

    Raises:
        GenflowError: the file cannot be written.
    """
    write_bytes(path, _FORMATS[path.suffix.lower()](table))


def rows_of(table: Table) -> list[dict[str, Any]]:
    """Return a dict for each row, with NaN and infinity as None."""
    return [dict(zip(table, finite(row), strict=True)) for row in zip(*table.values(), strict=True)]


def as_html(table: Table) -> str:
    """Write the first rows as HTML, for notebooks."""
    rows, count = rows_of({name: column[:HTML_ROWS] for name, column in table.items()}), len(table[OBJECT])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_short(value))}</td>' for value in row.values())}</tr>"
        for row in rows
    )
    more = f"<p>{count_of(count - len(rows), 'row')} more</p>" if count > len(rows) else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv(table: Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(["" if value is None else value for value in row.values()] for row in rows_of(table))
    return text.getvalue().encode()


def _jsonl(table: Table) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows_of(table)).encode()


def _smi(table: Table) -> bytes:
    return "".join(f"{name}\n" for name in table[OBJECT]).encode()


def _parquet(table: Table) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    columns = {name: finite(list(column)) for name, column in table.items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()


def _pyarrow(path: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise GenflowError(
            f"--out {path}: .parquet needs pyarrow, which is not installed: `pip install pyarrow` (the extra"
            " parquet), or name a .csv file"
        ) from None
    except ImportError as error:  # such as one for another numpy
        raise GenflowError(
            f"--out {path}: .parquet needs pyarrow, which cannot be imported: {error}; install another"
            " version, or name a .csv file"
        ) from None


_FORMATS = {".csv": _csv, ".jsonl": _jsonl, ".smi": _smi, ".parquet": _parquet}
