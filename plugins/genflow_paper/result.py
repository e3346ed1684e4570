"""What an item yields: tables, pictures and sentences, as files in the item's folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genflow import read_json, write_bytes, write_json

RESULT = "result.json"
Cell = str | float | None


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers under named columns; None is a value that there is not."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def records(self) -> list[dict[str, Cell]]:
        """Return each row by the names of the columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Picture:
    """A PNG under a name, with what it shows."""

    name: str
    png: bytes
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Result:
    """The tables and pictures of an item, and in sentences what they say."""

    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    findings: Sequence[str] = ()


def save(folder: Path, result: Result, facts: dict[str, Any]) -> None:
    """Write ``result.json``, a CSV file for each table and a PNG file for each picture."""
    for picture in result.pictures:
        write_bytes(folder / f"{picture.name}.png", picture.png)
    for number, table in enumerate(result.tables, 1):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(table.columns)
        writer.writerows(["" if cell is None or cell != cell else cell for cell in row] for row in table.rows)
        write_bytes(folder / f"table{number}.csv", text.getvalue().encode())
    write_json(
        folder / RESULT,
        {
            **facts,
            "findings": list(result.findings),
            "tables": [
                {
                    "title": t.title,
                    "columns": list(t.columns),
                    "rows": [list(r) for r in t.rows],
                    "note": t.note,
                }
                for t in result.tables
            ],
            "pictures": [{"name": p.name, "caption": p.caption, "wide": p.wide} for p in result.pictures],
        },
    )


def load(file: Path) -> tuple[Result, dict[str, Any]]:
    """Read what `save` wrote, and the facts beside it; pictures that are not beside the file are left out.

    Raises:
        GenflowError: the file is missing or damaged.
    """
    facts = read_json(file)
    tables = [Table(**each) for each in facts.pop("tables")]
    pictures = [
        Picture(
            each["name"], (file.parent / f"{each['name']}.png").read_bytes(), each["caption"], each["wide"]
        )
        for each in facts.pop("pictures")
        if (file.parent / f"{each['name']}.png").exists()
    ]
    return Result(tables, pictures, facts.pop("findings")), facts
