"""Scores shared out over workers: each object is asked once, and all is as one process makes it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from processes import group, leftovers, numbers, quickly, started

from genflow import Population, Structure

BLOCKS = "blocks=0+3+6,max_blocks=4"
#: a reward that writes down each molecule that it is asked for, and by which worker
PLUGIN = """
import os, time
import genflow
from rdkit import Chem

class Shared(genflow.Reward):
    environment = "molecule"
    reads_task = False

    def score(self, objects):
        time.sleep(float(os.environ.get("SLOW", "0")) * len(objects))
        fault = os.environ.get("FAULT")
        if fault == "raises":
            raise RuntimeError("no licence")
        with open(os.environ["ASKED"], "a") as file:
            file.writelines(f"{os.environ.get('RANK')} {Chem.MolToSmiles(mol)}\\n" for mol in objects)
        scores = [1 / mol.GetNumAtoms() for mol in objects]
        return scores[1:] if fault == "one too few" else scores

@genflow.hookimpl
def register_rewards(register):
    register("shared", "shared_out:Shared", environment="molecule")
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    (folder / "shared_out.py").write_text(PLUGIN)
    Population.initialised(Structure.parse("molecule", BLOCKS), 2, 0).save(folder / "start")
    return folder


def command(folder: Path, out: Path, *more: object) -> list[object]:
    few = ["-o", "finetune.batch_size=6", "-o", "finetune.steps=400", "-o", "finetune.replay_ratio=0.5"]
    asked = ["finetune", folder / "start", "--structure", f"{BLOCKS},reward=shared", *few]
    return ["--plugin", folder / "shared_out.py", *asked, "--reward-calls", 40, "--out", out, *more]


def asked_of(file: Path) -> list[tuple[str, str]]:
    return [(rank, smiles) for rank, smiles in (line.split() for line in file.read_text().splitlines())]


def stored(file: Path) -> dict[str, float]:
    with sqlite3.connect(file) as store:
        return dict(store.execute("SELECT object, score FROM scores"))


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory) -> Path:
    """What one process makes."""
    out = tmp_path_factory.mktemp("one")
    quickly(*command(start, out / "out"), folder=out, ASKED=out / "asked")
    return out


def test_two_workers_ask_for_each_object_once_and_train_as_one_does(start, alone, tmp_path):
    group(2, *command(start, tmp_path / "out"), folder=tmp_path, ASKED=tmp_path / "asked", SLOW=0.02)
    asked = asked_of(tmp_path / "asked")
    assert Counter(smiles for _, smiles in asked) == Counter(
        smiles for _, smiles in asked_of(alone / "asked")
    )
    assert len(asked) == len({smiles for _, smiles in asked})
    assert min(Counter(rank for rank, _ in asked).values()) >= len(asked) // 4  # both worked
    for name in ("finetuned", "from_random"):
        found, expected = (stored(o / "out" / "reward_calls" / f"{name}.sqlite") for o in (tmp_path, alone))
        facts = json.loads((tmp_path / "out" / name / "population.json").read_text())["provenance"]
        assert found == expected and facts["budget"]["reward_calls"] == len(found) >= 40
    weights = [
        {key: tensor for key, tensor in numbers(o / "out").items() if ":" in key} for o in (tmp_path, alone)
    ]
    assert weights[0].keys() == weights[1].keys() and len(weights[0]) > 4
    assert all(tensor.equal(weights[1][key]) for key, tensor in weights[0].items())
    assert leftovers(tmp_path / "out") == []
    assert {path.name for path in (tmp_path / "out" / "reward_calls").iterdir()} == {
        "finetuned.sqlite",
        "from_random.sqlite",
    }


def test_workers_that_sample_read_what_was_paid_for(start, alone, tmp_path):
    line = ["--plugin", start / "shared_out.py", "sample", alone / "out", "--num", 600, "--json"]
    paid = {smiles for _, smiles in asked_of(alone / "asked")}
    said = group(2, *line, folder=tmp_path, ASKED=tmp_path / "asked")
    facts = json.loads(said[0].said("stdout"))
    asked = asked_of(tmp_path / "asked")
    assert facts["scores_asked"] == len(asked) > 0 and not paid & {smiles for _, smiles in asked}
    seen = quickly(*line, folder=tmp_path / "one", ASKED=tmp_path / "other")
    assert json.loads(seen.said("stdout"))["scores_read"] == facts["scores_read"] > 0


def test_killed_workers_have_kept_what_was_paid_for(start, alone, tmp_path):
    line, log = command(start, tmp_path / "out", "-o", "finetune.compare=false"), tmp_path / "asked"
    with started(*line, "--nproc-per-node", 2, ASKED=log, SLOW=0.55) as job:
        job.until(lambda: log.exists() and len(asked_of(log)) >= 10 and job.workers(), "some scores")
    before = asked_of(log)
    assert {rank for rank, _ in before} == {"0", "1"}
    group(2, *line, folder=tmp_path, ASKED=log)
    asked = [smiles for _, smiles in asked_of(log)]
    # what was being scored at the kill, one object of each worker, is all that is asked again
    assert len(asked) - len(set(asked)) <= 2
    own = tmp_path / "out" / "reward_calls" / "finetuned.sqlite"
    expected = stored(alone / "out" / "reward_calls" / "finetuned.sqlite")
    assert set(asked) == stored(own).keys() == expected.keys() and leftovers(tmp_path / "out") == []
    weights = [numbers(o / "out" / "finetuned") for o in (tmp_path, alone)]
    assert all(t.equal(weights[1][key]) for key, t in weights[0].items() if ":" in key)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raises", "reward shared failed for "),
        ("one too few", "reward shared returned 0 scores for 1 molecule, "),
    ],
)
def test_a_function_that_fails_on_all_workers_is_told_in_one_line(start, tmp_path, fault, says):
    said = group(
        2, *command(start, tmp_path / "out"), folder=tmp_path, status=2, ASKED=tmp_path / "asked", FAULT=fault
    )
    note, line = said[0].said("stderr").splitlines()
    assert "are trained on" in note and line.startswith(f"genflow: {says}")
