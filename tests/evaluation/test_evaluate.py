"""What is measured where: metrics that fit, populations in parts, values that are missing."""

from __future__ import annotations

import json
import math

import pytest
import torch
from oracles import grid, lively

import genflow.population
from genflow import GenflowError, Population, Zoo, evaluate, load_config
from genflow.evaluation.evaluate import choose_metrics, format_number, table
from genflow.evaluation.report import write_report
from genflow.measure import all_metrics, exact_metrics, values_of
from genflow.pipeline import compare, evaluate_folder
from genflow.progress import Progress

REFERENCE = {"novelty", "novelty_tv", "error_agreement"}


def named(source: str, population: Population) -> Population:
    return Population(population.structure, population.weights, {"source": source})


@pytest.fixture
def zoo(tmp_path):
    for seed, height in enumerate((4, 6)):
        named("trained", lively(grid(2, height), 4, seed)).save(tmp_path / "zoo" / str(height))
    return Zoo(tmp_path / "zoo")


def test_metrics_that_fit_are_chosen():
    small, large = grid(2, 4), grid(8, 20)
    every = {name: metric for name, metric in all_metrics().items() if metric.fits(small)}
    # only those of molecules do not fit a grid
    assert {"molecule_js", "top_10"} <= all_metrics().keys() - every.keys() and {
        "js",
        "mean_reward",
        "novelty",
    } <= every.keys()
    assert list(choose_metrics(small, reference=True)) == list(every)
    assert every.keys() - choose_metrics(small) == REFERENCE
    assert set(choose_metrics(large, reference=True)) == {
        name for name, metric in every.items() if not metric.exact
    }
    assert list(choose_metrics(small, ["tv", "js"])) == ["tv", "js"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("novelty", "'novelty' compares with a zoo's checkpoints"),
        ("novelty_tv", "needs every state"),
        ("js", "mean_reward, .*diversity"),
    ],
)
def test_named_metrics_that_do_not_fit_are_refused(name, message):
    with pytest.raises(GenflowError, match=message) as caught:
        choose_metrics(grid(8, 20), [name])
    assert "\n" not in str(caught.value)
    with pytest.raises(GenflowError):
        evaluate(Population.initialised(grid(8, 20), 2, 0), [name])


def test_checkpoints_of_another_structure_are_refused():
    with pytest.raises(GenflowError, match="cannot be compared"):
        evaluate(lively(grid(2, 4), 2), checkpoints=lively(grid(2, 6), 2))


def test_values_do_not_depend_on_the_parts(monkeypatch):
    population, checkpoints = lively(grid(2, 5), 7), lively(grid(2, 5), 4, seed=1)
    metrics = {
        name: metric
        for name, metric in all_metrics().items()
        if metric.joint or metric.reference or name in ("js", "kl")
    }
    assert len(metrics) == 8
    whole = values_of(population, metrics, checkpoints)
    monkeypatch.setattr(genflow.population, "MAX_DISTRIBUTION", 3 * 25)
    assert [len(part) for part in population.parts()] == [3, 3, 1]
    for name, values in values_of(population, metrics, checkpoints).items():
        torch.testing.assert_close(values, whole[name], rtol=1e-4, atol=1e-6, msg=name)
    assert not exact_metrics().keys() & (REFERENCE | {"diversity_tv"})


def test_a_comparison_uses_the_structures_own_checkpoints_or_the_nearest_ones(zoo):
    config = load_config(env="hypergrid", **{"evaluation.num": 3})
    own = zoo.populations[1]
    entries = compare(config, [own, named("generated", own[:2])], zoo, Progress())
    novelty = {entry["source"]: entry["metrics"]["novelty"] for entry in entries}
    assert novelty["trained"]["mean"] == pytest.approx(1)
    assert novelty["generated"] == {"mean": 0, "min": 0, "max": 0}
    assert 0 < novelty["perturbed"]["max"] < 0.5 < novelty["random"]["min"]
    entries = compare(config, [lively(grid(2, 7), 2)], zoo, Progress())
    novelty = {entry["source"]: entry["metrics"]["novelty"]["mean"] for entry in entries}
    assert novelty["nearest"] == 0 and novelty["random"] > 0.5
    (random, *_) = compare(config, [lively(grid(2, 7), 2)], None, Progress())
    assert REFERENCE.isdisjoint(random["metrics"])


def test_a_metric_that_needs_a_zoo_is_refused_before_anything_is_written(zoo, tmp_path):
    config = load_config(env="hypergrid", **{"evaluation.metrics": ["novelty"]})
    with pytest.raises(GenflowError, match="no zoo of this kind"):
        evaluate_folder(config, [lively(grid(2, 4), 2)], None, tmp_path / "out", Progress())
    assert not (tmp_path / "out").exists()
    assert set(evaluate_folder(config, [lively(grid(2, 4), 2)], zoo, None, Progress())[0]["metrics"]) == {
        "novelty"
    }


def test_missing_values_are_dashes_and_null(zoo, tmp_path):
    config = load_config(env="hypergrid", **{"evaluation.num": 2})
    entries = evaluate_folder(
        config, [named("generated", lively(grid(2, 6), 2, 5))], zoo, tmp_path / "out", Progress()
    )
    mean = next(entry for entry in entries if entry["source"] == "mean")
    assert (
        math.isnan(mean["metrics"]["diversity"]["mean"])
        and format_number(math.nan) == format_number(None) == "-"
        and format_number(0.0) == "0"
    )
    header, rows = table(entries, ["js", "diversity", "cka"])
    cells = {row[header.index("source")]: row[header.index("js") :][:3] for row in rows}
    assert cells["mean"][1:] == ["-", "-"] and "-" not in cells["mean"][:1] + cells["generated"]
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())["entries"]
    assert next(entry for entry in written if entry["source"] == "mean")["metrics"]["diversity"] == {
        "mean": None,
        "min": None,
        "max": None,
    }
    page = write_report(tmp_path / "out").read_text()
    assert "error_agreement" in page and ">nan" not in page and ">-</td>" in page
