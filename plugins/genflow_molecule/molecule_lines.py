"""The SMILES of a user's file of molecules, with the line of each."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from rdkit import Chem, rdBase

from genflow import GenflowError, brief, csv_rows, title_column

from .scoring import read as read_smiles

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
    column `title_column`; an ``.sdf`` has drawn molecules, numbered by the line where each begins; other
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
    except GenflowError as error:
        raise GenflowError(f"{where}: {error}") from None
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
    """Those of a column.

    Raises:
        GenflowError: no column is named SMILES, and the first row has no molecule.
    """
    found = list(csv_rows(text))
    names = [cell.strip().casefold() for cell in found[0][1]] if found else []
    column, titles = next((place for place, name in enumerate(names) if name == "smiles"), None), None
    if column is None:
        column = next((place for place, name in enumerate(names) if "smiles" in name), None)
    if column is not None:
        titles, found = title_column(names), found[1:]
    elif names and read_smiles(titled(found[0][1][0])[0]) is None:
        raise GenflowError(f"no column is named smiles; there are {brief(', '.join(names))}")
    rows = []
    for number, cells in found:
        smiles, title = titled(cells[column or 0] if (column or 0) < len(cells) else "")
        if titles is not None and titles < len(cells):
            title = cells[titles].strip() or title
        rows.append(MoleculeLine(number, smiles, title))
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
