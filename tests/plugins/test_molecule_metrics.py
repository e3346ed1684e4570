"""Figures of sampled molecules against pairwise loops over fingerprints as sets of bits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from genflow_molecule import exact, metrics
from oracles import grid, lively
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from test_molecule import structure

from genflow import Population, Structure
from genflow.evaluation.evaluate import choose_metrics, evaluate
from genflow.exact import optimal_flows

SAMPLED = ["top_10", "top_100", "molecule_modes", "molecule_diversity", "uniqueness", "validity", "length"]
EXACT = ["molecule_js", "molecule_kl", "molecule_l1"]


@pytest.fixture(scope="module")
def population() -> Population:
    return lively(structure(20, 5), 2, scale=1.0)


def molecules(population: Population, draws: int) -> list[list[str]]:
    final = population.rollouts(draws, 0).final
    return [population.structure.environment.catalogue.smiles(own) for own in final]


def bits(smiles: str) -> frozenset[int]:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return frozenset(generator.GetFingerprint(Chem.MolFromSmiles(smiles)).GetOnBits())


def tanimoto(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(("score", "similarity"), [(0.3, 0.7), (0.3, 0.4), (0.6, 0.7), (0.99, 0.7)])
def test_modes_are_kept_greedily_the_best_first(population, score, similarity):
    metric = metrics.Modes.from_config({"draws": 150, "score": score, "similarity": similarity})
    catalogue, expected = population.structure.environment.catalogue, []
    for smiles in molecules(population, 150):
        good = sorted(
            (each for each in set(smiles) if catalogue.score(each) >= score),
            key=lambda each: (-catalogue.score(each), each),
        )
        kept: list[frozenset[int]] = []
        for each in good:
            if all(tanimoto(bits(each), other) < similarity for other in kept):
                kept.append(bits(each))
        expected.append(len(kept))
    assert metric(population).tolist() == expected
    assert score > 0.9 or min(expected) > 3


def test_the_best_how_different_and_how_long(population):
    catalogue = population.structure.environment.catalogue
    all_smiles = molecules(population, 150)
    for number, cls in ((10, metrics.Top10), (100, metrics.Top100)):
        expected = [
            sorted((catalogue.score(each) for each in set(smiles)), reverse=True)[:number]
            for smiles in all_smiles
        ]
        assert cls.from_config({"draws": 150})(population).tolist() == pytest.approx(
            [sum(e) / len(e) for e in expected]
        )
    pairs = [
        [tanimoto(bits(a), bits(b)) for a, b in itertools.combinations(sorted(set(smiles)), 2)]
        for smiles in all_smiles
    ]
    assert metrics.Diversity.from_config({"draws": 150})(population).tolist() == pytest.approx(
        [1 - sum(p) / len(p) for p in pairs]
    )
    unique = metrics.Uniqueness.from_config({"draws": 150})(population)
    assert unique.tolist() == [len(set(smiles)) / 150 for smiles in all_smiles]
    assert metrics.Validity.from_config({"draws": 150})(population).tolist() == [1, 1]
    blocks = (population.rollouts(150, 0).final.unflatten(-1, (-1, 3))[..., 0] > 0).sum(-1).double().mean(-1)
    assert metrics.Length.from_config({"draws": 150})(population).equal(blocks)


def test_one_molecule_alone_has_no_diversity():
    assert math.isnan(metrics.mean_tanimoto(["CCO"]))
    assert metrics.dissimilar([], 0.7) == []


def test_molecules_of_what_is_none_are_not_counted(population):
    environment = population.structure.environment
    nothing = ["", "CCO", "CCO", "CC"]

    def figure(cls):
        return cls.from_config({}).figure(environment, nothing, torch.zeros(4, 15, dtype=torch.long))

    assert figure(metrics.Validity) == 0.75
    assert figure(metrics.Uniqueness) == pytest.approx(2 / 3)


@pytest.mark.parametrize("multiplicity", [True, False])
def test_exact_divergences_over_molecules(multiplicity):
    task = structure((0, 1, 3), 4, multiplicity=multiplicity)
    environment, graph, population = task.environment, task.solution.graph, lively(task, 2)
    smiles = [Chem.CanonSmiles(each) if each else "" for each in environment.catalogue.smiles(graph.states)]
    names = sorted(set(smiles) - {""})
    weight = {each: environment.catalogue.score(each) ** 8 for each in names}
    p = [weight[each] / sum(weight.values()) for each in names]
    for m, ends in enumerate(population.terminal_distribution()):
        own = dict.fromkeys(names, 0.0)
        for each, share in zip(smiles, ends.tolist(), strict=True):
            if each:
                own[each] += share
        q = list(own.values())
        kl = lambda a, b: sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)  # noqa: E731
        mixed = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        assert float(exact.KL()(population)[m]) == pytest.approx(kl(p, q), rel=1e-6)
        assert float(exact.JS()(population)[m]) == pytest.approx((kl(p, mixed) + kl(q, mixed)) / 2, rel=1e-6)
        assert float(exact.L1()(population)[m]) == pytest.approx(
            sum(abs(x - y) for x, y in zip(p, q, strict=True)) / len(p), rel=1e-6
        )


def test_the_optimal_policy_is_perfect_over_molecules_only_with_the_correction():
    for multiplicity, perfect in ((True, True), (False, False)):
        solution = structure((0, 1, 3), 4, multiplicity=multiplicity).solution
        flows = optimal_flows(solution.graph, solution.log_reward())
        owner, target = solution.molecules()
        ends = (flows.visit * flows.policy[:, -1])[solution.graph.can_exit]
        own = torch.zeros_like(target).index_add_(0, owner, ends)
        assert (float(exact.JS().divergence(target, own[None])) < 1e-9) == perfect


def test_metrics_fit_molecules_alone():
    small, large = structure((0, 1, 3), 3), structure(20, 5)
    assert set(SAMPLED + EXACT) <= set(choose_metrics(small))
    assert set(SAMPLED) <= set(choose_metrics(large)) and not set(EXACT) & set(choose_metrics(large))
    assert not set(SAMPLED + EXACT) & set(choose_metrics(grid(2, 4)))
    assert {"js", "kl", "l1"} <= set(choose_metrics(small)) and "modes" in choose_metrics(large)


def test_a_population_is_evaluated_with_all_that_fit():
    entry = evaluate(lively(structure((0, 1, 3), 3), 2))
    assert set(SAMPLED + EXACT) <= set(entry["metrics"])
    assert entry["metrics"]["validity"] == {"mean": 1, "min": 1, "max": 1}
    assert all(math.isfinite(value["mean"]) for value in entry["metrics"].values())
    assert Structure.build("molecule", entry["structure"]).name == entry["name"]
