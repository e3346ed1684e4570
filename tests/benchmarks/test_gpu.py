"""`make bench-gpu` in its CPU form: every row is measured or says why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

SOURCE = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(SOURCE))  # scripts, not a package

import gpu  # noqa: E402

HERE = ["--device", "cpu", "--smoke", "--threads", "1", "--peers", "none"]


def run(out: Path, *options: str) -> dict:
    done = CliRunner().invoke(gpu.main, [*HERE, "--out", str(out), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(out.read_text())


def test_every_row_is_measured_or_says_why_not(tmp_path):
    found = run(tmp_path / "gpu.json")
    measured = {(figure["setting"], figure["side"]) for figure in found["figures"]}
    failed = {(row["setting"], row["side"]): row["error"] for row in found["facts"]["failed"]}
    assert measured | set(failed) == {(row.setting, row.side) for row in gpu.rows(gpu.SMOKE)}
    assert not measured & set(failed)
    assert all(side.startswith("gfnx") and error for (_, side), error in failed.items())
    assert all(value > 0 for figure in found["figures"] for value in figure["values"])
    steps = found["facts"]["trajectory_steps_before_and_after"]
    assert len({before for before, _ in steps.values()}) == 1  # all sides start from one policy
    assert ("genflow, 2 members", "torchgfn") in {(r["ours"], r["theirs"]) for r in found["ratios"]}


def test_what_matters_most_comes_first_and_nothing_twice():
    rows = gpu.rows(gpu.FULL)
    assert [row.kind for row in rows[:3]] == ["genflow", "torchgfn", "gfnx"]
    assert [row.arguments for row in rows[:3]] == [
        {"members": members, "batch": 16} for members in (1024, 1, 1024)
    ]
    assert len({(row.setting, row.side) for row in rows}) == len(rows)


def test_a_side_that_fails_is_written_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "rows", lambda size: [gpu.trained("gfnx", 2, 4), gpu.trained("genflow", 2, 4)])
    monkeypatch.setitem(gpu.SCRIPTS, "gfnx", "no_such_side.py")
    found = run(tmp_path / "gpu.json")
    assert [row["side"] for row in found["facts"]["failed"]] == ["gfnx, 2 members"]
    assert [figure["side"] for figure in found["figures"]] == ["genflow, 2 members"]


def test_a_run_ends_with_what_it_has_when_time_is_up(tmp_path, monkeypatch):
    def measure(self, row, original=gpu.Measurement.measure):
        if row.kind == "torchgfn":
            self.stop()  # as the clock does, here with no side under way yet
        original(self, row)

    monkeypatch.setattr(gpu.Measurement, "measure", measure)
    found = run(tmp_path / "gpu.json")
    assert [figure["side"] for figure in found["figures"]] == ["genflow, 2 members"]
    assert [row["error"] for row in found["facts"]["failed"]] == ["stopped, as time was up"]


@pytest.mark.skipif(gpu.torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path):
    done = CliRunner().invoke(gpu.main, ["--out", str(tmp_path / "gpu.json")])
    assert done.exit_code == 1
    assert "torch finds no GPU here; try --device cpu --smoke" in done.output
