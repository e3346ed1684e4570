"""A beta up to 64: rewards down to 1e-192, in training, sampling and exact evaluation, against rationals."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from genflow_metrics.divergence import JS
from genflow_molecule.scoring import FLOOR
from oracles import lively
from processes import quickly
from test_molecule import structure

from genflow import Population, Progress, Structure, sample_objects, score_objects
from genflow.measure import values_of
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

#: floors most of the molecules, and pays the others between
PROFILE = "!qed:>0.6; tpsa:<30"


def task(**fields) -> Structure:
    return structure((0, 3, 6, 16), 3, **{"beta": 64.0, "reward": "profile", "profile": PROFILE, **fields})


def exact(task: Structure) -> tuple[list[Fraction], Fraction]:
    """R of every state, 0 where none ends, and their sum, by rational numbers."""
    graph = task.solution.graph
    scores = task.gallery.scores(graph.states).tolist()
    counts = task.environment.multiplicity if task.environment.config.multiplicity else {}
    names = task.gallery.names(graph.states)
    rewards = [
        Fraction(score) ** 64 / counts.get(name, 1) if ends else Fraction(0)
        for score, name, ends in zip(scores, names, graph.can_exit.tolist(), strict=True)
    ]
    return rewards, sum(rewards, Fraction(0))


def log(number: Fraction) -> float:
    """The logarithm, also of what no float can be."""
    shift = number.numerator.bit_length() - number.denominator.bit_length()
    return math.log(number / Fraction(2) ** shift) + shift * math.log(2)


@pytest.mark.parametrize("multiplicity", [False, True])
@pytest.mark.parametrize("fields", [{}, {"reward": "qed_sa"}], ids=["floored", "qed_sa"])
def test_target_and_optimal_policy_are_exact(fields, multiplicity):
    if fields:
        own = structure((0, 3, 6, 16), 3, beta=64.0, multiplicity=multiplicity, **fields)
    else:
        own = task(multiplicity=multiplicity)
        scores = own.gallery.scores(own.solution.graph.states[own.solution.graph.can_exit])
        assert 0.2 < float((scores == FLOOR).double().mean()) < 0.95
    rewards, total = exact(own)
    assert own.solution.log_reward()[own.solution.graph.can_exit].tolist() == pytest.approx(
        [log(reward) for reward in rewards if reward], rel=1e-12
    )
    assert own.solution.target().tolist() == pytest.approx(
        [float(reward / total) for reward in rewards], rel=1e-9, abs=0
    )
    flows = own.solution.optimal_flows()
    assert flows.log_z == pytest.approx(log(total), rel=1e-12)
    assert flows.policy.isfinite().all() and flows.policy.sum(1).allclose(torch.ones(1, dtype=torch.float64))
    ends = flows.visit * flows.policy[:, -1]
    assert ends.tolist() == pytest.approx([float(reward / total) for reward in rewards], rel=1e-6, abs=1e-200)


def test_divergences_of_policies_are_exact():
    own = task()
    population = lively(own, 3, scale=2.0)
    rewards, total = exact(own)
    ends = population.terminal_distribution()
    wanted = []
    for policy in ends.tolist():
        half = [(float(reward / total), p) for reward, p in zip(rewards, policy, strict=True)]
        wanted.append(
            sum(
                0.5 * (q * math.log(2 * q / (p + q)) if q else 0)
                + 0.5 * (p * math.log(2 * p / (p + q)) if p else 0)
                for q, p in half
            )
        )
    found = values_of(population, {"js": JS.from_config({}, "js")})["js"]
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)


def trained(own: Structure, folder: Path, objective: str, steps: int) -> tuple[Population, Population]:
    start = Population.initialised(own, 2, 0)
    options = PolicyOptions(objective=objective, steps=steps, lr=0.005, batch_size=64, log_z_start="estimate")
    made = train_population(
        own, options, start=start.weights, seed=0, folder=folder / objective, progress=Progress(quiet=True)
    )
    assert made.sound == [0, 1] and made.weights.isfinite().all()
    for points in made.provenance["history"].values():
        assert all(math.isfinite(value) for _, value in points)
    return start, made


@pytest.mark.parametrize("objective", ["tb", "db", "subtb", "distill"])
def test_policies_are_trained(objective, tmp_path):
    own = structure((0, 3, 6, 16), 3, beta=64.0, width=64)
    before, after = (
        float(values_of(each, {"js": JS.from_config({}, "js")})["js"].mean())
        for each in trained(own, tmp_path, objective, 120)
    )
    assert after < 0.75 * before
    trained(task(), tmp_path / "floored", objective, 10)


def test_a_mean_reward_that_float32_cannot_hold_is_told(tmp_path):
    own = structure((0, 3, 6, 16), 3, beta=64.0, reward="profile", profile="!mw:>900")
    _, made = trained(own, tmp_path, "tb", 2)
    told = [value for _, value in made.provenance["history"]["reward"]]
    assert told == pytest.approx([1e-192] * len(told), rel=1e-4, abs=0)


def test_log_z_is_estimated_where_every_molecule_is_floored():
    own = structure((0, 3, 6, 16), 3, beta=64.0, reward="profile", profile="!mw:>900")
    population = Population.initialised(own, 2, 0)
    assert population.log_z.tolist() == pytest.approx([log(exact(own)[1])] * 2, rel=1e-5)


def test_objects_are_sampled_and_scored(tmp_path):
    population = lively(task(), 2, scale=1.0)
    table = sample_objects(population, 200, unique=True).table
    assert table["log_reward"] == pytest.approx([64 * math.log(score) for score in table["score"]])
    assert min(table["log_reward"]) == pytest.approx(64 * math.log(0.001))
    (tmp_path / "mine.smi").write_text("\n".join(table["object"]))
    rows = score_objects(population, tmp_path / "mine.smi").rows
    assert [row["log_reward"] for row in rows] == pytest.approx(table["log_reward"])
    population.save(tmp_path / "start")
    few = ["-o", "finetune.steps=3", "-o", "finetune.batch_size=8", "-o", "finetune.compare=false"]
    quickly(
        "finetune",
        tmp_path / "start",
        *few,
        "--reward-calls",
        "50",
        "--out",
        tmp_path / "made",
        folder=tmp_path / "said",
    )
    asked = [
        "evaluate",
        tmp_path / "made",
        "--json",
        "--metric",
        "js",
        "--metric",
        "kl",
        "--metric",
        "log_z_gap",
    ]
    entry, *baselines = json.loads(quickly(*asked, folder=tmp_path / "read").said("stdout"))
    assert all(math.isfinite(value["mean"]) for value in entry["metrics"].values())
    assert baselines
