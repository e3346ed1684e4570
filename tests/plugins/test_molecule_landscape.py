"""What a reward on the trees of a vocabulary says of entries, against sums over all trees."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from genflow_molecule import landscape as module
from genflow_molecule import rehearsals as rehearsals_module
from genflow_molecule.additive import PROPERTIES
from genflow_molecule.landscape import NATS, PARTS, Landscape
from genflow_molecule.regression import CALLS, CUT, RIDGE, Regression, ask, inverse, kernel
from genflow_molecule.rehearsals import Rehearsals
from rdkit import Chem
from test_molecule import SETS, structure


def land(blocks, max_blocks) -> tuple[Landscape, object]:
    environment = structure(blocks, max_blocks).environment
    return environment.descriptions.landscape, environment


def test_parts_are_molecules_with_room_for_a_bond():
    for smiles, atom in PARTS:
        assert Chem.MolFromSmiles(smiles).GetAtomWithIdx(atom).GetTotalNumHs() > 0, smiles
    assert len({smiles for smiles, _ in PARTS}) == len(PARTS) == 40


def test_what_is_told_of_an_entry_is_the_mean_over_its_trees():
    landscape, environment = land((2, 11), 3)
    rng = torch.Generator().manual_seed(0)
    log_rewards = -3 * torch.rand(len(landscape.states), generator=rng)
    at_parts = -torch.rand(len(landscape.parts), generator=rng)
    told = landscape.tell(log_rewards, at_parts)
    paid, slots = log_rewards.exp(), environment.trees.slots(landscape.states)
    width = 2 + 2 * len(module.REST)
    for entry in range(len(environment.entries)):
        for role, places in enumerate(([0], [1], [2])):
            here = (slots[:, places, 0] == entry + 1).any(1)
            expected = math.log(float(paid[here].mean() / paid.mean())) / NATS
            in_all = math.log(float(paid[here].sum() / paid.sum())) / NATS
            assert told[entry, role * width].item() == pytest.approx(expected, abs=1e-3)
            assert told[entry, role * width + 1].item() == pytest.approx(in_all, abs=1e-3)
            # heavy atoms of the rest of the tree, and their spread
            rest = landscape._rest[here, places[0], 0]
            mean = (rest * paid[here]).sum() / paid[here].sum()
            spread = ((rest - mean).square() * paid[here]).sum() / paid[here].sum()
            assert told[entry, role * width + 2].item() == pytest.approx(mean.item(), abs=1e-3)
            assert told[entry, role * width + 2 + len(module.REST)].item() == pytest.approx(
                spread.clamp(min=0).sqrt().item(), abs=2e-2
            )
    assert told[:, 3 * width : -1].flatten().tolist() == pytest.approx((at_parts / NATS).tolist(), abs=1e-5)


def test_the_expert_of_a_reward_is_that_of_the_task_which_pays_it():
    task = structure((0, 3, 6), 3)
    landscape, solution = task.environment.descriptions.landscape, task.solution
    expert = landscape.expert(solution.log_reward()[solution.graph.can_exit])
    states, _, policy = expert.draw(200, 0.5, torch.Generator().manual_seed(0))
    numbers = task.transitions().state_ids(solution.graph.states)
    row = torch.searchsorted(numbers.sort().values, task.transitions().state_ids(states))
    known = solution.optimal_flows().policy[numbers.argsort()[row]]
    assert torch.allclose(policy, known.float(), atol=1e-5)


def points(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_a_regression_solves_its_equations_and_an_inverse_serves_many():
    x = points(60)
    y = x[:, 0].sin() + x[:, 1]
    found = Regression(x, y)
    scaled = (y - y.mean()) / y.std(correction=0)
    weights = torch.linalg.solve(
        kernel(x, x).double() + RIDGE * torch.eye(60, dtype=torch.float64), scaled.double()
    ).float()
    for expected in (
        y.mean() + y.std(correction=0) * (kernel(x, x) @ weights),
        Regression(x, y, inverse(x))(x),
    ):
        assert found(x).tolist() == pytest.approx(expected.tolist(), abs=1e-2)
    assert float((found(x) - y).abs().mean()) < 0.1


def test_what_is_far_below_the_best_counts_alike():
    x = points(50)
    y = points(50, 2)[:, 0]
    low = y.clone()
    low[:5] -= 1e4
    cut = y.clone()
    cut[:5] = float(low.max()) - CUT
    assert Regression(x, low)(x).tolist() == pytest.approx(Regression(x, cut)(x).tolist(), abs=1e-4)


@pytest.mark.parametrize("count", [1, 7, CALLS, 5000])
def test_no_molecule_is_asked_for_twice_and_the_better_ones_more_often(count):
    x = points(count)
    rewards = 6 * x[:, 0]
    asked = []

    def log_reward(chosen):
        asked.extend(chosen.tolist())
        return rewards[chosen]

    followed = []
    trees = SimpleNamespace(x=x, weights=torch.ones(count), follow=followed.append)
    found = ask(trees, log_reward, torch.Generator().manual_seed(0))
    assert all(len(each) == count for each in followed)
    assert len(asked) == len(set(asked)) == min(count, CALLS)
    assert torch.isfinite(found(x)).all()
    if count > CALLS:
        assert float(rewards[asked].mean()) > float(rewards.mean()) + 2
        best = rewards > rewards.quantile(0.9)
        assert float((found(x) - rewards)[best].abs().mean()) < 2


def test_rewards_are_made_up_by_their_seed_and_differ():
    landscape, _ = land((0, 3, 6, 29), 3)
    rehearsals = Rehearsals(landscape)

    def draw(seed):
        return rehearsals.draw(torch.Generator().manual_seed(seed))[0]

    assert draw(3).equal(draw(3))
    tables = torch.stack([draw(seed) for seed in range(12)])
    assert len(tables.unique(dim=0)) == 12 and torch.isfinite(tables).all()
    spread = tables.clamp(min=tables.max(1, keepdim=True).values - CUT).std(1)
    assert float(spread.min()) > 0.1


def test_no_made_up_reward_is_one_that_is_measured(monkeypatch):
    landscape, _ = land((0, 3, 6), 3)
    asked, eased = set(), []

    def wish(rng, x, weights, name):
        asked.add(name)
        return torch.ones(len(x))

    monkeypatch.setattr(rehearsals_module, "_wish", wish)
    made = Rehearsals(landscape)
    ease = ((10 - landscape.found[:, PROPERTIES.index("sa")]) / 9).clamp(min=1e-3, max=1).log()
    monkeypatch.setattr(rehearsals_module, "QUIRK", 0.0)
    for seed in range(2000):
        asked.clear()
        found = made._log_score(torch.Generator().manual_seed(seed))
        eased.append(torch.allclose(found, ease, atol=1e-6))  # wishes are met by all here
        assert not {"qed", "sa"} <= asked
        assert not (eased[-1] and ("qed" in asked or asked == {"log_p"}))
    assert 500 < sum(eased) < 1500


@pytest.mark.parametrize("fields", [(1, 2, {}), (1, 3, {"min_blocks": 3})], ids=str)
def test_nothing_is_made_up_where_trees_are_alike(fields):
    blocks, max_blocks, more = fields
    task = structure(blocks, max_blocks, **more)
    assert task.environment.rehearse(torch.Generator().manual_seed(0)) is None


def test_with_multiplicity_molecules_are_told_and_not_states():
    """Blocks that many states share are told as if each molecule were there once."""
    task = structure(5, 3, multiplicity=True)
    tables = task.environment.descriptions
    land = tables.landscape
    smiles = task.environment.catalogue.smiles(land.states)
    counts = torch.tensor([float(smiles.count(each)) for each in smiles])
    assert float(counts.max()) > 1
    rng = torch.Generator().manual_seed(0)
    log_rewards = -3 * torch.rand(len(land.states), generator=rng)
    told = tables.told(log_rewards, torch.zeros(len(land.parts)))
    paid = log_rewards - counts.log()
    expected = land.tell(paid - paid.max(), torch.zeros(len(land.parts)) - log_rewards.max())
    assert told[:, -expected.shape[1] :].equal(expected)


def test_what_is_told_of_trees_that_are_drawn_is_near_what_is_told_of_all(monkeypatch):
    environment = structure(SETS[1], 4).environment
    entries, trees = environment.entries, environment.trees
    whole = Landscape(entries, trees)
    monkeypatch.setattr(module, "LISTED", 0)
    part = Landscape(entries, trees)
    assert whole.listed and not part.listed and 500 < len(part.states) < len(whole.states)
    numbers = trees.indices(whole.states)
    row = torch.searchsorted(numbers.sort().values, trees.indices(part.states))
    rng = torch.Generator().manual_seed(0)
    log_rewards = -3 * torch.rand(len(whole.states), generator=rng)
    parts = torch.zeros(len(whole.parts))
    told = whole.tell(log_rewards, parts)
    drawn_told = part.tell(log_rewards[numbers.argsort()[row]], parts)
    error = float((told - drawn_told).abs().mean())
    assert error < 0.1 < float(told.std())
    # trees that are drawn where rewards are high stand for all of them still, and say more of the good ones
    for _ in range(3):
        row = torch.searchsorted(numbers.sort().values, trees.indices(part.states))
        part.follow(log_rewards[numbers.argsort()[row]])
    row = torch.searchsorted(numbers.sort().values, trees.indices(part.states))
    followed = part.tell(log_rewards[numbers.argsort()[row]], parts)
    assert float((told - followed).abs().mean()) < error


def test_a_task_is_made_up_for_the_same_states_and_actions():
    task = structure((0, 3, 6, 29), 3)
    made = task.environment.rehearse(torch.Generator().manual_seed(0))
    assert made.inputs.shape == task.layout.units["input"].amounts.shape
    assert made.actions.shape == task.layout.units["action"].amounts.shape
    states, masks, policy = made.expert.draw(50, 0.5, torch.Generator().manual_seed(0))
    assert masks.equal(task.transitions().forward_masks(states)) and (masks.sum(1) > 1).all()
    assert policy.sum(1).tolist() == pytest.approx([1] * 50, abs=1e-5)
    assert not policy[~masks].any()


def test_what_is_cut_pays_nothing_where_it_is_beyond_counting(monkeypatch):
    """One tree in thousands is good; where all others are cut they tell nothing, however many they are."""
    environment = structure(SETS[1], 4).environment
    monkeypatch.setattr(module, "LISTED", 0)
    part = Landscape(environment.entries, environment.trees)
    log_rewards = torch.full((len(part.states),), -CUT)
    log_rewards[0] = 0
    told = part.tell(log_rewards, torch.zeros(len(part.parts)))
    inside = environment.trees.slots(part.states[0])[:, 0]
    first = told[:, 1] * NATS  # the share of all that is paid, by the entry of the root
    assert first[inside[0] - 1] == pytest.approx(0, abs=1e-3)
    assert (first[torch.arange(len(first)) != inside[0] - 1] == -CUT).all()
