"""Training a stacked population: against torchgfn member by member, and as a whole."""

from __future__ import annotations

import math
import signal
from dataclasses import replace

import pytest
import torch
from gfn.estimators import DiscretePolicyEstimator, ScalarEstimator
from gfn.gflownet import DBGFlowNet, SubTBGFlowNet, TBGFlowNet
from gfn.samplers import Sampler
from oracles import (
    by_autograd,
    by_torchgfn,
    grid,
    lively,
    log_pf_of_rows,
    rollouts_of,
    same_gradients,
    uniform_backward,
)

from genflow import GenflowError, Population, Starts
from genflow.measure import exact_metrics
from genflow.progress import Progress
from genflow.training import objectives, policies
from genflow.training.loop import train
from genflow.training.options import PolicyOptions, ZooOptions
from genflow.training.policies import PopulationTrainee, train_members, train_population

QUIET = Progress(quiet=True)
OBJECTIVES = ["tb", "db", "subtb", "distill"]


def js(population: Population) -> torch.Tensor:
    return exact_metrics()["js"](population)


def trained(structure, tmp_path, num=2, seed=0, start=None, checkpoints=1, every=1, **options) -> Population:
    options = PolicyOptions(**{"steps": 20, "batch_size": 8, **options})
    start = Population.initialised(structure, num, seed).weights if start is None else start
    return train_population(
        structure,
        options,
        start=start,
        seed=seed,
        folder=tmp_path,
        progress=QUIET,
        checkpoints=checkpoints,
        every=every,
    )


def balance_of(objective, policy, backward, log_flow):
    if objective == "tb":
        return TBGFlowNet(policy, backward, init_logZ=0.0)
    if objective == "db":
        return DBGFlowNet(policy, backward, logF=log_flow)
    return SubTBGFlowNet(policy, backward, logF=log_flow, weighting="geometric_within", lamda=0.9)


@pytest.mark.parametrize("objective", ["tb", "db", "subtb"])
def test_stacked_training_is_separate_training_with_torchgfn(tmp_path, monkeypatch, objective):
    structure, members, steps = grid(2, 5), 3, 8
    env, preprocessor = structure.environment.make()
    start = lively(structure, members, scale=1.0)
    # the same trajectories for both, from explorers that stay as they are
    explorers = [one.to_estimator() for one in lively(structure, members, seed=9)]
    batches = [
        [Sampler(e).sample_trajectories(env, n=10, save_logprobs=False, epsilon=0.5) for e in explorers]
        for _ in range(steps)
    ]
    queue = iter([rollouts_of(structure, batch) for batch in batches])

    def sample(environment, trace, *_):
        rollouts = next(queue)
        logits, cache = trace(rollouts.states)
        return replace(rollouts, logits=logits, cache=cache)

    monkeypatch.setattr(policies, "sample", sample)
    options = PolicyOptions(steps=steps, lr=0.01, batch_size=10, objective=objective, flow_rate=3.0)
    trainee = PopulationTrainee(
        structure, start.weights, options, seed=0, device="cpu", checkpoints=1, every=1
    )
    first_flow = {name: t.detach().clone() for name, t in trainee.flow.items()}
    train(trainee, options, folder=tmp_path, seed=0, progress=QUIET, label="")

    for m in range(members):
        module, flow = start[m].module(), structure.arch.build(preprocessor.output_dim, 1)
        if first_flow:
            flow.load_state_dict({name: t[m] for name, t in first_flow.items()})
        policy = DiscretePolicyEstimator(module, n_actions=env.n_actions, preprocessor=preprocessor)
        balance = balance_of(
            objective, policy, uniform_backward(structure), ScalarEstimator(flow, preprocessor=preprocessor)
        )
        extra = [balance.logZ] if objective == "tb" else list(flow.parameters())
        scales = [1.0, options.log_z_rate if objective == "tb" else options.flow_rate]
        optimizer = torch.optim.Adam(
            [{"params": list(module.parameters())}, {"params": extra}], lr=options.lr
        )
        for step in range(steps):
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] = options.lr * scale * options.rate(step)
            optimizer.zero_grad()
            balance.loss_from_trajectories(env, batches[step][m], recalculate_all_logprobs=True).backward()
            optimizer.step()
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(trainee.weights[name][m].detach(), tensor, rtol=1e-3, atol=2e-4)
        if objective == "tb":
            torch.testing.assert_close(trainee.log_z[m].detach(), balance.logZ.detach(), rtol=1e-4, atol=1e-4)
        else:
            for name, tensor in flow.state_dict().items():
                torch.testing.assert_close(trainee.flow[name][m].detach(), tensor, rtol=1e-3, atol=5e-4)
    # steps of some 0.01 were taken, which the tolerance is far below
    assert (trainee._flat() - start.weights).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("objective", "batch_size", "reached"),
    [("tb", 16, 0.005), ("db", 16, 0.005), ("subtb", 16, 0.005), ("distill", 64, 0.0005)],
)
def test_every_objective_learns_a_small_grid(tmp_path, objective, batch_size, reached):
    structure = grid(2, 6, width=32)
    start = Population.initialised(structure, 2, 0)
    population = trained(
        structure,
        tmp_path,
        start=start.weights,
        steps=300,
        lr=0.01,
        batch_size=batch_size,
        objective=objective,
        flow_rate=3.0,
    )
    before, after = js(start), js(population)
    assert (before > 0.15).all()
    assert (after < reached).all(), after
    loss = population.provenance["history"]["loss"]
    assert loss[-1][1] < 0.2 * loss[0][1]


