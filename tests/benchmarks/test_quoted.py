"""The figures of docs/results.md come from the cards and from benchmarks/results/."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "benchmarks"))  # scripts, not a package

import card  # noqa: E402
import table  # noqa: E402

RESULTS = (REPO / "docs" / "results.md").read_text()


def figures(name: str) -> dict:
    return json.loads((REPO / "benchmarks" / "results" / name).read_text())


def test_the_table_of_rewards_is_that_of_the_card():
    folder = REPO / "plugins" / "genflow_hypergrid" / "pretrained" / "separable"
    rows = card.rows(json.loads((folder / "generator.json").read_text()))
    assert len(rows) > 5
    assert [row for row in rows if row not in RESULTS] == []


@pytest.mark.parametrize("entry", figures("bounds.json")["figures"], ids=lambda entry: entry["structure"])
def test_bounds_are_those_that_were_measured(entry):
    size = entry["structure"].split(",backward")[0].replace("ndim=", "").replace(",height=", ", ")
    row = next(line for line in RESULTS.splitlines() if line.startswith(f"| ({size}) |"))
    for found in (entry, entry["distilled"]):
        pair = " / ".join(card.short(found[name]["mean"]) for name in ("kl_bound", "reverse_kl_bound"))
        assert pair in row, f"{row} does not hold {pair}"
    run = [run for run in figures("large_grids_torchgfn.json")["runs"] if f"({size})" in named(run)]
    for each in run:
        for trained in each["entries"]:
            pair = " / ".join(card.short(trained["metrics"][name]) for name in ("kl_bound", "log_z_gap"))
            assert pair in row, f"{row} does not hold {pair}"


def named(run: dict) -> str:
    return f"({run['structure']['ndim']}, {run['structure']['height']})"


def test_numbers_are_quoted_with_two_digits():
    assert [card.short(value) for value in (0.0046, 0.02, 0.5, 1.7, 12.886, 100.35, 0.00031)] == [
        ".0046", ".02", ".5", "1.7", "13", "100", ".00031",
    ]  # fmt: skip


def test_the_table_of_speed_is_that_of_the_results():
    text = (REPO / "docs" / "performance.md").read_text()
    rows = [row for name in table.WORKS for row in table.rows(figures(f"{name}.json"))]
    assert len(rows) > 40
    assert [row for row in rows if row not in text] == [], "run benchmarks/table.py benchmarks/results"


def test_the_tables_of_the_gpu_are_those_of_the_results():
    text = (REPO / "docs" / "performance.md").read_text()
    rows = [row for work in table.GPU for row in table.matrix(figures("gpu.json"), work)]
    assert len(rows) > 15
    assert [row for row in rows if row not in text] == [], "run benchmarks/table.py benchmarks/results"


def test_the_page_of_the_paper_quotes_what_was_measured():
    rows = {
        line.split(" |")[0].strip("| "): line
        for line in (REPO / "docs" / "paper.md").read_text().splitlines()
    }
    structures = {"table1": "known A to D", "table2": "unknown A* to D*", "table9": "unknown E* to H*"}
    for item, names in structures.items():
        findings = figures(f"paper/{item}.json")["findings"]
        for finding, width in zip(findings, ("the paper's d", "128"), strict=False):
            measured = sorted(float(value) for value in re.findall(r" (0\.\d+)", finding))
            quoted = sorted(float(value) for value in re.findall(r"\.\d+", rows[f"{names}, {width}"]))
            assert quoted == pytest.approx(measured, abs=6e-4) and len(quoted) == 5
