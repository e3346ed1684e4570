"""Files of objects."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from genflow.errors import GenflowError
from genflow.interfaces.gallery import Gallery
from genflow.schema import brief
from genflow.storage.files import read_text
from genflow.storage.tables import OBJECT, csv_rows, title_column

#: endings of files of objects, beside those that `Gallery.suffixes` names
SUFFIXES = (".smi", ".txt", ".csv")


class Line(NamedTuple):
    """A line of a file of objects.

    Attributes:
        number: of the line.
        text: what it says.
        name: of the object; None: there is none.
        fault: what is wrong with one that names no object.
        title: what the file calls the object.
        changed: what was done to it, see `Named`.
    """

    number: int
    text: str
    name: str | None
    fault: str | None
    title: str = ""
    changed: str = ""


def read_objects(path: Path, gallery: Gallery) -> list[Line]:
    """Read objects from a text file with one a line, or from a .csv file with a column of them.

    The column is ``object``, or what the objects are, such as ``smiles``, in whatever case; the column
    `title_column` beside it has titles. What follows the first space of a line of SMILES is a title too.
    Empty lines and lines that begin with ``#`` are passed over.

    Raises:
        GenflowError: the file cannot be read, or has no objects or not the column.
    """
    lines = [_line(*row, gallery) for row in _texts(path, gallery)]
    if not lines:
        raise GenflowError(f"{path} has no objects; write one on each line")
    return lines


def listed(names: Iterable[str], gallery: Gallery) -> list[Line]:
    """Read objects from a list, numbered from 1 on.

    Raises:
        GenflowError: there are none, or one is no text.
    """
    lines = []
    for number, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise GenflowError(f"objects are given by name, as texts, not {brief(name)}")
        lines.append(_line(number, name, "", gallery))
    if not lines:
        raise GenflowError("the list has no objects")
    return lines


def _line(number: int, text: str, title: str, gallery: Gallery) -> Line:
    try:
        found = gallery.read_line(text)
        return Line(number, text, found.name, None, title or found.title, found.changed)
    except GenflowError as error:
        return Line(number, text, None, str(error))


def _texts(path: Path, gallery: Gallery) -> Iterator[tuple[int, str, str]]:
    """The number of each line, what it says of the object, and its title if that stands beside it."""
    suffix = path.suffix.lower()
    if suffix in gallery.suffixes:
        yield from gallery.read_file(path)
        return
    if suffix not in ("", *SUFFIXES):
        raise GenflowError(
            f"{path} has none of the endings {', '.join([*SUFFIXES, *gallery.suffixes])}; name a file of one"
        )
    content = read_text(path)
    if suffix == ".csv":
        yield from _cells(path, content, gallery.name_kind)
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip(), ""


def _cells(path: Path, content: str, kind: str) -> Iterator[tuple[int, str, str]]:
    """The same of a table, from the column of its objects."""
    number = 0
    try:
        rows = csv_rows(content)
        header = [name.strip().lower() for name in next(rows, (0, []))[1]]
        kinds = list(dict.fromkeys([OBJECT, kind]))
        place = next((header.index(each) for each in kinds if each in header), None)
        if place is None:
            there = f"; there are {brief(', '.join(header))}" if header else ""
            raise GenflowError(
                f"{path} has no column {' or '.join(kinds)}; its first line names the columns{there}"
            )
        titles = title_column(header)
        for number, row in rows:
            title = row[titles].strip() if titles is not None and titles < len(row) else ""
            yield number, row[place] if place < len(row) else "", title
    except csv.Error as error:
        raise GenflowError(f"{path}, after line {number}: {error}") from error


def fault_of(path: Path | None, line: Line) -> str:
    """Return the message for a line of a file, or of a list, that names no object."""
    return f"{path or 'the list'}, line {line.number}: {brief(line.text)!r} {line.fault}"