def test_log_z_is_learned_by_trajectory_balance(tmp_path):
    structure = grid(2, 6, width=32)
    population = trained(structure, tmp_path, steps=300, lr=0.01, batch_size=16)
    log_z = structure.solution.log_partition()
    assert log_z > 1
    assert population.provenance["log_z"] == pytest.approx([log_z, log_z], abs=0.2)


def test_provenance_says_what_was_done(tmp_path):
    structure = grid(2, 5)
    population = trained(structure, tmp_path, num=3, seed=7, steps=20, objective="db")
    assert population.source == "trained"
    assert population.seen
    facts = population.provenance
    assert facts["training_structures"] == [structure.fields()]
    assert facts["budget"] == {"objective": "db", "steps": 20, "batch_size": 8, "runs": 3}
    assert facts["seed"] == 7
    assert facts["log_z"] is None
    assert [point[0] for point in facts["history"]["loss"]] == list(range(1, 21))
    assert {"loss", "reward", "js"} <= facts["history"].keys()
    assert [(m["run"], m["step"], m["seed"]) for m in facts["members"]] == [
        (0, 20, 7),
        (1, 20, 7),
        (2, 20, 7),
    ]


def test_members_carry_their_exact_metrics(tmp_path):
    population = trained(grid(2, 5), tmp_path, num=3)
    for name, metric in exact_metrics().items():
        expected = metric(population).tolist()
        assert [m["metrics"][name] for m in population.provenance["members"]] == pytest.approx(
            expected, rel=1e-9
        )
    assert population.provenance["history"]["js"][-1][1] == pytest.approx(
        float(js(population).mean()), rel=1e-4
    )


def test_dense_checkpoints_are_the_weights_of_the_last_steps(tmp_path, monkeypatch):
    structure = grid(2, 5)
    seen = {}
    after_step = PopulationTrainee.after_step

    def watch(self, step):
        after_step(self, step)
        seen[step + 1] = self._flat().clone()

    monkeypatch.setattr(PopulationTrainee, "after_step", watch)
    # a rate that does not fall to nothing, so that late checkpoints differ
    population = trained(structure, tmp_path, num=2, steps=17, checkpoints=4, every=3, final_rate=1.0)
    assert len(population) == 8
    members = [(m["run"], m["step"]) for m in population.provenance["members"]]
    assert members == [(run, step) for step in (17, 14, 11, 8) for run in (0, 1)]
    for index, (run, step) in enumerate(members):
        assert population.weights[index].equal(seen[step][run])
    assert len(population.weights.unique(dim=0)) == 8


