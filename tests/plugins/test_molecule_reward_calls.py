"""Reward calls: counted from outside, bounded, kept through a kill, and never paid twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import genflow, refused, started
from rdkit import Chem

from genflow import GenflowError, Population, RewardCalls, Structure

BLOCKS = "blocks=0+3+6,max_blocks=4"
#: a reward that writes down each molecule that it is asked for, and can be slow
PLUGIN = """
import os, time
import genflow
from rdkit import Chem

class Logged(genflow.Reward):
    environment = "molecule"
    reads_task = False

    def score(self, objects):
        time.sleep(float(os.environ.get("SLOW", "0")) * len(objects))
        with open(os.environ["ASKED"], "a") as file:
            file.writelines(Chem.MolToSmiles(mol) + "\\n" for mol in objects)
        return [1 / mol.GetNumAtoms() for mol in objects]

@genflow.hookimpl
def register_rewards(register):
    register("logged", "logged:Logged", environment="molecule")
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    (folder / "logged.py").write_text(PLUGIN)
    Population.initialised(Structure.parse("molecule", BLOCKS), 2, 0).save(folder / "start")
    return folder


def command(folder: Path, out: Path, *more: object) -> list[object]:
    plugin = ["--plugin", folder / "logged.py"]
    few = ["-o", "finetune.steps=400", "-o", "finetune.batch_size=4", "-o", "finetune.checkpoint_seconds=1"]
    asked = ["finetune", folder / "start", "--structure", f"{BLOCKS},reward=logged", *few]
    return [*plugin, *asked, "--out", out, *more]


def asked_of(file: Path) -> list[str]:
    return file.read_text().split()


def test_calls_are_what_the_function_was_asked_and_end_the_training(start, tmp_path):
    log, out = tmp_path / "asked", tmp_path / "out"
    alone = ["-o", "finetune.compare=false"]
    done = genflow(*command(start, out, *alone, "--reward-calls", 30), ASKED=log)
    asked = asked_of(log)
    facts = json.loads((out / "finetuned" / "population.json").read_text())["provenance"]
    assert facts["budget"]["reward_calls"] == len(asked) == len(set(asked))
    assert 30 <= len(asked) < 30 + 2 * 4 and facts["budget"]["steps"] < 400
    assert facts["history"]["calls"][-1][1] == len(asked)
    best = max(1 / Chem.MolFromSmiles(each).GetNumAtoms() for each in asked)
    assert facts["history"]["best_score"][-1][1] == pytest.approx(best)
    assert f"calls {len(asked)}" in done.stdout.replace(",", "")
    again = genflow(*command(start, out, *alone, "--reward-calls", 30), ASKED=log)
    assert asked_of(log) == asked and again.stdout == done.stdout
    assert "is complete: nothing is trained" in again.stderr


def test_a_killed_training_pays_for_nothing_twice(start, tmp_path):
    log, out = tmp_path / "asked", tmp_path / "out"
    line = command(start, out, "-o", "finetune.compare=false", "--reward-calls", 60)
    with started(*line, ASKED=log, SLOW=0.2) as job:
        job.until(lambda: log.exists() and len(asked_of(log)) > 20, "some scores")
    paid = asked_of(log)
    genflow(*line, ASKED=log)
    asked = asked_of(log)
    # what was being computed at the kill, some half a second, is all that is asked again
    assert asked[: len(paid)] == paid and len(asked) - len(set(asked)) <= 4
    facts = json.loads((out / "finetuned" / "population.json").read_text())["provenance"]
    assert facts["budget"]["reward_calls"] == len(set(asked)) >= 60


def test_what_cannot_be_counted_is_refused(start, tmp_path):
    grid = tmp_path / "grid"
    Population.initialised(Structure.parse("hypergrid", "ndim=2,height=4"), 1, 0).save(grid)
    line = refused("finetune", grid, "--reward-calls", 10, "-o", "finetune.steps=1", "--out", tmp_path / "no")
    assert "'hypergrid' does not count reward calls" in line
    assert "--reward-calls" in refused(*command(start, tmp_path / "no", "--reward-calls", 0), ASKED="none")


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "x.sqlite").write_text("no database, " * 100)
    with pytest.raises(GenflowError, match=r"x\.sqlite cannot hold the scores of a training: "):
        RewardCalls(tmp_path / "x.sqlite")


def test_another_function_or_other_options_are_other_scores(tmp_path):
    asked = []

    def score(names):
        asked.extend(names)
        return [float(len(name)) for name in names]

    with RewardCalls(tmp_path / "x.sqlite", 4).as_current() as calls:
        assert RewardCalls.current() is calls and calls.spent == 0
        assert calls.scores("one", ["C", "CC", "C"], score) == [1.0, 2.0, 1.0]
        assert calls.scores("two", ["C"], score) == [1.0]
    assert RewardCalls.current() is None
    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        assert calls.scores("one", ["CC", "CCC"], score) == [2.0, 3.0]
        assert (len(calls), calls.best, calls.spent) == (4, 3.0, 0.0)
    assert asked == ["C", "CC", "C", "CCC"]


def test_policies_that_paid_for_their_scores_can_be_measured_later(start, tmp_path):
    out = tmp_path / "out"
    genflow(*command(start, out, "--reward-calls", 10), ASKED=tmp_path / "asked")
    line = ["--plugin", start / "logged.py", "evaluate", out, "--metric", "js"]
    shown = genflow(*line, ASKED=tmp_path / "asked").stdout
    assert shown.count("reward calls") == 2
    assert {path.name for path in (out / "reward_calls").iterdir()} == {
        "finetuned.sqlite", "from_random.sqlite",
    }  # fmt: skip


def test_what_failed_is_counted_and_asked_again_by_the_next_process(tmp_path):
    def score(names):
        return [0.001 if name == "CC" else 0.5 for name in names]

    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        assert calls.scores("one", ["C", "CC"], score, failed={"CC": "why"}) == [0.5, 0.001]
        assert len(calls) == 2
    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        assert len(calls) == 1
        assert calls.scores("one", ["C", "CC"], lambda names: [0.75] * len(names)) == [0.5, 0.75]
