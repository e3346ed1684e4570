"""Rollouts of a stacked population, replayed step by step."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import by_torchgfn, chi_square, grid, lively, log_pf_of_rows, lookup

from genflow import GenflowError
from genflow.rollouts import Rollouts, sample


def roll(structure, population, count, epsilon=0.0, seed=0) -> Rollouts:
    rng = torch.Generator().manual_seed(seed)
    return sample(structure.transitions(), population.trace, (len(population), count), epsilon, rng)


@pytest.mark.parametrize(("ndim", "height", "epsilon"), [(1, 5, 0.0), (2, 6, 0.0), (2, 6, 0.4), (4, 3, 1.0)])
def test_every_trajectory_replays_from_the_start_to_its_exit(ndim, height, epsilon):
    structure = grid(ndim, height)
    population = lively(structure, 3)
    members, count = 3, 20
    rollouts = roll(structure, population, count, epsilon)
    log_pf = log_pf_of_rows(rollouts, population.logits(rollouts.inputs))
    torch.testing.assert_close(rollouts.log_pf(rollouts.logits), log_pf, rtol=1e-4, atol=1e-5)
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
                assert rollouts.inputs[m, row].equal(structure.transitions().inputs(torch.tensor([cell]))[0])
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
            expected = float(structure.transitions().log_reward(torch.tensor([cell])))
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
        torch.bincount(a[f & v], minlength=n_actions)
        for a, f, v in zip(rollouts.actions, first, rollouts.valid, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_mixes_in_uniform_choices_among_the_allowed_actions(epsilon):
    structure = grid(3, 3)
    population = lively(structure, 2, scale=6.0)
    count = 3000
    taken = first_actions(roll(structure, population, count, epsilon), 4)
    assert taken.sum(1).tolist() == [count, count]
    with torch.no_grad():
        own = (
            population.logits(structure.transitions().inputs(torch.zeros(1, 3, dtype=torch.long)))[:, 0]
            .double()
            .softmax(-1)
        )
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
    trace = structure.forward_with_cache(structure.module(), weights)
    rollouts = sample(structure.transitions(), trace, (2, 5), 0.1, torch.Generator().manual_seed(0))
    assert len(rollouts.cache) > 1
    assert not any(
        t.requires_grad for t in (*vars(rollouts).values(), *rollouts.cache) if isinstance(t, torch.Tensor)
    )


def test_a_policy_that_has_diverged_stays_on_the_grid():
    structure = grid(2, 3)
    logits = torch.full((3, 9, 3), torch.nan)
    logits[1], logits[2] = 0.0, -torch.inf
    population = lookup(structure, logits)
    rollouts = roll(structure, population, 50)
    assert rollouts.masks.gather(-1, rollouts.actions[..., None]).all()
    log_pf = log_pf_of_rows(rollouts, population.logits(rollouts.inputs))
    assert log_pf[0][rollouts.valid[0]].isnan().all()
    assert torch.isfinite(log_pf[1]).all()


def test_a_trajectory_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr("genflow.rollouts.MAX_STEPS", 3)
    structure = grid(2, 6)
    logits = torch.zeros(1, 36, 3)
    logits[..., -1] = -50
    with pytest.raises(GenflowError, match="did not end within 3 steps"):
        roll(structure, lookup(structure, logits), 2)


def replayed(structure, rollouts: Rollouts) -> torch.Tensor:
    """(M, K, n) the state of each row, from the actions alone; -1 for padding."""
    n = structure.environment.config.ndim
    states = torch.full((*rollouts.valid.shape, n), -1)
    for m, k in rollouts.valid.nonzero().tolist():
        if int(rollouts.places[m, k]) % rollouts.length == 0:
            cell = torch.zeros(n, dtype=torch.long)
        states[m, k] = cell
        if not rollouts.exits[m, k]:
            cell = cell + torch.eye(n, dtype=torch.long)[rollouts.actions[m, k]]
    return states


#: share always and drop who has exited at every step; as it is; never do either
WORTHWHILE = [0.0, 0.1, 1.0]


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("worthwhile", WORTHWHILE)
def test_every_row_has_what_its_policy_says_of_its_state(monkeypatch, worthwhile, numbered):
    monkeypatch.setattr("genflow.rollouts.WORTHWHILE", worthwhile)
    structure = grid(3, 4) if numbered else by_torchgfn(grid(3, 4))
    population = lively(structure, 3)
    sizes = []

    def trace(states):
        sizes.append(states.shape[1])
        return structure.forward_with_cache(structure.module(), population.state_dict())(states)

    rollouts = sample(structure.transitions(), trace, (3, 60), 0.2, torch.Generator().manual_seed(1))
    states, valid = replayed(structure, rollouts), rollouts.valid
    assert not valid.all()
    assert rollouts.rows(rollouts.states)[valid].equal(states[valid])
    inputs = structure.transitions().inputs(states.clamp(min=0).reshape(-1, 3)).reshape(*valid.shape, -1)
    expected = torch.stack([one.module()(x) for one, x in zip(population, inputs, strict=True)]).detach()
    torch.testing.assert_close(rollouts.rows(rollouts.logits)[valid], expected[valid], rtol=1e-5, atol=1e-5)
    # what is kept belongs to the same states: the last layer of what is kept last makes the logits
    weight, bias = (population.state_dict()[f"net.4.{name}"] for name in ("weight", "bias"))
    again = rollouts.rows(rollouts.cache[-1]) @ weight.transpose(1, 2) + bias[:, None]
    torch.testing.assert_close(again[valid], expected[valid], rtol=1e-5, atol=1e-5)

    assert sum(sizes) == rollouts.states.shape[1] == rollouts.logits.shape[1]
    assert sizes[0] == 1, "all are in the initial state"
    if worthwhile == 1:
        assert sizes[1:] == [60] * (rollouts.length - 1)
    elif numbered:
        assert sizes[1] <= 4, "three children, or the initial state of who has exited"
        assert rollouts.states.shape[1] < 0.5 * valid.shape[1]
    else:
        # nobody is shared, and who has exited drops out
        step = torch.where(valid, rollouts.places % rollouts.length, -1)
        under_way = [int((step == t).sum(1).max()) for t in range(1, rollouts.length)]
        assert all(size >= least for size, least in zip(sizes[1:], under_way, strict=True))
        assert sizes[-1] < 60


@pytest.mark.parametrize("worthwhile", WORTHWHILE)
@pytest.mark.parametrize("numbered", [True, False])
def test_ends_follow_the_exact_distribution_whatever_is_shared(monkeypatch, worthwhile, numbered):
    structure = grid(2, 4)
    # 16 cells hold 4000 trajectories, so that nearly all are shared
    population = lively(structure, 2)
    expected = population.terminal_distribution() * 4000
    monkeypatch.setattr("genflow.rollouts.WORTHWHILE", worthwhile)
    if not numbered:
        monkeypatch.setattr(type(structure.transitions()), "state_ids", lambda self, states: None)
    rollouts = roll(structure, population, 4000)
    for m in range(2):
        ends = torch.bincount(rollouts.final[m] @ torch.tensor([4, 1]), minlength=16)
        assert chi_square(ends, expected[m]) < 4.75
        # one draw for all who are in a state would leave the ends right on average, but not the pairs of ends
        pairs = torch.bincount(
            (rollouts.final[m] @ torch.tensor([4, 1])).reshape(-1, 2) @ torch.tensor([16, 1]), minlength=256
        )
        assert chi_square(pairs, torch.outer(expected[m], expected[m]).flatten() / 8000) < 4.75


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_sharing_changes_nothing_but_what_is_evaluated(monkeypatch, epsilon):
    """Policies that are looked up have the same logits to the bit, so the same random numbers must make the
    same trajectories.
    """
    structure = grid(2, 6)
    population = lookup(structure, torch.randn(3, 36, 3) - torch.tensor([0.0, 0.0, 2.0]))
    shared = roll(structure, population, 80, epsilon)
    monkeypatch.setattr(type(structure.transitions()), "state_ids", lambda self, states: None)
    alone = roll(structure, population, 80, epsilon)
    assert shared.states.shape[1] < 0.5 * alone.states.shape[1]
    for name in ("valid", "final", "log_reward"):
        assert getattr(shared, name).equal(getattr(alone, name)), name
    valid = shared.valid
    for name in ("masks", "actions", "exits", "log_pb", "places", "inputs"):
        assert getattr(shared, name)[valid].equal(getattr(alone, name)[valid]), name
    assert shared.rows(shared.logits)[valid].equal(alone.rows(alone.logits)[valid])
    assert shared.length == alone.length
