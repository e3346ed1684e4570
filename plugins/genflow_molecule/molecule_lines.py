"""The SMILES of a user's file of molecules, with the line of each."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

from rdkit import Chem, rdBase

from genflow import TITLE_COLUMNS, GenflowError

SUFFIXES = (".smi", ".txt", ".csv", ".sdf")
#: bytes of a file that is read
MAX_BYTES = 2**26


class MoleculeLine(NamedTuple):
    """A line of a file of molecules: its number, the SMILES, empty if it cannot be read, and the title."""

    number: int
    smiles: str
    title: str = ""


def read_lines(path: Path) -> list[MoleculeLine]:
    """The molecules of a file.

    A ``.csv`` has them in the column named ``smiles``, or else in the first one, and their titles in the
    first of `TITLE_COLUMNS`; an ``.sdf`` has drawn molecules, numbered by the line where each begins; other
    files have them before the first space or tab, and titles after it. A line that names columns, empty lines
    and those that begin with ``#`` are no molecules.

    Raises:
        GenflowError: there is no such file, it is too large, no text, or has no line.
    """
    where = f"file {str(path)!r}"
    try:
        if not path.exists():
            raise GenflowError(f"there is no {where}")
        if not path.is_file():
            raise GenflowError(f"{where} is no regular file")
        if path.suffix.lower() not in SUFFIXES:
            raise GenflowError(f"{where} has none of the endings {', '.join(SUFFIXES)}; name one of these")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise GenflowError(f"{where} has {size:,} bytes; at most {MAX_BYTES:,} are read: split it")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise GenflowError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        text = content.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError
    except ValueError:
        raise GenflowError(f"{where} is no text in UTF-8; save it as one") from None
    try:
        rows = {".csv": _rows, ".sdf": _records}.get(path.suffix.lower(), _words)(text)
    except csv.Error as error:
        raise GenflowError(f"{where} is no table: {error}") from None
    if not rows:
        raise GenflowError(f"{where} has no molecules")
    return rows


def titled(line: str) -> tuple[str, str]:
    """The SMILES of a line, and the title that may follow it after a space, up to the next tab."""
    smiles, rest = [*line.split(maxsplit=1), "", ""][:2]
    return smiles, rest.partition("\t")[0].strip()


def _words(text: str) -> list[MoleculeLine]:
    """Those before the first space of each line."""
    lines = [MoleculeLine(number, *titled(line)) for number, line in enumerate(text.splitlines(), 1)]
    rows = [line for line in lines if line.smiles and not line.smiles.startswith("#")]
    return rows[1:] if rows and "smiles" in rows[0].smiles.casefold() else rows


def _rows(text: str) -> list[MoleculeLine]:
    """Those of a column."""
    head = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=head.count)  # no SMILES has one of these
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows, column, titles, first = [], 0, None, True
    for cells in reader:
        if not any(cell.strip() for cell in cells) or cells[0].startswith("#"):
            continue
        if first:
            first = False
            names = [cell.strip().casefold() for cell in cells]
            named = [place for place, name in enumerate(names) if "smiles" in name]
            if named:
                titles = next((names.index(each) for each in TITLE_COLUMNS if each in names), None)
                column = names.index("smiles") if "smiles" in names else named[0]
                continue
        smiles, title = titled(cells[column] if column < len(cells) else "")
        if titles is not None and titles < len(cells):
            title = cells[titles].strip() or title
        rows.append(MoleculeLine(reader.line_num, smiles, title))
    return rows


def _records(text: str) -> list[MoleculeLine]:
    """Those of the molecules of an SDF."""
    rows, first, record = [], 1, list[str]()
    for number, line in enumerate([*text.splitlines(), "$$$$"], 1):
        if line.rstrip() != "$$$$":
            record.append(line)
            continue
        if any(line.strip() for line in record):
            rows.append(MoleculeLine(first, _drawn("\n".join(record)), record[0].strip()))
        first, record = number + 1, []
    return rows


def _drawn(record: str) -> str:
    """The SMILES of a record of an SDF; empty: it is no molecule."""
    with rdBase.BlockLogs():
        try:
            mol = Chem.MolFromMolBlock(record)
        except RuntimeError:  # which RDKit raises for some that are cut off
            mol = None
        return "" if mol is None else Chem.MolToSmiles(mol)
