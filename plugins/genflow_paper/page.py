"""The page of all items that were measured: ``report.html``."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from genflow import format_number, html_figure, html_page, write_bytes

from .items import ITEMS
from .result import RESULT, Cell, Result, Table, load

REPORT = "report.html"
#: rows beyond which a table is folded
FOLDED = 60


def write_page(folder: Path) -> Path:
    """Write the page of the items in a folder, in the order of the paper, and return its path."""
    found = {
        name: load(folder / "items" / name / RESULT)
        for name in ITEMS
        if (folder / "items" / name / RESULT).exists()
    }
    scales = ", ".join(sorted({str(facts["scale"]) for _, facts in found.values()}))
    lead = (
        "<p>Each number three ways: as the paper prints it, by the paper's protocol, and exactly. The paper"
        " is <i>Generating GFlowNets as you wish with diffusion process</i>.</p>"
        f"<p>Scale: {escape(scales)}. A dash is a number that there is not.</p>"
    )
    sections = [(heading(name), section(name, *each)) for name, each in found.items()]
    path = folder / REPORT
    write_bytes(path, html_page("The paper, measured again", lead, sections))
    return path


def heading(name: str) -> str:
    """Return the name of an item as the paper writes it."""
    for kind in ("table", "figure"):
        if name.startswith(kind):
            return f"{kind.capitalize()} {name.removeprefix(kind)}"
    return name.capitalize()


def section(name: str, result: Result, facts: dict[str, Any]) -> str:
    """Return an item as HTML."""
    title = ITEMS[name].title
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in result.findings)
    drawn = "".join(html_figure(p.png, p.caption, p.caption, p.wide) for p in result.pictures)
    spent = f"<code>{escape(str(facts['command']))}</code>, {float(facts['seconds']):.0f} s beside its parts"
    tables = "".join(map(table_html, result.tables))
    shown = f"<ul>{said}</ul><div class='pictures'>{drawn}</div>{tables}"
    return f"<p>{escape(title)} <small>{spent}.</small></p>{shown}"


def table_html(table: Table) -> str:
    """Return a table as HTML, folded if it is long."""
    # words stand on the left, numbers on the right
    texts = [all(isinstance(cell, str | None) for cell in column) for column in zip(*table.rows, strict=True)]
    kinds = [' class="text"' if text else "" for text in texts]
    header = "".join(
        f'<th scope="col"{k}>{escape(c)}</th>' for c, k in zip(table.columns, kinds, strict=True)
    )
    rows = "".join(f"<tr>{_cells(row, kinds)}</tr>\n" for row in table.rows)
    made = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    made = f'<div class="scroll" tabindex="0">{made}</div>'
    note = f"<p><small>{escape(table.note)}</small></p>" if table.note else ""
    title = f"<h3>{escape(table.title)}</h3>"
    if len(table.rows) > FOLDED:
        return f"{title}<details><summary>{len(table.rows)} rows</summary>{made}</details>{note}"
    return f"{title}{made}{note}"


def _cells(row: Sequence[Cell], kinds: Sequence[str]) -> str:
    first, *others = (escape(_text(cell)) for cell in row)
    return f'<th scope="row">{first}</th>' + "".join(
        f"<td{kind}>{text}</td>" for text, kind in zip(others, kinds[1:], strict=True)
    )


def _text(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    if cell is not None and float(cell).is_integer() and abs(cell) < 1e9:
        return f"{int(cell):,}"
    return format_number(cell)
