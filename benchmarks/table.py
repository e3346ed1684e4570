"""The ratios in benchmarks/results/ as the rows of the table in docs/performance.md.

python benchmarks/table.py benchmarks/results
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from genflow.storage.files import read_json

#: the works of the table, in its order, and what each is called there
WORKS = {
    "population": "trajectory balance on (4, 8), two layers of 256, member-iterations/s",
    "scenarios": "the same on torchgfn's grids, 1 thread",
    "quality": "seconds from nothing to a JS of .01 on (4, 8), width 128",
    "exact": "seconds, and MiB, of one policy's exact distribution",
    "unseen": "seconds to a JS of .01 on an unseen structure",
    "start": "milliseconds of a command that does next to nothing",
}
#: the parts of gpu.json, each a table, and the order of their sides
GPU, ORDER = ("training, ", "generation, "), ("torchgfn", "gfnx", "genflow")


def rows(result: dict[str, Any]) -> list[str]:
    """A heading; for each ratio of a work both medians, the ratio with its spread, and what was wanted."""
    figures = {(each["setting"], each["side"]): each for each in result["figures"]}
    lines = [f"| **{WORKS[result['work']]}** (`--work {result['work']}`) | | | | |"]
    for ratio in result["ratios"]:
        ours, theirs = (figures[ratio["setting"], ratio[side]] for side in ("ours", "theirs"))
        more = "> " * ratio["bound"]
        spread = f"{number(ratio['min'])} to {number(ratio['max'])}"
        wanted = f"{ratio['target']:g}, {ratio['verdict']}" if ratio["target"] else ""
        cells = [
            ratio["setting"],
            f"{ratio['ours']}: {number(ours['median'])}",
            f"{ratio['theirs']}: {number(theirs['median'])}",
            f"**{more}{number(ratio['median'])}** ({spread})",
            wanted,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def matrix(result: dict[str, Any], work: str) -> list[str]:
    """Medians of the settings that begin with `work`, one a column and a side a row, with their heading.

    A figure that a run failed or had no time to find is a word, or empty.
    """
    found = {
        (each["setting"], each["side"]): number(each["median"])
        for each in result["figures"]
        if each["setting"].startswith(work)
    }
    for each in result["facts"]["failed"]:
        if each["setting"].startswith(work) and "out of memory" in each["error"]:
            found[each["setting"], each["side"]] = "out of memory"
    settings = sorted({setting for setting, _ in found}, key=_size)
    sides = sorted(
        {side for _, side in found}, key=lambda side: (ORDER.index(_kind(side)), _size(side), side)
    )
    lines = [f"| {' | '.join(['', *(setting.removeprefix(work) for setting in settings)])} |"]
    lines.append("|---" * (len(settings) + 1) + "|")
    for side in sides:
        cells = (found.get((setting, side), "") for setting in settings)
        lines.append(f"| {' | '.join([side, *cells])} |")
    return lines


def _kind(side: str) -> str:
    return side.partition(",")[0]


def _size(text: str) -> int:
    """The first number in a text, e.g. of members."""
    digits = re.search(r"[0-9][0-9,]*", text)
    return int(digits.group().replace(",", "")) if digits else 0


def number(value: float) -> str:
    """Three digits, and all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Print the table."""
    click.echo("| work | genflow | beside it | times better | wanted |\n|---|---|---|---|---|")
    for name in WORKS:
        click.echo("\n".join(rows(read_json(folder / f"{name}.json"))))
    for work in GPU:
        click.echo("\n" + "\n".join(matrix(read_json(folder / "gpu.json"), work)))


if __name__ == "__main__":
    main()
