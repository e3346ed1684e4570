"""The stacked losses against torchgfn's own, member by member: values, gradients and minimisers."""

from __future__ import annotations

import pytest
import torch
from gfn.estimators import DiscretePolicyEstimator, ScalarEstimator
from gfn.gflownet import DBGFlowNet, SubTBGFlowNet, TBGFlowNet
from gfn.samplers import Sampler
from oracles import (
    grid,
    lively,
    log_pf_of_rows,
    lookup,
    optimal,
    rollouts_of,
    trajectories_of,
    uniform_backward,
)

from genflow import Population
from genflow.rollouts import sample
from genflow.training import objectives

MEMBERS = 3
STRUCTURES = [{"ndim": 2, "height": 6}, {"ndim": 3, "height": 4, "R0": 0.001}, {"ndim": 1, "height": 7}]


def flow_networks(structure):
    """One log-flow network a member."""
    return [structure.arch.build(len(structure.layout.units["input"]), 1) for _ in range(MEMBERS)]


def stacked(modules):
    return {
        name: torch.stack([m.state_dict()[name] for m in modules]).requires_grad_()
        for name in modules[0].state_dict()
    }


def ours(objective, structure, population, flows, log_z, rollouts):
    """(M,) losses and the gradients of their sum: {name: (M, ...)}."""
    weights = {name: t.clone().requires_grad_() for name, t in population.state_dict().items()}
    flow = stacked(flows)
    log_z = log_z.clone().requires_grad_()
    log_pf = log_pf_of_rows(rollouts, structure.arch.forward(structure.module(), weights, rollouts.inputs))
    if objective == "tb":
        losses, learned = objectives.trajectory_balance(rollouts, log_pf, log_z), {**weights, "log_z": log_z}
    else:
        log_flow = structure.arch.forward(flows[0], flow, rollouts.inputs).squeeze(-1)
        balance = {"db": objectives.detailed_balance, "subtb": objectives.sub_trajectory_balance}[objective]
        losses, learned = (
            balance(rollouts, log_pf, log_flow),
            {**weights, **{f"flow.{name}": t for name, t in flow.items()}},
        )
    gradients = torch.autograd.grad(losses.sum(), list(learned.values()))
    return losses.detach(), dict(zip(learned, gradients, strict=True))


def theirs(objective, structure, policy, flow, log_z, trajectories):
    """torchgfn's loss of one member, and its gradients under the same names."""
    env, preprocessor = structure.transitions().env, structure.transitions().preprocessor
    module = policy.module()
    forward, backward = (
        DiscretePolicyEstimator(module, n_actions=env.n_actions, preprocessor=preprocessor),
        uniform_backward(structure),
    )
    log_flow = ScalarEstimator(flow, preprocessor=preprocessor)
    learned = dict(module.named_parameters())
    if objective == "tb":
        balance = TBGFlowNet(forward, backward, init_logZ=float(log_z))
        learned["log_z"] = balance.logZ
    else:
        learned |= {f"flow.{name}": p for name, p in flow.named_parameters()}
        balance = (
            DBGFlowNet(forward, backward, logF=log_flow)
            if objective == "db"
            else SubTBGFlowNet(forward, backward, logF=log_flow, weighting="geometric_within", lamda=0.9)
        )
    loss = balance.loss_from_trajectories(env, trajectories, recalculate_all_logprobs=True)
    gradients = torch.autograd.grad(loss, list(learned.values()))
    return loss.detach(), dict(zip(learned, gradients, strict=True))


def compare(objective, structure, population, rollouts, batches):
    flows = flow_networks(structure)
    log_z = torch.tensor([0.3, -1.0, 2.0])
    losses, gradients = ours(objective, structure, population, flows, log_z, rollouts)
    assert losses.shape == (MEMBERS,)
    for m in range(MEMBERS):
        loss, expected = theirs(objective, structure, population[m], flows[m], log_z[m], batches[m])
        torch.testing.assert_close(losses[m], loss, rtol=1e-4, atol=1e-5)
        assert expected.keys() == gradients.keys()
        scale = max(float(g.abs().max()) for g in expected.values())
        assert scale > 1e-2
        for name, gradient in expected.items():
            torch.testing.assert_close(
                gradients[name][m], gradient, rtol=1e-3, atol=1e-5 * scale, msg=f"{name} of member {m}"
            )
    assert len(losses.unique()) == MEMBERS


@pytest.mark.parametrize("objective", ["tb", "db", "subtb"])
@pytest.mark.parametrize("fields", STRUCTURES, ids=str)
def test_losses_and_gradients_are_torchgfns_on_its_own_trajectories(objective, fields):
    structure = grid(**fields)
    population = lively(structure, MEMBERS)
    env, _ = structure.environment.make()
    batches = [
        Sampler(one.to_estimator()).sample_trajectories(env, n=12, save_logprobs=False, epsilon=0.3)
        for one in population
    ]
    compare(objective, structure, population, rollouts_of(structure, batches), batches)


