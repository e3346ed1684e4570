"""Rollouts of a stacked population, replayed step by step."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import chi_square, grid, lively, lookup

from genflow import GenflowError
from genflow.rollouts import Rollouts, sample


def roll(structure, population, count, epsilon=0.0, seed=0) -> Rollouts:
    environment = structure.environment
    rng = torch.Generator().manual_seed(seed)
    return sample(environment.gfn[0], environment.inputs, population.logits, (len(population), count), epsilon, rng)


@pytest.mark.parametrize(("ndim", "height", "epsilon"), [(1, 5, 0.0), (2, 6, 0.0), (2, 6, 0.4), (4, 3, 1.0)])
def test_every_trajectory_replays_from_the_start_to_its_exit(ndim, height, epsilon):
    structure = grid(ndim, height)
    population = lively(structure, 3)
    members, count = 3, 20
    rollouts = roll(structure, population, count, epsilon)
    environment = structure.environment
    log_pf = rollouts.log_pf(population.logits(rollouts.inputs))
    longest = 0
    for m in range(members):
        module = population[m].module()
        rows = rollouts.valid[m].nonzero().flatten().tolist()
        assert rows == list(range(len(rows))), "padding must come last"
        row = 0
        for b in range(count):
            cell, ended, step = [0] * ndim, False, 0
            while not ended:
                assert int(rollouts.places[m, row]) == b * rollouts.length + step
                assert rollouts.inputs[m, row].equal(environment.inputs(torch.tensor([cell]))[0])
                allowed = [k < height - 1 for k in cell] + [True]
                assert rollouts.masks[m, row].tolist() == allowed
                action = int(rollouts.actions[m, row])
                assert allowed[action]
                ended = action == ndim
                assert bool(rollouts.exits[m, row]) is ended
                logits = module(rollouts.inputs[m, row][None])[0].tolist()
                total = sum(math.exp(v) for v, ok in zip(logits, allowed, strict=True) if ok)
                assert float(log_pf[m, row]) == pytest.approx(logits[action] - math.log(total), abs=1e-4)
                if not ended:
                    cell[action] += 1
                    parents = sum(k > 0 for k in cell)
                    assert float(rollouts.log_pb[m, row]) == pytest.approx(-math.log(parents), abs=1e-6)
                else:
                    assert float(rollouts.log_pb[m, row]) == 0
                row += 1
                step += 1
            longest = max(longest, step)
            assert rollouts.final[m, b].tolist() == cell
            expected = float(environment.log_reward(torch.tensor([cell])))
            assert float(rollouts.log_reward[m, b]) == pytest.approx(expected, abs=1e-6)
        assert row == len(rows)
    assert rollouts.length == longest
    assert not log_pf[~rollouts.valid].any()


def test_pad_puts_every_row_in_its_place_and_total_sums_each_trajectory():
    structure = grid(2, 6)
    rollouts = roll(structure, lively(structure, 3), 15)
    assert not rollouts.valid.all()
    values = torch.randn(rollouts.valid.shape)
    padded, total = rollouts.pad(values), rollouts.total(values)
    assert padded.shape == (3, 15, rollouts.length)
    expected = torch.zeros_like(padded)
    for m, k in rollouts.valid.nonzero().tolist():
        b, t = divmod(int(rollouts.places[m, k]), rollouts.length)
        expected[m, b, t] = values[m, k]
    assert padded.equal(expected)
    torch.testing.assert_close(total, expected.sum(-1))
    # padding rows never count, whatever they hold
    wild = values.masked_fill(~rollouts.valid, torch.nan)
    assert rollouts.pad(wild).equal(padded)
    assert rollouts.total(wild).equal(total)


def first_actions(rollouts: Rollouts, n_actions: int) -> torch.Tensor:
    """(M, A) how often each action was taken in the initial state."""
    first = rollouts.places % rollouts.length == 0
    return torch.stack([
        torch.bincount(a[f & v], minlength=n_actions) for a, f, v in zip(rollouts.actions, first, rollouts.valid, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_mixes_in_uniform_choices_among_the_allowed_actions(epsilon):
    structure = grid(3, 3)
    population = lively(structure, 2, scale=6.0)
    count = 3000
    taken = first_actions(roll(structure, population, count, epsilon), 4)
    assert taken.sum(1).tolist() == [count, count]
    with torch.no_grad():
        own = population.logits(structure.environment.inputs(torch.zeros(1, 3, dtype=torch.long)))[:, 0].double().softmax(-1)
    assert (own - 0.25).abs().max() > 0.1
    expected = (1 - epsilon) * own + epsilon / 4
    for m in range(2):
        assert chi_square(taken[m], count * expected[m]) < 4.75
        # the mixture is told apart from the policy's own choice, and the other way round
        assert chi_square(taken[m], count * (own[m] if epsilon else torch.full((4,), 0.25))) > 10


def test_full_exploration_is_uniform_among_what_is_allowed_at_the_border_too():
    structure = grid(2, 2)
    # a policy that would always exit
    logits = torch.zeros(1, 4, 3)
    logits[..., -1] = 50
    rollouts = roll(structure, lookup(structure, logits), 6000, epsilon=1.0)
    ends = torch.bincount(rollouts.final[0] @ torch.tensor([2, 1]), minlength=4)
    # (0,0): 1/3; (0,1) and (1,0): 1/3 * 1/2; (1,1): the rest
    assert chi_square(ends, 6000 * torch.tensor([2, 1, 1, 2], dtype=torch.float64) / 6) < 4.75


def test_ends_follow_the_exact_distribution():
    structure = grid(2, 4)
    population = lively(structure, 2)
    rollouts = roll(structure, population, 4000)
    exact = population.terminal_distribution() * 4000
    for m in range(2):
        ends = torch.bincount(rollouts.final[m] @ torch.tensor([4, 1]), minlength=16)
        assert chi_square(ends, exact[m]) < 4.75
        assert chi_square(ends, exact[1 - m]) > 10


def test_the_same_seed_gives_the_same_rollouts_and_another_does_not():
    structure = grid(2, 6)
    population = lively(structure, 2)
    torch.manual_seed(1)
    first = roll(structure, population, 10, seed=3)
    torch.manual_seed(2)
    second = roll(structure, population, 10, seed=3)
    assert first.actions.equal(second.actions)
    assert first.final.equal(second.final)
    assert not first.final.equal(roll(structure, population, 10, seed=4).final)


def test_sampling_builds_no_gradient_graph():
    structure = grid(2, 4)
    weights = {name: t.clone().requires_grad_() for name, t in lively(structure, 2).state_dict().items()}
    environment, module = structure.environment, structure.module()
    forward = lambda x: structure.arch.forward(module, weights, x)  # noqa: E731
    rollouts = sample(environment.gfn[0], environment.inputs, forward, (2, 5), 0.1, torch.Generator().manual_seed(0))
    assert not any(t.requires_grad for t in vars(rollouts).values() if isinstance(t, torch.Tensor))


def test_a_policy_that_has_diverged_stays_on_the_grid():
    structure = grid(2, 3)
    logits = torch.full((2, 9, 3), torch.nan)
    logits[1] = 0.0
    population = lookup(structure, logits)
    rollouts = roll(structure, population, 50)
    assert rollouts.masks.gather(-1, rollouts.actions[..., None]).all()
    log_pf = rollouts.log_pf(population.logits(rollouts.inputs))
    assert log_pf[0][rollouts.valid[0]].isnan().all()
    assert torch.isfinite(log_pf[1]).all()


def test_a_trajectory_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr("genflow.rollouts.MAX_STEPS", 3)
    structure = grid(2, 6)
    logits = torch.zeros(1, 36, 3)
    logits[..., -1] = -50
    with pytest.raises(GenflowError, match="did not end within 3 steps"):
        roll(structure, lookup(structure, logits), 2)
