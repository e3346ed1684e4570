"""Differences between the policies of a population: worked out by hand, and properties of a distance."""

from __future__ import annotations

import pytest
from genflow_metrics.diversity import Diversity, DiversityTV, spaced
from oracles import at, exits, grid, lively, shuffled

from genflow import Population


def test_diversity_worked_out_by_hand():
    # distances 3, 4 and 5; norms 0, 3 and 4
    values = Diversity()(at(grid(1, 3), (0, 0), (3, 0), (0, 4)))
    assert values.tolist() == pytest.approx([3.5 / (7 / 3), 4 / (7 / 3), 4.5 / (7 / 3)])


def test_diversity_tv_worked_out_by_hand():
    # total variations .9, .3 and .6
    values = DiversityTV()(exits(1.0, 0.1, 0.7))
    assert values.tolist() == pytest.approx([0.6, 0.75, 0.45], abs=1e-6)
    assert DiversityTV()(exits(1.0, 0.0)).tolist() == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("metric", [Diversity(), DiversityTV()])
def test_copies_have_no_diversity_and_one_policy_has_none_to_differ_from(metric):
    one = lively(grid(2, 4), 1)
    copies = Population(one.structure, one.weights.repeat(3, 1))
    assert metric(copies).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert metric(one).isnan().all()


@pytest.mark.parametrize("metric", [Diversity(), DiversityTV()])
def test_diversity_does_not_depend_on_the_order(metric):
    population, order = lively(grid(2, 4), 4), [2, 0, 3, 1]
    assert metric(shuffled(population, order)).tolist() == pytest.approx(
        metric(population)[order].tolist(), rel=1e-4
    )
    assert len(metric(population).unique()) == 4


def test_diversity_does_not_depend_on_the_scale_of_the_weights():
    population = lively(grid(2, 4), 3)
    scaled = Population(population.structure, 8 * population.weights)
    assert Diversity()(scaled).tolist() == pytest.approx(Diversity()(population).tolist())


def test_diversity_tv_is_the_mean_over_pairs():
    population = lively(grid(2, 5), 5)
    p = population.terminal_distribution()
    pairs = [[0.5 * float((a - b).abs().sum()) for b in p] for a in p]
    assert DiversityTV()(population).tolist() == pytest.approx([sum(row) / 4 for row in pairs], rel=1e-9)
    # with at most two or three others: members 0 and 3, or 0, 2 and 4; never oneself
    few = [(pairs[m][0] + pairs[m][3]) / (2 - (m in (0, 3))) for m in range(5)]
    assert DiversityTV.from_config({"others": 2})(population).tolist() == pytest.approx(few, rel=1e-4)
    some = [(pairs[m][0] + pairs[m][2] + pairs[m][4]) / (3 - (m in (0, 2, 4))) for m in range(5)]
    assert DiversityTV.from_config({"others": 3})(population).tolist() == pytest.approx(some, rel=1e-4)


@pytest.mark.parametrize("num", range(1, 12))
def test_spaced_members_are_as_many_as_allowed_and_begin_at_the_first(num):
    chosen = list(range(num))[spaced(lively(grid(1, 2), num), 4)]
    assert chosen[0] == 0
    assert min(num, 2) <= len(chosen) <= 4
    assert chosen == list(range(num)) or num > 4