@pytest.mark.parametrize("objective", ["tb", "db", "subtb"])
@pytest.mark.parametrize("fields", STRUCTURES, ids=str)
def test_losses_and_gradients_are_torchgfns_on_our_trajectories(objective, fields):
    structure = grid(**fields)
    population = lively(structure, MEMBERS)
    rollouts = sample(
        structure.transitions(), population.trace, (MEMBERS, 12), 0.3, torch.Generator().manual_seed(2)
    )
    assert not rollouts.valid.all(), "no member was padded, so padding goes untested"
    compare(objective, structure, population, rollouts, trajectories_of(structure, rollouts))


def test_balance_losses_vanish_at_the_exact_flows_and_only_there():
    structure = grid(2, 8)
    population = optimal(structure)
    flows = structure.solution.optimal_flows()
    rollouts = sample(
        structure.transitions(), population.trace, (1, 32), 0.5, torch.Generator().manual_seed(0)
    )
    log_pf = log_pf_of_rows(rollouts, population.logits(rollouts.inputs))
    cell = rollouts.inputs.reshape(1, -1, 2, 8).argmax(-1) @ torch.tensor([8, 1])
    for shift, vanishes in [(0.0, True), (0.5, False)]:
        log_flow, log_z = flows.state[cell].float() + shift, torch.tensor([flows.log_z + shift])
        for loss in (
            objectives.trajectory_balance(rollouts, log_pf, log_z),
            objectives.detailed_balance(rollouts, log_pf, log_flow),
            objectives.sub_trajectory_balance(rollouts, log_pf, log_flow),
        ):
            assert (loss.item() < 1e-10) is vanishes
            assert vanishes or loss.item() > 1e-3


def states_of(structure):
    graph = structure.solution.graph
    every = torch.arange(len(graph.states))
    return (
        structure.transitions().inputs(graph.states),
        graph.mask(every),
        structure.solution.optimal_flows().policy.float(),
    )


def test_distillation_is_zero_at_the_optimum_and_positive_elsewhere():
    structure = grid(2, 6)
    inputs, masks, best = states_of(structure)
    at_optimum = objectives.distillation(optimal(structure).logits(inputs), masks, best)
    assert at_optimum.shape == (1,)
    assert abs(at_optimum.item()) < 1e-6
    elsewhere = objectives.distillation(lively(structure, 3).logits(inputs), masks, best)
    assert elsewhere.shape == (3,)
    assert (elsewhere > 0.01).all()


def test_distillation_is_the_mean_kl_and_ignores_forbidden_actions():
    structure = grid(2, 3)
    _, masks, best = states_of(structure)
    logits = torch.randn(2, 9, 3)
    found = objectives.distillation(logits, masks, best)
    for member in range(2):
        total = 0.0
        for state in range(9):
            allowed = masks[state]
            p, q = best[state][allowed], logits[member, state][allowed].softmax(0)
            total += float((p * (p / q).log()).sum())
        assert found[member].item() == pytest.approx(total / 9, rel=1e-5)
    wild = torch.where(masks, logits, 1e9)
    assert objectives.distillation(wild, masks, best).equal(found)


def test_distillation_from_a_reference_of_each_member_is_that_of_each_alone():
    structure = grid(2, 3)
    _, masks, best = states_of(structure)
    logits, own = torch.randn(2, 9, 3), torch.randn(9, 3).masked_fill(~masks, -torch.inf).softmax(-1)
    together = objectives.distillation(logits, masks, torch.stack([best, own]))
    alone = [
        objectives.distillation(logits[:1], masks, best),
        objectives.distillation(logits[1:], masks, own),
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not together.allclose(objectives.distillation(logits, masks, best))


def test_the_minimiser_of_distillation_samples_the_target():
    structure = grid(2, 4)
    _, masks, best = states_of(structure)
    logits = torch.randn(1, 16, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = objectives.distillation(logits, masks, best).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    probabilities = logits.detach().masked_fill(~masks, -torch.inf).softmax(-1)[0]
    torch.testing.assert_close(probabilities, best, rtol=0, atol=1e-3)
    found, target = (
        lookup(structure, logits.detach()).terminal_distribution()[0],
        structure.solution.target(),
    )
    assert (found - target).abs().sum() < 1e-3


def test_losses_of_one_member_do_not_depend_on_the_others():
    structure = grid(2, 5)
    population = lively(structure, MEMBERS)
    rollouts = sample(
        structure.transitions(), population.trace, (MEMBERS, 6), 0.1, torch.Generator().manual_seed(0)
    )
    log_pf = log_pf_of_rows(rollouts, population.logits(rollouts.inputs))
    changed = Population(structure, torch.cat([population.weights[:1], 2 * population.weights[1:]]))
    other_pf = log_pf_of_rows(rollouts, changed.logits(rollouts.inputs))
    log_flow = torch.randn(log_pf.shape)
    other_flow = torch.cat([log_flow[:1], torch.randn(log_flow[1:].shape)])
    for balance in (objectives.detailed_balance, objectives.sub_trajectory_balance):
        a, b = balance(rollouts, log_pf, log_flow), balance(rollouts, other_pf, other_flow)
        assert a[0].item() == pytest.approx(b[0].item(), rel=1e-5)
        assert a[1].item() != pytest.approx(b[1].item(), rel=1e-2)
