"""`genflow sample` and `genflow score` as a user runs them."""

from __future__ import annotations

import csv
import json

import pytest
from oracles import grid, lively
from test_cli import genflow

from genflow import Structure
from genflow.cli.main import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Policies of positions and of molecules."""
    root = tmp_path_factory.mktemp("saved")
    lively(grid(2, 4), 3, scale=1.0).save(root / "grid")
    molecules = Structure.build("molecule", {"blocks": 12, "max_blocks": 3, "width": 8})
    lively(molecules, 2, scale=1.0).save(root / "molecule")
    return root


@pytest.fixture
def run(capsys):
    """Run a command in this process, and return its status, standard output and standard error."""

    def run(*args):
        status = 0
        try:
            main([str(each) for each in args])
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return run


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_molecules_from_policies_to_a_file_and_back(saved, tmp_path, run):
    out = tmp_path / "molecules.csv"
    status, printed, _ = run(
        "sample", saved / "molecule", "--num", 200, "--unique", "--top", 20, "--out", out
    )
    assert status == 0
    assert printed.startswith("sampled 200, ")
    assert printed.endswith(f"\ntable in {out}\n")
    rows = read(out)
    scores = [float(row["score"]) for row in rows]
    assert len({row["object"] for row in rows}) == len(rows) == 20
    assert scores == sorted(scores, reverse=True)
    scored = json.loads(run("score", saved / "molecule", "--smiles", out, "--json")[1])
    assert [each["object"] for each in scored["objects"]] == [row["object"] for row in rows]
    assert [each["score"] for each in scored["objects"]] == pytest.approx(scores)
    assert all(each["made"] and 0 < each["probability"] < 1 for each in scored["objects"])
    assert scored["policies"] == [0, 1]


@pytest.mark.parametrize("kind", ["molecule", "grid"])
def test_a_parquet_file_holds_what_a_csv_file_does(saved, tmp_path, run, kind):
    parquet = pytest.importorskip("pyarrow.parquet")
    asked = ["sample", saved / kind, "--num", 60, *(["--column", "logp"] if kind == "molecule" else [])]
    for suffix in ("csv", "parquet"):
        assert run(*asked, "--out", tmp_path / f"t.{suffix}")[0] == 0
    found = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [{key: str(value) for key, value in row.items()} for row in found] == read(tmp_path / "t.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


def test_the_result_is_the_same_with_any_number_of_workers(saved, tmp_path):
    command = ["sample", saved / "grid", "--num", 1000, "--json", "--out"]
    alone = json.loads(genflow(*command, tmp_path / "a.jsonl").stdout)
    shared = json.loads(genflow(*command, tmp_path / "b.jsonl", "--nproc-per-node", 2).stdout)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert {**alone, "out": None} == {**shared, "out": None}
    assert (alone["sampled"], alone["rows"]) == (1000, 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_positions_are_shown_and_scored(saved, tmp_path, run):
    _, shown, _ = run("sample", saved / "grid", "--unique", "--top", 2, "--filter", "x0<3")
    header, first, second, summary = shown.splitlines()
    assert header.split() == ["object", "x0", "x1", "score", "log_reward", "policy", "count"]
    assert int(first.split()[1]) < 3 and int(second.split()[1]) < 3
    assert summary.startswith("sampled 1000, ")
    _, best, _ = run("sample", saved / "grid")
    rows = [line.split() for line in best.splitlines()[1:-1]]
    assert len({row[0] for row in rows}) == len(rows) == 16  # every cell once
    assert [float(row[3]) for row in rows] == sorted((float(row[3]) for row in rows), reverse=True)
    (tmp_path / "mine.txt").write_text("3,3\n0,7\nx\n")
    status, printed, warned = run(
        "score", saved / "grid", "--positions", tmp_path / "mine.txt", "--out", tmp_path / "s.csv"
    )
    assert status == 0
    assert printed.splitlines()[0] == "1 of 2 can be made, 1 line cannot be read"
    assert warned == f"warning: {tmp_path / 'mine.txt'}, line 3: 'x' is no list of numbers such as 0+0\n"
    rows = read(tmp_path / "s.csv")
    assert [row["made"] for row in rows] == ["True", "False"]
    assert rows[1]["why_not"] == "has 7, and positions end at 3"


def test_a_table_without_a_row_is_refused_with_what_dropped_all(saved, tmp_path, run):
    out = tmp_path / "t.csv"
    asked = ("sample", saved / "grid", "--num", 50, "--seed", 1, "--out", out, "--filter", "x0>=0 and x1<2")
    assert run(*asked)[0] == 0
    kept = len(read(out))
    assert 0 < kept < 50
    highest = max(float(row["score"]) for row in read(out))
    out.unlink()
    status, printed, error = run(*asked, "--filter", "score>99")
    assert (status, printed, out.exists()) == (2, "", False)
    assert error.startswith(
        f"genflow: nothing is kept, so no table is made: of 50 sampled {50 - kept} rows are "
    )
    assert f"by --filter 'x0>=0 and x1<2' (x0 0 to 3, x1 0 to 3), {kept} row" in error
    assert "dropped by --filter 'score>99' (score " in error and f" to {highest:.4g})" in error
    assert error.count("\n") == 1 and "--num" in error


def test_mistakes_are_one_line_and_nothing_is_written(saved, tmp_path, run):
    out, positions = tmp_path / "new" / "t.csv", ("score", saved / "grid", "--positions")
    sample = ("sample", saved / "grid", "--out", out)
    for said, *command in (
        ("names no column 'scor'; did you mean 'score'?", *sample, "--filter", "scor>1"),
        ("is no condition", *sample, "--filter", "score>"),
        (".smi holds nothing but SMILES", *sample, "--out", out.with_suffix(".smi")),
        ("ends in .csv", *sample, "--out", out.with_suffix(".xlsx")),
        ("--column 'mw' is unknown", *sample, "--column", "mw"),
        ("cannot read", *sample, "--novel-to", tmp_path / "none.smi"),
        ("--num", *sample, "--num", 0),
        ("is no folder", "sample", tmp_path / "none"),
        ("cannot read", *positions, tmp_path / "none"),
        ("nothing but SMILES", *positions, "any.txt", "--out", tmp_path / "t.smi"),
        ("--trajectories", *positions, "any.txt", "--trajectories", 0),
    ):
        status, printed, error = run(*command)
        assert (status, printed) == (2, "")
        assert error.startswith("genflow: ") and error.count("\n") == 1
        assert said in error
    assert not list(tmp_path.iterdir())
