"""The notebooks run from their first cell to their last, and show what they promise."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPO = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (REPO / "examples").glob("*.ipynb"))
MAX_BYTES = 2**20


def read(name: str):
    return nbformat.read(REPO / "examples" / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook) -> list[tuple[bool, bool]]:
    """Whether each cell shows a picture, and whether it shows a table."""
    found = [[getattr(output, "data", {}) for output in cell.outputs] for cell in code(notebook)]
    return [
        (
            any("image/png" in each for each in data),
            any("<table" in each.get("text/html", "") for each in data),
        )
        for data in found
    ]


def printed(notebook) -> str:
    return "".join(output.get("text", "") for cell in code(notebook) for output in cell.outputs)


def run(name: str, folder: Path):
    """The notebook after a run in a folder of its own; it shows the same pictures and tables as are kept."""
    shutil.copy(REPO / "examples" / f"{name}.ipynb", folder)
    notebook = read(name)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    assert shown(notebook) == shown(read(name))
    return notebook


def test_molecules(tmp_path):
    notebook = run("molecules", tmp_path)
    assert sum(picture for picture, _ in shown(notebook)) == 5
    assert sum(table for _, table in shown(notebook)) == 2
    with (tmp_path / "runs" / "notebook" / "molecules.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100 and all(float(row["qed"]) > 0.7 for row in rows)
    assert [float(row["score"]) for row in rows] == sorted((float(r["score"]) for r in rows), reverse=True)


def test_first_policy(tmp_path):
    notebook = run("first_policy", tmp_path)
    assert [sum(column) for column in zip(*shown(notebook), strict=True)] == [1, 1]
    seen, unseen, untrained, trained = map(float, re.findall(r"JS ([\d.]+)", printed(notebook)))
    assert max(seen, unseen, trained) < 0.001 < 0.3 < untrained


@pytest.mark.slow
def test_own_environment(tmp_path):
    text = printed(run("own_environment", tmp_path))
    pairs = [
        tuple(map(float, each)) for each in re.findall(r"generated JS ([\d.]+), untrained ([\d.]+)", text)
    ]
    assert len(pairs) == 5
    assert all(generated < untrained / 3 for generated, untrained in pairs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_a_notebook_keeps_is_small_and_names_no_folder_of_a_machine(name):
    assert f"def test_{name}(" in Path(__file__).read_text(), f"write a test that runs {name}"
    text = (REPO / "examples" / f"{name}.ipynb").read_text()
    assert len(text) < MAX_BYTES
    cells = code(read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for private in (str(Path.home()), str(REPO), "/tmp/"):
        assert private not in text
