"""Sampled objects against exact distributions, and properties of what is kept of them."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from oracles import chi_square, grid, lively

from genflow import GenflowError, Population, sample_objects

NUM = 6000


@pytest.fixture(scope="module")
def population() -> Population:
    return lively(grid(2, 4), 3, scale=1.0)


@pytest.fixture(scope="module")
def table(population):
    return sample_objects(population, NUM, seed=1).table


def rows_of(table):
    return list(zip(*table.values(), strict=True))


def test_each_policy_samples_its_exact_distribution(population, table):
    gallery, graph = population.structure.gallery, population.structure.solution.graph
    names = gallery.names(graph.states)
    assert Counter(table["policy"]) == dict.fromkeys(range(3), NUM // 3)
    for policy, exact in enumerate(population.terminal_distribution()):
        seen = Counter(
            name for name, own in zip(table["object"], table["policy"], strict=True) if own == policy
        )
        counts = torch.tensor([float(seen[name]) for name in names])
        assert abs(chi_square(counts, exact * counts.sum())) < 4


def test_rows_say_what_their_object_is(population, table):
    states = torch.tensor(list(zip(table["x0"], table["x1"], strict=True)))
    log_reward = population.structure.transitions().log_reward(states)
    assert table["object"] == [f"{a}+{b}" for a, b in states.tolist()]
    torch.testing.assert_close(torch.tensor(table["log_reward"]), log_reward.float())
    torch.testing.assert_close(torch.tensor(table["score"]), log_reward.exp().float())
    counts = Counter(table["object"])
    assert table["count"] == [counts[name] for name in table["object"]]


def test_unique_keeps_the_first_row_of_each_object(population, table):
    found = sample_objects(population, NUM, seed=1, unique=True)
    first = {row[0]: row for row in reversed(rows_of(table))}
    assert len(set(found.table["object"])) == len(found.table["object"]) == found.summary["unique"]
    assert sum(found.table["count"]) == NUM
    assert sorted(rows_of(found.table)) == sorted(first.values())


def test_top_keeps_the_best_and_the_best_first(population, table):
    found = sample_objects(population, NUM, seed=1, unique=True, top=5).table
    scores = sorted({(-score, name) for score, name in zip(table["score"], table["object"], strict=True)})
    assert [-score for score, _ in scores[:5]] == found["score"]


def test_filters_keep_the_rows_that_meet_all_of_them(population, table):
    found = sample_objects(population, NUM, seed=1, filters=["x0<2 or x1==3", "not count<=300"]).table
    wanted = [
        row
        for row in rows_of(table)
        if (row[1] < 2 or row[2] == 3) and not dict(zip(table, row, strict=True))["count"] <= 300
    ]
    assert 0 < len(wanted) < NUM
    assert rows_of(found) == wanted
    nothing = sample_objects(population, 20, filters=["score>1e9"])
    assert nothing.summary["rows"] == 0
    assert list(nothing.table) == list(table)
    assert len(sample_objects(population, 20, filters=["1<2"]).table["object"]) == 20


def test_a_policy_that_diverged_samples_nothing():
    healthy = lively(grid(2, 4), 3)
    members = [{}, {"diverged_at": 3}, {}]
    population = replace(healthy, provenance={**healthy.provenance, "members": members})
    assert set(sample_objects(population, 10).table["policy"]) == {0, 2}


@pytest.mark.parametrize("num", [1, 2, 3, 100, 257])
def test_exactly_so_many_trajectories_are_drawn_by_the_policies_in_turn(population, num):
    table = sample_objects(population, num).table
    assert len(table["object"]) == num
    assert max(Counter(table["policy"]).values()) - num // 3 <= 1


def test_more_policies_than_are_drawn_together_all_draw(monkeypatch):
    from genflow.stages import sample

    monkeypatch.setattr(sample, "CHUNK", 4)
    counts = Counter(sample_objects(lively(grid(2, 3), 10), 30).table["policy"])
    assert counts == dict.fromkeys(range(10), 3)


def test_the_seed_decides(population, table):
    assert sample_objects(population, NUM, seed=1).table == table
    assert sample_objects(population, NUM, seed=2).table != table


def test_novelty_and_diversity(population, tmp_path):
    file = tmp_path / "known.txt"
    file.write_text("0,0\n\n# a comment\n1 1\nnonsense\n9+9\n")
    found = sample_objects(population, 500, unique=True, novel_to=file)
    names = found.table["object"]
    assert found.summary["novelty"] == pytest.approx(
        sum(name not in ("0+0", "1+1") for name in names) / len(names)
    )
    assert found.warnings == [f"{file}, line 5: 'nonsense' is no list of numbers such as 0+0"]
    pairs = list(itertools.combinations([name.split("+") for name in names], 2))
    differ = sum((a[0] != b[0]) + (a[1] != b[1]) for a, b in pairs) / (2 * len(pairs))
    assert found.summary["diversity"] == pytest.approx(differ)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filters": ["mw>3"]}, "names no column 'mw'"),
        ({"columns": ["mw"]}, "--column 'mw' is unknown"),
        ({"novel_to": "no-such-file"}, "cannot read no-such-file"),
        ({"num": 0}, "sample 1 trajectory at least"),
    ],
)
def test_mistakes_are_one_line(population, options, said):
    with pytest.raises(GenflowError, match=said) as error:
        sample_objects(population, **options)
    assert "\n" not in str(error.value)


def test_a_table_is_saved_by_its_suffix(population, tmp_path):
    found = sample_objects(population, 5)
    found.save(tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "object,x0,x1,score,log_reward,policy,count"
    assert len(lines) == 6
    with pytest.raises(GenflowError, match="nothing but SMILES"):
        found.save(tmp_path / "t.smi")
