"""The quality in a generator's card by the kind of the task, as the tables of docs/results.md quote it.

python benchmarks/card.py plugins/genflow_hypergrid/pretrained/separable
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import click

from genflow.storage.files import read_json

#: the fields of the plain reward `original`
PLAIN = {"R0": 0.1, "R1": 0.5, "R2": 2.0, "outer": 0.25, "band": [0.3, 0.4]}


def kind(structure: dict[str, Any]) -> str:
    """The reward of a structure, and whether its heights or its width are unusual."""
    reward = structure["reward"]
    if reward != "original":
        return f"`{reward}`"
    if any(structure[key] != value for key, value in PLAIN.items()):
        return "`original`, other R0, bands and outer regions"
    if structure["width"] < 64:
        return "`original`, widths 32 to 63"
    return "`original`"


def groups(card: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """The (JS, JS untrained) of the test structures of each kind that can be listed."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in card["quality"]:
        if entry["role"] == "test" and "js" in entry["metrics"]:
            pair = entry["metrics"]["js"], entry["untrained"]["js"]
            found[kind(entry["structure"])].append(pair)
    return found


def short(value: float) -> str:
    """Two digits, without the 0 before the point."""
    if value >= 10:
        return f"{value:.0f}"
    digits = f"{value:.2g}" if value >= 0.001 else f"{value:.5f}".rstrip("0")
    return digits.removeprefix("0") if value < 1 else digits


def rows(card: dict[str, Any]) -> list[str]:
    """The lines of the table."""
    lines = []
    for name, pairs in groups(card).items():
        own, untrained = zip(*pairs, strict=True)
        cells = (short(median(own)), short(max(own)), short(median(untrained)))
        lines.append(f"| {name} | {len(own)} | {' | '.join(cells)} |")
    return lines


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Print the table."""
    click.echo("| reward | structures | median | worst | untrained, median |\n|---|---|---|---|---|")
    click.echo("\n".join(rows(read_json(folder / "generator.json"))))


if __name__ == "__main__":
    main()
