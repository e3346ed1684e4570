"""Tables of objects on disk, read back by what reads such files elsewhere."""

from __future__ import annotations

import csv
import json
import math
import sys

import pytest

from genflow import GenflowError
from genflow.storage import files
from genflow.storage.tables import as_html, check_table_path, write_table

TABLE = {"object": ["CCO", 'a,"b'], "score": [0.1 + 0.2, math.nan], "count": [3, 1]}


def test_csv_holds_every_digit_and_quotes(tmp_path):
    write_table(tmp_path / "new" / "t.csv", TABLE)
    with open(tmp_path / "new" / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["object"] for row in rows] == TABLE["object"]
    assert float(rows[0]["score"]) == 0.1 + 0.2
    assert [(row["count"]) for row in rows] == ["3", "1"]
    assert rows[1]["score"] == ""


def test_jsonl_has_an_object_a_line(tmp_path):
    write_table(tmp_path / "t.jsonl", TABLE)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert rows[0] == {"object": "CCO", "score": 0.1 + 0.2, "count": 3}
    assert rows[1]["score"] is None


def test_smi_has_a_smiles_a_line(tmp_path):
    write_table(tmp_path / "T.SMI", TABLE)
    assert (tmp_path / "T.SMI").read_text().splitlines() == TABLE["object"]


def test_parquet_is_read_back_with_its_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    check_table_path(path)
    write_table(path, {**TABLE, "more": [None, 1.5]})
    table = parquet.read_table(path)
    assert [str(each) for each in table.schema.types] == ["string", "double", "int64", "double"]
    rows = table.to_pylist()
    assert rows[0] == {"object": "CCO", "score": 0.1 + 0.2, "count": 3, "more": None}
    assert rows[1]["object"] == 'a,"b' and rows[1]["score"] is None and rows[1]["more"] == 1.5


def test_without_pyarrow_parquet_is_refused_before_anything_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        GenflowError, match=r"needs pyarrow.*pip install pyarrow.*the extra parquet"
    ) as caught:
        check_table_path(tmp_path / "t.parquet")
    assert "\n" not in str(caught.value)


def test_a_pyarrow_that_does_not_fit_is_told_apart(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "pyarrow").mkdir()
    (tmp_path / "pyarrow" / "__init__.py").write_text("raise ImportError('needs another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GenflowError, match=r"cannot be imported: needs another numpy; install another"):
        check_table_path(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("t.txt", "smiles", "ends in .csv, .jsonl, .smi, .parquet"),
        ("t", "smiles", "ends in .csv"),
        ("t.smi", "position", "nothing but SMILES"),
        ("folder.csv", "smiles", "is a folder"),
        ("file/t.csv", "smiles", "is a file, not a folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path, name, kind, said):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(GenflowError, match=said):
        check_table_path(tmp_path / name, kind)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    write_table(path, TABLE)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(GenflowError, match="No space left"):
        write_table(path, {"object": ["x"]})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_notebook_shows_the_first_rows():
    page = as_html({"object": ["<b>&"] * 25, "score": [0.123456] * 25, "more": [None] * 25})
    assert page.count("<tr>") == 21 and "<p>5 rows more</p>" in page
    assert "<td>&lt;b&gt;&amp;</td><td>0.1235</td><td></td>" in page
    assert "rows more" not in as_html(TABLE)
