"""The ratios in benchmarks/results/ as the rows of the table in docs/performance.md.

python benchmarks/table.py benchmarks/results
"""

from __future__ import annotations

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


if __name__ == "__main__":
    main()
