"""`Population`: a stack of policies is its members, one by one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from gfn.samplers import Sampler
from oracles import Lookup, grid, lively, lookup

from genflow import GenflowError, PolicyArch, Population

SIZES = [(1, 4, 3), (2, 6, 8), (4, 3, 5), (3, 7, 16)]


def inputs_of(structure, members, count):
    """Random one-hot inputs: (count, s) shared by all members, and (members, count, s)."""
    n, h = structure.environment.config.ndim, structure.environment.config.height
    states = torch.randint(h, (members, count, n), generator=torch.Generator().manual_seed(3))
    own = structure.transitions().inputs(states.reshape(-1, n)).reshape(members, count, -1)
    return own[0], own


@pytest.mark.parametrize(("ndim", "height", "width"), SIZES)
def test_logits_of_the_stack_are_those_of_its_members(ndim, height, width):
    structure = grid(ndim, height, width=width)
    population = lively(structure, 4)
    shared, own = inputs_of(structure, 4, 9)
    with torch.no_grad():
        for x in (shared, own):
            found = population.logits(x)
            assert found.shape == (4, 9, ndim + 1)
            for member in range(4):
                expected = population[member].module()(x if x.ndim == 2 else x[member])
                torch.testing.assert_close(found[member], expected, rtol=1e-5, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.1


@pytest.mark.parametrize(("ndim", "height", "width"), SIZES)
def test_mlp3s_fast_evaluation_equals_the_generic_one(ndim, height, width):
    structure = grid(ndim, height, width=width)
    population = lively(structure, 3)
    for x in inputs_of(structure, 3, 6):
        weights = {name: t.clone().requires_grad_() for name, t in population.state_dict().items()}
        fast = structure.arch.forward(structure.module(), weights, x)
        slow = PolicyArch.forward(structure.arch, structure.module(), weights, x)
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
        toward = torch.randn(fast.shape)
        of_fast = torch.autograd.grad((fast * toward).sum(), weights.values())
        of_slow = torch.autograd.grad((slow * toward).sum(), weights.values())
        for a, b in zip(of_fast, of_slow, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_an_architecture_without_its_own_evaluation_works():
    structure = grid(2, 3)
    logits = torch.randn(2, 9, 3)
    population = lookup(structure, logits)
    assert type(population.structure.arch).forward is PolicyArch.forward is Lookup.forward
    every = structure.transitions().inputs(structure.solution.graph.states)
    assert population.logits(every).equal(logits)
    swapped = torch.stack([every, every.flip(0)])
    assert population.logits(swapped).equal(torch.stack([logits[0], logits[1].flip(0)]))


def test_from_modules_keeps_every_networks_weights():
    structure = grid(3, 4)
    modules = [structure.module() for _ in range(3)]
    population = Population.from_modules(structure, modules, {"source": "trained"})
    for member, module in enumerate(modules):
        state = population[member].module().state_dict()
        assert list(state) == list(module.state_dict())
        assert all(state[name].equal(t) for name, t in module.state_dict().items())


def test_initialised_is_repeatable_and_leaves_the_global_generator_alone():
    structure = grid(2, 5)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = Population.initialised(structure, 3, seed=4)
    assert torch.rand(2).equal(expected)
    assert first.weights.equal(Population.initialised(structure, 3, seed=4).weights)
    assert not first.weights.equal(Population.initialised(structure, 3, seed=5).weights)
    assert first.source == "random"
    assert not first.seen


@pytest.mark.parametrize(("ndim", "height"), [(1, 3), (2, 6), (4, 4)])
def test_estimators_work_with_torchgfns_sampler(ndim, height):
    structure = grid(ndim, height)
    population = lively(structure, 3)
    env, preprocessor = structure.environment.make()
    for i in (0, 2, -1):
        estimator = population[i].to_estimator()
        trajectories = Sampler(estimator).sample_trajectories(env, n=7, save_logprobs=True)
        assert len(trajectories) == 7
        assert torch.isfinite(trajectories.log_rewards).all()
        assert (trajectories.terminating_states.tensor < height).all()
        states = env.States(torch.zeros(1, ndim, dtype=torch.long))
        expected = population.logits(preprocessor(states).float())[i]
        torch.testing.assert_close(estimator(states), expected, rtol=1e-5, atol=1e-5)
        # torchgfn can go on training it
        (-trajectories.log_probs.sum()).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in estimator.parameters())


def with_members(num):
    population = lively(grid(2, 3), num)
    return Population(
        population.structure,
        population.weights,
        {"source": "trained", "members": [{"run": i} for i in range(num)]},
    )


@pytest.mark.parametrize("index", [0, 3, 4, -1, -2, -5])
def test_an_index_gives_a_population_of_one_with_its_provenance(index):
    population = with_members(5)
    one = population[index]
    assert len(one) == 1
    assert one.weights[0].equal(population.weights[index])
    assert one.provenance["members"] == [population.provenance["members"][index]]
    assert one.source == "trained"


@pytest.mark.parametrize(
    "index", [slice(1, 3), slice(None), slice(None, None, 2), slice(-2, None), slice(3, 3), slice(2, 99)]
)
def test_slices_keep_members_and_weights_together(index):
    population = with_members(5)
    part = population[index]
    assert part.weights.equal(population.weights[index])
    assert part.provenance["members"] == population.provenance["members"][index]
    assert len(part.provenance["members"]) == len(part)


@pytest.mark.parametrize("index", [5, -6, 100])
def test_an_index_outside_is_an_index_error(index):
    with pytest.raises(IndexError, match=f"policy {index} of 5"):
        with_members(5)[index]


def test_iterating_gives_each_member_once():
    population = with_members(4)
    assert [one.provenance["members"][0]["run"] for one in population] == [0, 1, 2, 3]
    assert torch.cat([one.weights for one in population]).equal(population.weights)


def test_slicing_does_not_reuse_what_was_computed_for_the_whole():
    population = with_members(3)
    whole = population.terminal_distribution()
    assert population.terminal_distribution() is whole
    torch.testing.assert_close(population[1].terminal_distribution(), whole[1:2])
    torch.testing.assert_close(population[1:].terminal_distribution(), whole[1:])


def test_only_a_population_of_one_is_a_network():
    population = with_members(2)
    for method in (population.module, population.to_estimator):
        with pytest.raises(ValueError, match="2 policies"):
            method()


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 2, 3)])
def test_weights_must_fit_the_layout(shape):
    with pytest.raises(ValueError, match="expected weights"):
        Population(grid(2, 3), torch.zeros(shape))


def test_seen_is_decided_by_the_training_structures():
    structure, other = grid(2, 3), grid(2, 4)
    weights = torch.zeros(1, structure.layout.size)
    for trained, seen in [([structure], True), ([other, structure], True), ([other], False), ([], False)]:
        population = Population(structure, weights, {"training_structures": [s.fields() for s in trained]})
        assert population.seen is seen
    assert not Population(structure, weights).seen
    changed = grid(2, 3, R0=0.01)
    assert not Population(changed, weights, {"training_structures": [structure.fields()]}).seen


def test_rollouts_explore_as_much_as_they_are_told():
    logits = torch.zeros(1, 25, 3)
    logits[..., 2] = 60.0  # exits at once
    population = lookup(grid(2, 5), logits)
    assert not population.rollouts(500).final.any()
    # a third of the random first steps exit
    assert float((population.rollouts(5000, epsilon=1.0).final == 0).all(-1).float().mean()) == pytest.approx(
        1 / 3, abs=0.04
    )
    assert float((population.rollouts(5000, epsilon=0.5).final == 0).all(-1).float().mean()) == pytest.approx(
        2 / 3, abs=0.04
    )
    assert population.rollouts(500) is population.rollouts(500) is not population.rollouts(500, epsilon=1.0)


def test_parts_are_the_policies_in_order_and_as_many_as_fit(monkeypatch):
    population = lively(grid(2, 4), 5)
    assert [part is population for part in population.parts()] == [True]
    monkeypatch.setattr("genflow.population.MAX_DISTRIBUTION", 2 * 16 + 1)
    parts = list(population.parts())
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.cat([part.weights for part in parts]).equal(population.weights)
    monkeypatch.setattr("genflow.population.MAX_DISTRIBUTION", 1)
    assert len(list(population.parts())) == 5
    assert len(list(lively(grid(8, 20), 2).parts())) == 1


def test_a_measured_population_can_be_pickled_and_copied():
    population = lively(grid(2, 3), 2)
    measured = population.terminal_distribution()
    for other in (pickle.loads(pickle.dumps(population)), copy.deepcopy(population)):
        assert other.weights.equal(population.weights)
        assert other.terminal_distribution().equal(measured)


def test_the_folder_of_a_command_stands_for_its_population(tmp_path):
    structure = grid(2, 4)
    one, other = (Population.initialised(structure, 1, seed) for seed in (0, 1))
    other.save(tmp_path / "run" / "from_random")
    assert torch.equal(Population.load(tmp_path / "run").weights, other.weights)
    one.save(tmp_path / "run" / "finetuned")
    assert torch.equal(Population.load(tmp_path / "run").weights, one.weights)
    one.save(tmp_path / "run" / "third")
    with pytest.raises(GenflowError, match=r"run holds 3 populations; name one, such as .*run/finetuned$"):
        Population.load(tmp_path / "run")
    with pytest.raises(GenflowError, match=r"nothing is no folder; give one that holds"):
        Population.load(tmp_path / "nothing")