@pytest.mark.parametrize(
    ("checkpoints", "every", "fits"), [(4, 5, True), (5, 5, False), (20, 1, True), (21, 1, False)]
)
def test_checkpoints_that_do_not_fit_into_the_run_are_refused(tmp_path, checkpoints, every, fits):
    if fits:
        population = trained(grid(2, 3), tmp_path, num=1, checkpoints=checkpoints, every=every)
        assert population.provenance["members"][-1]["step"] >= 1
        assert len(population) == checkpoints
        assert population.weights.abs().sum(1).min() > 0
    else:
        with pytest.raises(GenflowError, match=r"raise zoo\.steps"):
            trained(grid(2, 3), tmp_path, num=1, checkpoints=checkpoints, every=every)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_seed_gives_identical_policies_and_another_does_not(tmp_path, objective):
    structure = grid(2, 4)
    start = Population.initialised(structure, 2, 0).weights
    first, second, other = (
        trained(structure, tmp_path / str(i), seed=seed, start=start, steps=8, objective=objective)
        for i, seed in enumerate((3, 3, 4))
    )
    assert first.weights.equal(second.weights)
    assert first.provenance["history"] == second.provenance["history"]
    assert not first.weights.equal(other.weights)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path, monkeypatch, objective):
    structure = grid(2, 4)
    options = {"steps": 24, "objective": objective, "checkpoints": 4, "every": 3}
    expected = trained(structure, tmp_path / "whole", **options)
    after_step = PopulationTrainee.after_step
    stops = {5: signal.SIGTERM, 18: signal.SIGINT}

    def stop(self, step):
        after_step(self, step)
        if step in stops:
            signal.raise_signal(stops.pop(step))

    monkeypatch.setattr(PopulationTrainee, "after_step", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            trained(structure, tmp_path / "parts", **options)
    found = trained(structure, tmp_path / "parts", **options)
    assert not stops
    assert found.weights.equal(expected.weights)
    assert found.provenance["history"] == expected.provenance["history"]
    assert found.provenance["members"] == expected.provenance["members"]
    assert found.provenance["log_z"] == expected.provenance["log_z"]


def test_a_loss_that_is_not_finite_names_the_structure_and_the_step(tmp_path):
    structure = grid(2, 4)
    start = torch.full((1, structure.layout.size), 1e30)
    with pytest.raises(GenflowError, match=r"ndim=2,height=4.*step 1;"):
        trained(structure, tmp_path, start=start)


def test_distillation_of_a_huge_task_is_refused(tmp_path):
    for structure in (grid(9, 20, width=2), grid(8, 20, width=2, reward="cosine")):
        for refuse in (
            lambda s: trained(s, tmp_path, num=1, objective="distill"),
            ZooOptions(objective="distill").check,
        ):
            with pytest.raises(
                GenflowError, match=r"the optimal policy .* use a balance objective, e\.g\. zoo\.objective=tb"
            ):
                refuse(structure)


def test_a_task_that_is_too_large_to_enumerate_is_distilled_from_sorted_states(tmp_path):
    structure = grid(8, 7, width=16)
    assert not structure.solution.enumerable
    population = trained(structure, tmp_path, num=1, objective="distill", steps=60, lr=0.02, batch_size=128)
    loss = [value for _, value in population.provenance["history"]["loss"]]
    assert sum(loss[-10:]) < 0.5 * sum(loss[:10])


def test_a_task_that_is_too_large_to_enumerate_is_trained_without_exact_metrics(tmp_path):
    population = trained(grid(8, 20, width=4), tmp_path, num=1, steps=2)
    assert "metrics" not in population.provenance["members"][0]
    assert set(population.provenance["history"]) == {"loss", "reward"}


@pytest.mark.parametrize(
    ("num", "seeds", "split"),
    [(1, 8, (1, 1)), (8, 8, (8, 1)), (10, 4, (4, 3)), (200, 1, (1, 200)), (3, 8, (3, 1))],
)
def test_members_are_split_into_runs_and_checkpoints(num, seeds, split):
    options = ZooOptions(num=num, seeds=seeds)
    runs, checkpoints = options.split()
    assert (runs, checkpoints) == split
    assert runs <= seeds
    assert runs * checkpoints >= num > runs * (checkpoints - 1)


def test_a_zoos_members_are_as_many_as_asked_for(tmp_path):
    options = ZooOptions(num=5, seeds=2, checkpoint_every=2, steps=8, batch_size=4)
    population = train_members(grid(2, 4), options, Starts(), seed=0, folder=tmp_path, progress=QUIET)
    assert len(population) == 5
    assert [(m["run"], m["step"]) for m in population.provenance["members"]] == [
        (0, 8),
        (1, 8),
        (0, 6),
        (1, 6),
        (0, 4),
    ]


@pytest.mark.parametrize("members", range(1, 71))
def test_blocks_hold_every_member_once_and_none_is_too_large(members):
    structure = grid(1, 2)
    start = torch.zeros(members, structure.layout.size)
    trainee = PopulationTrainee(
        structure, start, PolicyOptions(), seed=0, device="cpu", checkpoints=1, every=1
    )
    assert [m for block in trainee.blocks for m in range(block.start, block.stop)] == list(range(members))
    assert max(block.stop - block.start for block in trainee.blocks) <= policies.CACHED_MEMBERS


def one_of(rollouts, m):
    """Member m's trajectories, nothing shared and nothing kept."""
    fields = {
        name: value[m : m + 1] for name, value in vars(rollouts).items() if isinstance(value, torch.Tensor)
    }
    index = torch.arange(rollouts.valid.shape[1])[None]
    states = rollouts.rows(rollouts.states)[m : m + 1]
    return replace(
        rollouts,
        **{name: fields[name] for name in fields if name != "inputs"}
        | {"states": states, "index": index, "cache": ()},
    )


def gradients_alone(losses, module, flow, log_z):
    """Of one member's loss, under the names of `PopulationTrainee.tensors`."""
    learned = {f"weights.{name}": p for name, p in module.named_parameters()}
    learned |= {f"flow.{name}": p for name, p in flow.named_parameters()} if flow is not None else {}
    learned |= {"log_z": log_z} if log_z is not None else {}
    return dict(zip(learned, torch.autograd.grad(losses.sum(), list(learned.values())), strict=True))


@pytest.mark.parametrize("members", [3, 20])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_members_gradient_is_that_of_the_member_alone(monkeypatch, objective, members):
    """Its own network, evaluated at each of its rows, and autograd.

    Whatever is shared, kept and done in blocks.
    """
    structure = grid(2, 5)
    expert, start = structure.solution.expert, lively(structure, members)
    options = PolicyOptions(steps=4, batch_size=24, objective=objective, epsilon=0.3)
    trainee = PopulationTrainee(
        structure, start.weights, options, seed=0, device="cpu", checkpoints=1, every=1
    )
    trainee.log_z.data.normal_()
    taken, drawn = [], []
    sample, draw = policies.sample, expert.draw
    monkeypatch.setattr(policies, "sample", lambda *given: taken.append(sample(*given)) or taken[-1])
    monkeypatch.setattr(expert, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    learned = {name: tensor for name, tensor in trainee.tensors().items() if tensor.requires_grad}
    for tensor in learned.values():
        tensor.grad.fill_(7.0)  # what an earlier step left
    loss, figures = trainee.backward(1, torch.Generator().manual_seed(0))

    alone = [(rollouts, b) for rollouts in taken for b in range(len(rollouts.log_reward))] or [
        (None, 0)
    ] * members
    assert len(alone) == members
    assert not taken or any(rollouts.states.shape[1] < rollouts.valid.shape[1] for rollouts in taken), (
        "nothing is shared"
    )
    total = 0.0
    for m, (rollouts, b) in enumerate(alone):
        module, flow, log_z = start[m].module(), None, None
        if objective == "distill":
            ((states, masks, optimal),) = drawn
            losses = objectives.distillation(
                module(structure.transitions().inputs(states))[None], masks, optimal
            )
        else:
            own = one_of(rollouts, b)
            log_pf = log_pf_of_rows(own, module(own.inputs))
            if objective == "tb":
                log_z = trainee.log_z.detach()[m : m + 1].clone().requires_grad_()
                losses = objectives.trajectory_balance(own, log_pf, log_z)
            else:
                flow = structure.arch.build(10, 1)
                flow.load_state_dict({name: tensor[m] for name, tensor in trainee.flow.items()})
                balance = {"db": objectives.detailed_balance, "subtb": objectives.sub_trajectory_balance}[
                    objective
                ]
                losses = balance(own, log_pf, flow(own.inputs).squeeze(-1))
        expected = gradients_alone(losses, module, flow, log_z)
        # of trajectory balance only, log Z has a gradient
        found = {
            name: tensor.grad[m : m + 1] if name == "log_z" else tensor.grad[m]
            for name, tensor in learned.items()
        }
        same_gradients({name: found[name] for name in expected}, expected)
        assert found.keys() - expected.keys() <= {"log_z"}
        total += losses.item()
    assert loss == pytest.approx(total, rel=1e-4)
    assert figures["loss"] == pytest.approx(total / members, rel=1e-4)
    if taken:
        rewards = torch.cat([rollouts.log_reward for rollouts in taken]).exp()
        assert figures["reward"] == pytest.approx(float(rewards.mean()), rel=1e-4)


def test_each_member_is_clipped_by_its_own_norm(tmp_path):
    structure, members = grid(2, 5), 3
    options = PolicyOptions(steps=4, batch_size=8)
    start = lively(structure, members).weights * torch.tensor([[0.1], [1.0], [2.0]])
    trainee = PopulationTrainee(structure, start, options, seed=0, device="cpu", checkpoints=1, every=1)
    trainee.backward(0, torch.Generator().manual_seed(0))
    before = [[t.grad[m].clone() for t in (*trainee.weights.values(), trainee.log_z)] for m in range(members)]
    norms = [math.sqrt(sum(float(grad.square().sum()) for grad in grads)) for grads in before]
    most = sorted(norms)[1]  # one is below, one is at it, one is above
    trainee.clip(most)
    for m, (grads, norm) in enumerate(zip(before, norms, strict=True)):
        for tensor, grad in zip((*trainee.weights.values(), trainee.log_z), grads, strict=True):
            torch.testing.assert_close(tensor.grad[m], grad * min(1.0, most / norm), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "left",
    [[by_autograd], [by_torchgfn], [by_autograd, by_torchgfn]],
    ids=lambda left: "+".join(f.__name__ for f in left),
)
def test_the_fast_ways_learn_what_the_plain_ones_do(tmp_path, left, objective):
    """Nothing of its own but the network itself and the reward: the same trajectories and, to rounding, the
    same weights.
    """
    structure = slow = grid(2, 5)
    for plain in left:
        slow = plain(slow)
    start = lively(structure, 3, scale=1.0).weights
    # a high flow rate, so that a mistake in flows shows in the loss at once
    options = {
        "start": start,
        "steps": 6,
        "batch_size": 24,
        "lr": 0.01,
        "objective": objective,
        "epsilon": 0.3,
        "flow_rate": 5.0,
    }
    fast, plain = (
        trained(s, tmp_path / name, **options) for name, s in (("fast", structure), ("plain", slow))
    )
    assert (fast.weights - start).abs().mean() > 0.01
    torch.testing.assert_close(fast.weights, plain.weights, rtol=1e-3, atol=2e-4)
    for name in ("loss", "reward") if objective != "distill" else ("loss",):
        for (_, a), (_, b) in zip(
            fast.provenance["history"][name], plain.provenance["history"][name], strict=True
        ):
            assert a == pytest.approx(b, rel=1e-3)
