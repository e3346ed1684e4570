"""Replay: the best states so far, trajectories to them, and the training that goes on exactly."""

from __future__ import annotations

import signal

import pytest
import torch
from oracles import by_torchgfn, chi_square, grid, lively

from genflow import GenflowError, Population, Structure
from genflow.progress import Progress
from genflow.rollouts import sample
from genflow.training import objectives
from genflow.training.finetune import FinetuneOptions, finetune
from genflow.training.policies import PopulationTrainee
from genflow.training.replay import RANK_SHARE, ReplayBuffer

SMALL_MOLECULES = Structure.parse("molecule", "blocks=0+3+6,max_blocks=4,width=8")


def cells(*rows) -> torch.Tensor:
    return torch.tensor(rows)


def buffer_of(structure, capacity=8, sampling="rank", ratio=0.5) -> ReplayBuffer:
    return ReplayBuffer(structure.transitions(), ratio, capacity, sampling)


@pytest.mark.parametrize("capacity", [1, 3, 50])
def test_the_best_are_kept_each_once(capacity):
    buffer, best = buffer_of(grid(2, 5), capacity), {}
    rng = torch.Generator().manual_seed(0)
    assert len(buffer) == 0 and buffer.share(10) == 0
    for _ in range(4):
        states = torch.randint(0, 5, (6, 2), generator=rng)
        rewards = -(states @ torch.tensor([1.0, 7.0], dtype=torch.float64).long()).double()
        buffer.add(states, rewards)
        best |= dict(zip(map(tuple, states.tolist()), rewards.tolist(), strict=True))
        wanted = sorted(best.items(), key=lambda item: -item[1])[:capacity]
        number = len(buffer)
        assert number == len(wanted) == min(capacity, len(best))
        assert [tuple(state) for state in buffer.states[:number].tolist()] == [state for state, _ in wanted]
        assert buffer.log_reward[:number].tolist() == [reward for _, reward in wanted]
    assert [buffer.share(size) for size in (1, 2, 9, 10)] == [0, 1, 4, 5]


@pytest.mark.parametrize("sampling", ["rank", "uniform"])
def test_states_are_drawn_by_their_rank(sampling):
    buffer = buffer_of(grid(1, 6), sampling=sampling)
    buffer.add(cells([0], [1], [2], [3], [4]), torch.tensor([1.0, 5.0, 3.0, 2.0, 4.0]))
    drawn = buffer.sample((2, 20_000), torch.Generator().manual_seed(0))
    ends = drawn.states.gather(0, (drawn.valid.sum(0) - 1)[None, ..., None]).flatten()
    weights = torch.tensor([1 / (RANK_SHARE * 5 + rank) for rank in range(5)])
    weights = weights if sampling == "rank" else torch.ones(5)
    order = [1, 4, 2, 3, 0]
    counts = torch.bincount(ends, minlength=5)[order].double()
    assert chi_square(counts, 40_000 * weights.double() / weights.sum()) < 4


@pytest.mark.parametrize("structure", [grid(2, 4), by_torchgfn(grid(3, 3)), SMALL_MOLECULES], ids=str)
def test_trajectories_lead_from_the_start_to_what_is_replayed(structure):
    transitions, population = structure.transitions(), Population.initialised(structure, 2, 0)
    rng = torch.Generator().manual_seed(1)
    first = sample(transitions, population.trace, (2, 12), 0.5, rng)
    buffer = buffer_of(structure)
    buffer.add(first.final.flatten(0, 1), first.log_reward.flatten())
    drawn = buffer.sample((2, 9), rng)
    exit_action, kept = transitions.n_actions - 1, buffer.states[: len(buffer)].tolist()
    for m in range(2):
        for b in range(9):
            state = transitions.initial_state
            for step in range(int(drawn.valid[:, m, b].sum())):
                assert drawn.valid[step, m, b] and drawn.states[step, m, b].equal(state)
                action = drawn.actions[step, m, b]
                assert transitions.forward_masks(state)[action]
                state = transitions.step(state[None], action[None])[0]
            assert action == exit_action and state.tolist() in kept


@pytest.mark.parametrize("objective", ["tb", "db", "subtb"])
@pytest.mark.parametrize("structure", [grid(2, 4), SMALL_MOLECULES], ids=str)
def test_a_loss_is_that_of_sampled_and_replayed_trajectories_apart(structure, objective):
    transitions, population = structure.transitions(), lively(structure, 3)
    buffer, rng = buffer_of(structure), torch.Generator().manual_seed(1)
    first = sample(transitions, population.trace, (3, 8), 0.5, rng)
    buffer.add(first.final.flatten(0, 1), first.log_reward.flatten())
    beside = buffer.sample((3, 5), rng)

    def rolled(number, given):
        return sample(
            transitions, population.trace, (3, number), 0.3, torch.Generator().manual_seed(2), given
        )

    def loss(rollouts):
        log_pf = rollouts.log_pf(rollouts.logits)
        if objective == "tb":
            return objectives.trajectory_balance(rollouts, log_pf, torch.tensor([0.0, 1.0, 2.0])) * len(
                rollouts.log_reward[0]
            )
        log_flow = rollouts.rows(rollouts.states.float().sum(-1, keepdim=True)).squeeze(-1)
        if objective == "db":
            return objectives.detailed_balance(rollouts, log_pf, log_flow) * rollouts.valid.sum(1)
        return objectives.sub_trajectory_balance(rollouts, log_pf, log_flow) * len(rollouts.log_reward[0])

    both, sampled = rolled(7, beside), rolled(7, None)
    # one more is sampled where there must be one, and taken off again
    alone = rolled(1, beside)
    single = rolled(1, None)
    torch.testing.assert_close(loss(both), loss(sampled) + loss(alone) - loss(single), rtol=1e-4, atol=1e-4)
    assert both.log_reward[:, :7].equal(sampled.log_reward)
    assert both.log_reward[:, 7:].equal(alone.log_reward[:, 1:])


def trained(folder, structure=None, **options) -> Population:
    structure = structure or grid(2, 4)
    options = FinetuneOptions(
        **{"steps": 24, "batch_size": 8, "replay_ratio": 0.5, "replay_capacity": 6, **options}
    )
    start = Population.initialised(structure, 3, 0)
    return finetune(start, "finetuned", options, seed=0, folder=folder, progress=Progress(quiet=True))


@pytest.mark.parametrize("structure", [grid(2, 4), SMALL_MOLECULES], ids=str)
def test_a_stopped_training_with_replay_goes_on_bit_for_bit(tmp_path, monkeypatch, structure):
    expected = trained(tmp_path / "whole", structure)
    after_step, stops = PopulationTrainee.after_step, {5: signal.SIGTERM, 18: signal.SIGINT}

    def stop(self, step):
        after_step(self, step)
        if step in stops:
            signal.raise_signal(stops.pop(step))

    monkeypatch.setattr(PopulationTrainee, "after_step", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", structure)
    found = trained(tmp_path / "parts", structure)
    assert not stops and found.weights.equal(expected.weights)
    assert found.provenance["history"] == expected.provenance["history"]
    assert not found.weights.equal(trained(tmp_path / "none", structure, replay_ratio=0.0).weights)


def test_distillation_replays_nothing(tmp_path):
    with pytest.raises(GenflowError, match=r"leave out finetune\.replay_ratio"):
        trained(tmp_path, objective="distill")
