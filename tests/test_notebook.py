"""The notebook for chemists runs from its first cell to its last, and shows what it promises."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPO = Path(__file__).parents[1]
NOTEBOOK = REPO / "examples" / "molecules.ipynb"
MAX_BYTES = 2**20


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


def test_the_notebook_runs_as_it_stands(tmp_path):
    shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    stored = shown(notebook)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert shown(notebook) == stored  # the same pictures and tables as are kept
    assert sum(picture for picture, _ in stored) == 5 and sum(table for _, table in stored) == 2
    with (tmp_path / "runs" / "notebook" / "molecules.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100 and all(float(row["qed"]) > 0.7 for row in rows)
    assert [float(row["score"]) for row in rows] == sorted((float(r["score"]) for r in rows), reverse=True)


def test_what_the_notebook_keeps_is_small_and_names_no_folder_of_a_machine():
    text = NOTEBOOK.read_text()
    assert len(text) < MAX_BYTES
    assert [cell.execution_count for cell in code(nbformat.reads(text, as_version=4))] == list(
        range(1, len(code(nbformat.reads(text, as_version=4))) + 1)
    )
    for private in (str(Path.home()), str(REPO), "/tmp/"):
        assert private not in text
