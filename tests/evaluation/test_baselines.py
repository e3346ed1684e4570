"""What generated policies are compared with: each baseline is what its name says."""

from __future__ import annotations

import pytest
import torch
from oracles import grid, lively

from genflow import Population, Structure, Zoo
from genflow.evaluation.baselines import baselines, comparable, distance, perturb, reference, transplant

NAMES = ["random", "mean", "nearest", "perturbed"]


def trained(structure: Structure, num: int, seed: int) -> Population:
    population = lively(structure, num, seed)
    provenance = {
        "source": "trained",
        "training_structures": [structure.fields()],
        "seconds": 100.0,
        "members": [{"run": i} for i in range(num)],
    }
    return Population(structure, population.weights, provenance)


@pytest.fixture
def zoo(tmp_path):
    for seed, height in enumerate((4, 6, 12)):
        trained(grid(2, height), 5, seed).save(tmp_path / str(height))
    return Zoo(tmp_path)


def made(structure, zoo, names=NAMES, num=3, seed=0, noise=0.1):
    return {p.source: p for p in baselines(structure, zoo, names, num, seed, noise)}


def every_logit(population: Population) -> torch.Tensor:
    structure = population.structure
    with torch.no_grad():
        return population.logits(structure.transitions().inputs(structure.solution.graph.states))


def test_transplant_to_the_same_structure_is_the_identity():
    population = trained(grid(3, 5), 3, 0)
    assert transplant(population, grid(3, 5)).weights.equal(population.weights)


@pytest.mark.parametrize("width", [9, 16, 40])
def test_transplant_to_a_larger_width_keeps_the_function(width):
    population = trained(grid(2, 5), 3, 0)
    wider = transplant(population, grid(2, 5, width=width))
    assert wider.structure == grid(2, 5, width=width)
    torch.testing.assert_close(every_logit(wider), every_logit(population), rtol=1e-5, atol=1e-5)
    # and back again nothing is lost
    assert transplant(wider, grid(2, 5)).weights.equal(population.weights)


def test_transplant_to_a_smaller_width_keeps_the_first_units():
    population = trained(grid(2, 5), 2, 0)
    narrower = transplant(population, grid(2, 5, width=3)).state_dict()
    own = population.state_dict()
    assert narrower["net.0.weight"].equal(own["net.0.weight"][:, :3])
    assert narrower["net.2.weight"].equal(own["net.2.weight"][:, :3, :3])
    assert narrower["net.4.weight"].equal(own["net.4.weight"][:, :, :3])
    assert narrower["net.2.bias"].equal(own["net.2.bias"][:, :3])


# without indicators a unit's meaning is its dimension and its position u = k/(h-1) alone
@pytest.mark.parametrize(("small", "large"), [(4, 7), (4, 10), (5, 9), (3, 11)])
def test_transplant_to_a_larger_grid_takes_the_nearest_position_of_the_same_dimension(small, large):
    source, target = grid(3, small, reward="cosine"), grid(3, large, reward="cosine")
    population = trained(source, 2, 0)
    own, moved = population.state_dict(), transplant(population, target).state_dict()
    for i in range(3):
        for k in range(large):
            gaps = [abs(k / (large - 1) - j / (small - 1)) for j in range(small)]
            nearest = [j for j in range(small) if gaps[j] < min(gaps) + 1e-6]
            column = moved["net.0.weight"][:, :, i * large + k]
            assert any(column.equal(own["net.0.weight"][:, :, i * small + j]) for j in nearest)
    for name in ("net.0.bias", "net.2.weight", "net.2.bias", "net.4.weight", "net.4.bias"):
        assert moved[name].equal(own[name])


def test_transplant_between_dimensions_keeps_exit_and_the_shared_dimensions():
    population = trained(grid(2, 5), 2, 0)
    own, moved = population.state_dict(), transplant(population, grid(4, 5)).state_dict()
    for name in ("net.4.weight", "net.4.bias"):
        assert moved[name][:, -1].equal(own[name][:, -1])
        assert moved[name][:, :2].equal(own[name][:, :2])
        assert moved[name][:, 3].equal(own[name][:, 1])
    assert moved["net.0.weight"][:, :, :10].equal(own["net.0.weight"])
    fewer = transplant(population, grid(1, 5)).state_dict()
    assert fewer["net.4.bias"].equal(own["net.4.bias"][:, [0, 2]])


def test_transplant_says_where_the_policies_come_from():
    moved = transplant(trained(grid(2, 4), 2, 0), grid(2, 6))
    assert moved.provenance["transplanted_from"] == grid(2, 4).fields()
    assert moved.provenance["training_structures"] == [grid(2, 4).fields()]
    assert not moved.seen


def test_perturb_adds_noise_in_proportion_to_each_tensor_of_each_member():
    structure = grid(3, 6, width=64)
    weights = Population.initialised(structure, 2, 0).weights * torch.tensor([[1.0], [10.0]])
    population = Population(structure, weights)
    noisy = perturb(population, 0.5, seed=1)
    for name, tensor in population.state_dict().items():
        added = (noisy.state_dict()[name] - tensor).flatten(1)
        for member in range(2):
            scale = float(tensor[member].std(correction=0))
            count = added.shape[1]
            # five standard errors of a standard deviation
            assert float(added[member].std()) == pytest.approx(0.5 * scale, rel=5 / (2 * count) ** 0.5)
            assert abs(float(added[member].mean())) < 5 * 0.5 * scale / count**0.5
    assert perturb(population, 0.0, seed=1).weights.equal(population.weights)
    assert noisy.weights.equal(perturb(population, 0.5, seed=1).weights)
    assert not noisy.weights.equal(perturb(population, 0.5, seed=2).weights)


