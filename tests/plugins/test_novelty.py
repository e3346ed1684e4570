"""Copies of checkpoints are found, and the zoo's own policies are measured without themselves."""

from __future__ import annotations

import math

import pytest
import torch
from genflow_metrics.novelty import ErrorAgreement, Novelty, NoveltyTV
from oracles import at, exits, grid, lively, shuffled

from genflow import Population
from genflow.evaluation.baselines import perturb


def named(source: str, population: Population) -> Population:
    return Population(population.structure, population.weights, {"source": source})


@pytest.fixture(scope="module")
def checkpoints():
    return named("trained", lively(grid(2, 5), 6))


def test_novelty_worked_out_by_hand():
    structure = grid(1, 3)
    # the nearest others are 1, 1 and 2 away
    zoo = named("trained", at(structure, (0, 0), (1, 0), (3, 0)))
    assert Novelty()(
        named("generated", at(structure, (10, 0), (3, 0), (0, 2))), zoo
    ).tolist() == pytest.approx([5.25, 0, 1.5])
    assert Novelty()(named("trained", at(structure, (3, 0), (0, 0))), zoo).tolist() == pytest.approx(
        [1.5, 0.75]
    )


def test_novelty_tv_and_error_agreement_worked_out_by_hand():
    # the target is (.5, .5); checkpoints are .1 and .2 from each other
    zoo = named("trained", exits(0.6, 0.7, 0.9))
    policies = named("generated", exits(0.9, 0.3, 0.65, 0.5))
    assert NoveltyTV()(policies, zoo).tolist() == pytest.approx(
        [0, 0.3 / (0.4 / 3), 0.05 / (0.4 / 3), 0.1 / (0.4 / 3)], abs=1e-5
    )
    # the last makes no mistakes
    assert ErrorAgreement()(policies, zoo).tolist() == pytest.approx([1, -1, 1, 0], abs=1e-5)


@pytest.mark.parametrize("metric", [Novelty(), NoveltyTV()])
def test_checkpoints_are_as_novel_as_checkpoints(metric, checkpoints):
    again = named("trained", shuffled(checkpoints, [3, 1, 5, 0, 2, 4]))
    values = metric(again, checkpoints)
    assert float(values.mean()) == pytest.approx(1, rel=1e-4)
    assert (values > 0).all() and len(values.unique()) > 1
    # some of them are compared with all the others
    torch.testing.assert_close(
        metric(named("trained", again[:2]), checkpoints), values[:2], rtol=1e-4, atol=0
    )


def test_a_copy_from_a_generator_is_found(checkpoints):
    copies = named("generated", shuffled(checkpoints, [4, 0]))
    assert Novelty()(copies, checkpoints).tolist() == [0, 0]
    assert NoveltyTV()(copies, checkpoints).tolist() == pytest.approx([0, 0], abs=1e-4)
    assert ErrorAgreement()(copies, checkpoints).tolist() == pytest.approx([1, 1], abs=1e-6)
    # even one of the whole zoo
    assert Novelty()(named("generated", checkpoints), checkpoints).tolist() == [0] * 6


def test_noise_makes_novelty_and_lessens_agreement_step_by_step(checkpoints):
    noisy = [named("perturbed", perturb(checkpoints, noise, 0)) for noise in (0.001, 0.03, 1.0)]
    for metric in (Novelty(), NoveltyTV()):
        values = [float(metric(population, checkpoints).mean()) for population in noisy]
        assert 0 < values[0] < 0.05 and values == sorted(values), values
    agreement = [float(ErrorAgreement()(population, checkpoints).mean()) for population in noisy]
    assert agreement[0] > 0.999 and agreement == sorted(agreement, reverse=True)


def test_novelty_does_not_depend_on_the_scale_of_the_weights(checkpoints):
    population = lively(grid(2, 5), 3, seed=9)
    large = (
        Population(p.structure, 16 * p.weights, {"source": s})
        for p, s in ((population, "generated"), (checkpoints, "trained"))
    )
    assert Novelty()(*large).tolist() == pytest.approx(
        Novelty()(named("generated", population), checkpoints).tolist()
    )


def test_twins_in_the_zoo_are_copies_of_each_other(checkpoints):
    twins = named("trained", shuffled(checkpoints, [0, 1, 2, 0]))
    values = Novelty()(named("trained", twins), twins)
    assert values[[0, 3]].tolist() == [0, 0]
    assert (values[[1, 2]] > 0).all()
    assert float(values.mean()) == pytest.approx(1)


@pytest.mark.parametrize("metric", [Novelty(), NoveltyTV(), ErrorAgreement()])
def test_a_zoo_of_one_checkpoint_has_nothing_to_compare_it_with(metric, checkpoints):
    only = named("trained", checkpoints[:1])
    assert metric(named("trained", only), only).isnan().all()
    others = metric(named("generated", checkpoints[1:]), only)
    assert others.isfinite().all() if isinstance(metric, ErrorAgreement) else others.isnan().all()


def test_exact_comparisons_are_those_of_plain_loops(checkpoints):
    population = named("generated", lively(grid(2, 5), 3, seed=7))
    target = population.structure.solution.target().tolist()
    mine, theirs = population.terminal_distribution().tolist(), checkpoints.terminal_distribution().tolist()

    def tv(p, q):
        return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2

    def cosine(p, q):
        x, y = ([a - t for a, t in zip(d, target, strict=True)] for d in (p, q))
        dot, xx, yy = (sum(a * b for a, b in zip(u, v, strict=True)) for u, v in ((x, y), (x, x), (y, y)))
        return dot / math.sqrt(xx * yy)

    scale = sum(min(tv(p, q) for q in theirs if q is not p) for p in theirs) / 6
    assert NoveltyTV()(population, checkpoints).tolist() == pytest.approx(
        [min(tv(p, q) for q in theirs) / scale for p in mine], rel=1e-6
    )
    assert ErrorAgreement()(population, checkpoints).tolist() == pytest.approx(
        [max(cosine(p, q) for q in theirs) for p in mine], rel=1e-6
    )
    own = [max(cosine(p, q) for q in theirs if q is not p) for p in theirs]
    assert ErrorAgreement()(named("trained", checkpoints), checkpoints).tolist() == pytest.approx(
        own, rel=1e-4
    )
    # with at most three checkpoints: 0, 2 and 4
    few = ErrorAgreement.from_config({"checkpoints": 3})(population, checkpoints)
    assert few.tolist() == pytest.approx([max(cosine(p, q) for q in theirs[::2]) for p in mine], rel=1e-4)
