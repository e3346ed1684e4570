"""The generators that ship give what the table says, on tasks that nothing was trained or selected on."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

import genflow

RESULTS = Path(__file__).parents[1] / "results"
FOLDER = files("genflow_gym") / "pretrained"
NAMES = sorted(path.stem for path in RESULTS.glob("*.json") if (FOLDER / path.stem).is_dir())


def test_every_environment_has_a_generator_and_a_table():
    assert {entry.name for entry in FOLDER.iterdir() if entry.is_dir()} == set(NAMES)
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_gives_what_the_table_says(name):
    table = json.loads((RESULTS / f"{name}.json").read_text())
    generator = genflow.Generator.from_pretrained(str(FOLDER / name))
    known = [*generator.card.training_structures, *generator.card.selection_structures]
    assert all(row["fields"] not in known for row in table["tasks"])
    row = min(table["tasks"], key=lambda row: row["states"])
    env = generator.card.env
    # the first that ships and covers the task is this one
    population = genflow.generate(env, row["fields"], num=row["num"], device="cpu")
    assert not population.seen
    said = row["generated"]["at_once"]
    found = genflow.evaluate(population, list(said))["metrics"]
    for metric, value in said.items():
        # bounds are of drawn trajectories, one of which may turn where machines round in other ways
        near = {"rel": 0.05, "abs": 1e-6} if metric == "js" else {"abs": 0.3}
        assert found[metric]["mean"] == pytest.approx(value, **near)
    assert sum(path.stat().st_size for path in (FOLDER / name).iterdir()) < 2_000_000