def test_distance_is_zero_to_itself_symmetric_and_grows():
    a = grid(3, 8)
    assert distance(a, grid(3, 8)) == 0
    assert distance(a, grid(3, 9)) == distance(grid(3, 9), a)
    assert 0 < distance(a, grid(3, 9)) < distance(a, grid(3, 16)) < distance(a, grid(6, 16))


def test_baselines_of_a_structure_in_the_zoo(zoo):
    structure = grid(2, 6)
    own = zoo.get(structure)
    found = made(structure, zoo)
    assert list(found) == NAMES
    assert all(p.structure == structure for p in found.values())
    assert {name: len(p) for name, p in found.items()} == {
        "random": 3,
        "mean": 1,
        "nearest": 3,
        "perturbed": 3,
    }
    assert {name: p.seen for name, p in found.items()} == {
        "random": False,
        "mean": True,
        "nearest": False,
        "perturbed": True,
    }
    torch.testing.assert_close(found["mean"].weights[0], own.weights.mean(0))
    # the nearest is another structure, here (2, 4), whose band is as empty as that of (2, 6)
    assert found["nearest"].weights.equal(transplant(zoo.get(grid(2, 4)), structure).weights[:3])
    assert found["nearest"].provenance["transplanted_from"] == grid(2, 4).fields()
    assert found["perturbed"].weights.equal(perturb(own[:3], 0.1, 0).weights)
    assert found["random"].weights.equal(Population.initialised(structure, 3, 0).weights)
    assert "transplanted_from" not in found["mean"].provenance
    # time is that of making the baseline, not of training what it is made from
    assert all(0 <= p.provenance["seconds"] < 100 for p in found.values())


def test_baselines_of_a_structure_that_the_zoo_lacks_start_from_the_nearest(zoo):
    structure = grid(2, 13)
    near = transplant(zoo.get(grid(2, 12)), structure)
    found = made(structure, zoo)
    assert list(found) == NAMES
    assert not any(p.seen for p in found.values())
    assert found["nearest"].weights.equal(near.weights[:3])
    torch.testing.assert_close(found["mean"].weights[0], near.weights.mean(0))
    assert found["perturbed"].weights.equal(perturb(near[:3], 0.1, 0).weights)
    for name in ("mean", "nearest", "perturbed"):
        assert found[name].provenance["transplanted_from"] == grid(2, 12).fields()


def test_what_the_reward_pays_counts_more_than_one_position_of_height(zoo):
    # no position of height 11 lies in the band, as at height 6 and unlike at height 12
    (found,) = made(grid(2, 11), zoo, ["nearest"]).values()
    assert found.provenance["transplanted_from"] == grid(2, 6).fields()


def test_without_a_zoo_only_random_is_left():
    assert list(made(grid(2, 5), None)) == ["random"]


def test_nearest_needs_another_structure(tmp_path):
    trained(grid(2, 4), 2, 0).save(tmp_path / "only")
    found = made(grid(2, 4), Zoo(tmp_path))
    assert list(found) == ["random", "mean", "perturbed"]


def test_nearest_has_the_same_parameters(tmp_path):
    def deep(height, depth):
        fields = {"ndim": 2, "height": height, "width": 6, "depth": depth}
        return Structure.build("hypergrid", fields, policy="mlp")

    for number, structure in enumerate((deep(4, 1), deep(9, 2))):
        trained(structure, 2, number).save(tmp_path / str(number))
    zoo = Zoo(tmp_path)
    # of the other depth, although that is much nearer
    assert made(deep(4, 2), zoo)["nearest"].provenance["transplanted_from"] == deep(9, 2).fields()
    assert "nearest" not in made(deep(4, 3), zoo)


def test_only_the_named_baselines_are_made_in_that_order(zoo):
    assert list(made(grid(2, 6), zoo, ["nearest", "random"])) == ["nearest", "random"]
    assert made(grid(2, 6), zoo, []) == {}


def test_fewer_members_than_asked_for_are_all_that_there_are(zoo):
    found = made(grid(2, 6), zoo, num=9)
    assert {name: len(p) for name, p in found.items()} == {
        "random": 9,
        "mean": 1,
        "nearest": 5,
        "perturbed": 5,
    }


def test_policies_are_compared_with_their_structures_checkpoints_or_the_nearest_ones(zoo):
    own, near = reference(grid(2, 6), zoo), reference(grid(2, 13), zoo)
    assert (
        own is not None and own.weights.equal(zoo.get(grid(2, 6)).weights) and own is not zoo.get(grid(2, 6))
    )
    assert near is not None and near.structure == grid(2, 13)
    assert near.weights.equal(transplant(zoo.get(grid(2, 12)), grid(2, 13)).weights)
    assert reference(grid(2, 6), None) is None and comparable(grid(2, 6), None) == []
    assert [p.structure for p in comparable(grid(2, 11), zoo)] == [p.structure for p in zoo.populations]


def test_uniform_takes_every_allowed_action_alike(zoo):
    structure = grid(2, 5)
    (population,) = baselines(structure, zoo, ["uniform"], 3, 0, 0.1)
    assert (population.source, len(population), population.seen) == ("uniform", 1, False)
    graph = structure.solution.graph
    ways = torch.zeros(len(graph.states), dtype=torch.float64)
    ways[0] = 1.0
    expected = torch.zeros_like(ways)
    for level in graph.levels:
        for state in level.tolist():
            allowed = graph.mask(torch.tensor([state]))[0]
            share = ways[state] / allowed.sum()
            expected[state] = share
            for child in graph.children[state][allowed[:-1]].tolist():
                ways[child] += share
    torch.testing.assert_close(population.terminal_distribution()[0], expected)
