"""Slow and plain counterparts of what genflow computes fast, and policies that are known exactly.

Shapes: M policies, S states, A actions (the last is exit).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction

import torch
from gfn.containers import Trajectories
from gfn.estimators import DiscretePolicyEstimator
from torch import Tensor, nn

from genflow import Environment, ExactSolution, Noise, PolicyArch, Population, Structure
from genflow.rollouts import Rollouts


class Table(nn.Module):
    """Logits of every cell of a grid, looked up by its one-hot input."""

    def __init__(self, n_inputs: int, ndim: int, n_outputs: int) -> None:
        super().__init__()
        self.input_dim, self.output_dim = n_inputs, n_outputs
        self.ndim, self.height = ndim, n_inputs // ndim
        self.table = nn.Parameter(torch.zeros(self.height**ndim, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., s) one-hot -> (..., outputs)."""
        position = x.reshape(*x.shape[:-1], self.ndim, self.height).argmax(-1)
        place = self.height ** torch.arange(self.ndim - 1, -1, -1)
        return self.table[(position * place).sum(-1)]


class Lookup(PolicyArch):
    """A policy that can be anything: one row of logits a cell."""

    def build(self, n_inputs, n_outputs):
        """A table over the grid's cells."""
        return Table(n_inputs, n_outputs - 1, n_outputs)

    def axes(self):
        """Cells have no coordinates."""
        return {"table": ("cell", "action")}

    def condition(self):
        """It has no size of its own."""
        return {}


def grid(ndim: int, height: int, **fields) -> Structure:
    """A hypergrid with a small mlp3."""
    return Structure.build("hypergrid", {"ndim": ndim, "height": height, "width": 8, **fields})


def by_torchgfn(structure: Structure) -> Structure:
    """The same task, with everything left to torchgfn that an environment may leave to it, but for its
    expert.
    """
    own = structure.solution

    class Solution(ExactSolution):
        expert = property(lambda self: own.expert)

    class Plain(type(structure.environment)):
        transitions = Environment.transitions

        def exact_solution(self, transitions):
            return Solution(transitions, own.n_states)

    environment = Plain(structure.environment.config, structure.environment.reward)
    return Structure.of(environment, structure.arch, structure.env, structure.policy)


def by_autograd(structure: Structure) -> Structure:
    """The same policy, with everything left to autograd and vmap that an architecture may leave to them."""
    left = ("takes_one_hot_indices", "forward", "forward_with_cache", "backward")
    plain = type("Plain", (type(structure.arch),), {name: vars(PolicyArch)[name] for name in left})
    return Structure.of(structure.environment, plain(structure.arch.config), structure.env, structure.policy)


def lookup(structure: Structure, logits: Tensor, **provenance) -> Population:
    """(M, S, A) logits -> a population on the structure's environment that has exactly these."""
    tabular = Structure.of(structure.environment, Lookup(), "hypergrid", "lookup")
    return Population(tabular, logits.float().reshape(len(logits), -1), provenance)


def optimal(structure: Structure) -> Population:
    """The policy of the exact flows, as a population of one."""
    # actions that are not allowed are masked by whoever samples; any finite number will do
    return lookup(structure, structure.solution.optimal_flows().policy.log().clamp(min=-50)[None])


def lively(structure: Structure, num: int, seed: int = 0, scale: float = 3.0) -> Population:
    """Random policies far from uniform, so that mixing up members, states or actions shows."""
    start = Population.initialised(structure, num, seed)
    return Population(structure, scale * start.weights, start.provenance)


def at(structure: Structure, *places: tuple[float, float]) -> Population:
    """Policies whose first two weights are given, the others 0."""
    weights = torch.zeros(len(places), structure.layout.size)
    weights[:, :2] = torch.tensor(places)
    return Population(structure, weights)


def exits(*shares: float) -> Population:
    """Policies of a line of two cells that end in the first with these probabilities.

    The target is (.5, .5).
    """
    logits = (
        torch.tensor([[[(1 - p), p], [1.0, 1.0]] for p in shares], dtype=torch.float64).log().clamp(min=-60)
    )
    return lookup(grid(1, 2), logits)


def shuffled(population: Population, order: list[int]) -> Population:
    """The members in another order, or some of them."""
    return Population(population.structure, population.weights[order], population.provenance)


def reward(
    cell: tuple[int, ...],
    height: int,
    divisor: int,
    r0=0.1,
    r1=0.5,
    r2=2.0,
    outer="0.25",
    band=("0.3", "0.4"),
) -> float:
    """R(x) as the paper defines it, in exact fractions."""
    distance = [abs(Fraction(k, divisor) - Fraction(1, 2)) for k in cell]
    low, high = map(Fraction, band)
    return r0 + r1 * all(a > Fraction(outer) for a in distance) + r2 * all(low < a < high for a in distance)


def cells(ndim: int, height: int) -> list[tuple[int, ...]]:
    """All cells in row-major order."""
    return list(itertools.product(range(height), repeat=ndim))


def one_by_one(population: Population, x: Tensor, toward: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(M, B, A) logits and their gradients {name.

    (M, *shape)} by the weights, from one network at a time by autograd.

    Args:
        population: the networks.
        x: (B, s) or (M, B, s) inputs.
        toward: (M, B, A) gradient of a loss by the logits.
    """
    logits, gradients = [], []
    for m, one in enumerate(population):
        module = one.module()
        logits.append(module(x if x.ndim == 2 else x[m]))
        parameters = dict(module.named_parameters())
        gradients.append(
            dict(
                zip(
                    parameters,
                    torch.autograd.grad(logits[-1], list(parameters.values()), toward[m]),
                    strict=True,
                )
            )
        )
    return torch.stack(logits).detach(), {
        name: torch.stack([g[name] for g in gradients]) for name in gradients[0]
    }


def traced(population: Population, passes: list[Tensor], toward: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The same by the architecture's `forward_with_cache` and `backward`, from one pass or several that are
    joined.
    """
    # a network and gradients that are not read
    arch, module = population.structure.arch, population.structure.module()
    weights = population.state_dict()
    out_grads = {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}
    trace = arch.forward_with_cache(module, weights)
    logits, cache = zip(*map(trace, passes), strict=True)
    arch.backward(
        module, weights, tuple(torch.cat(parts, 1) for parts in zip(*cache, strict=True)), toward, out_grads
    )
    return torch.cat(logits, 1), out_grads


def holed(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """(M, B, A) gradients with zeros among them, whole rows of zeros, and at the last of several members
    nothing else.
    """
    rng = torch.Generator().manual_seed(seed)
    toward = torch.randn(shape, generator=rng) * (torch.rand(shape, generator=rng) < 0.5)
    toward[:, ::3] = 0.0
    if len(toward) > 1:
        toward[-1] = 0.0
    return toward


def same_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Equal to rounding, which is that of sums whose terms may be far larger than they."""
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 1e-3, "nothing is compared"
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


def action_probabilities(population: Population) -> dict[tuple[int, ...], list[float]]:
    """Cell -> probabilities of all actions, of a population of one, by calling its network on one state at a
    time.
    """
    module, env = population.module(), population.structure.environment
    n, h = env.config.ndim, env.config.height
    table = {}
    for cell in cells(n, h):
        x = torch.zeros(n * h)
        for dimension, position in enumerate(cell):
            x[dimension * h + position] = 1.0
        with torch.no_grad():
            logits = module(x[None])[0].tolist()
        weights = [math.exp(value) if i == n or cell[i] < h - 1 else 0.0 for i, value in enumerate(logits)]
        table[cell] = [w / sum(weights) for w in weights]
    return table


def every_trajectory(height: int, probabilities: dict[tuple[int, ...], list[float]]) -> Tensor:
    """(S,) terminal distribution, the sum over every single trajectory of its probability."""
    ndim = len(next(iter(probabilities)))
    ends: dict[tuple[int, ...], float] = defaultdict(float)
    paths = [((0,) * ndim, 1.0)]
    while paths:
        cell, p = paths.pop()
        ends[cell] += p * probabilities[cell][ndim]
        for i in range(ndim):
            if cell[i] < height - 1:
                paths.append(((*cell[:i], cell[i] + 1, *cell[i + 1 :]), p * probabilities[cell][i]))
    return torch.tensor([ends[cell] for cell in cells(ndim, height)], dtype=torch.float64)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """Pearson's statistic as a standard score (Wilson and Hilferty 1931); rare cells are merged."""
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]]).double()
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(counts) - 1
    value = float(((counts - expected).square() / expected).sum()) / freedom
    return (value ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def uniform_backward(structure: Structure) -> DiscretePolicyEstimator:
    """torchgfn's uniform backward policy."""
    env, preprocessor = structure.transitions().env, structure.transitions().preprocessor
    return DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=preprocessor)


def rollouts_of(structure: Structure, batches: list) -> Rollouts:
    """torchgfn's trajectories, one batch a member, as `Rollouts`: step by step, in plain Python."""
    n, h = structure.environment.config.ndim, structure.environment.config.height
    env = structure.transitions().env
    length = max(int(batch.terminating_idx.max()) for batch in batches)
    rows = []
    for batch in batches:
        row = []
        for b, steps in enumerate(batch.terminating_idx.tolist()):
            for t in range(steps):
                action = int(batch.actions.tensor[t, b, 0])
                parents = int((batch.states.tensor[t + 1, b] > 0).sum()) if action != n else 1
                row.append((batch.states.tensor[t, b].tolist(), action, -math.log(parents), b * length + t))
        rows.append(row)
    longest = max(map(len, rows))
    # what padding rows hold must not matter: a state, an action and a place that a mistake would show up in
    padding = ([h - 1] * n, n, 7.0, len(batches[0].terminating_idx) * length - 1)
    full = [row + [padding] * (longest - len(row)) for row in rows]
    valid = torch.tensor([[i < len(row) for i in range(longest)] for row in rows])
    states = torch.tensor([[r[0] for r in row] for row in full])
    actions = torch.tensor([[r[1] for r in row] for row in full])
    masks = env.States(states.reshape(-1, n)).forward_masks.reshape(len(batches), longest, -1)
    return Rollouts(
        transitions=structure.transitions(),
        states=states,
        logits=torch.zeros(masks.shape),
        cache=(),
        index=torch.arange(longest).expand(len(batches), -1),
        masks=masks,
        actions=actions,
        valid=valid,
        exits=valid & (actions == n),
        log_pb=torch.tensor([[r[2] for r in row] for row in full]),
        places=torch.tensor([[r[3] for r in row] for row in full]),
        log_reward=torch.stack([batch.log_rewards for batch in batches]),
        final=torch.stack([batch.terminating_states.tensor for batch in batches]),
        length=length,
    )


def trajectories_of(structure: Structure, rollouts: Rollouts) -> list[Trajectories]:
    """`Rollouts` as torchgfn's trajectories, one batch a member."""
    n, h = structure.environment.config.ndim, structure.environment.config.height
    env = structure.transitions().env
    members, count = rollouts.log_reward.shape
    batches = []
    for m in range(members):
        states = env.sf.expand(rollouts.length + 1, count, n).clone()
        actions = torch.full((rollouts.length, count, 1), -1)
        ends = torch.zeros(count, dtype=torch.long)
        for k in range(rollouts.valid.shape[1]):
            if rollouts.valid[m, k]:
                b, t = divmod(int(rollouts.places[m, k]), rollouts.length)
                states[t, b] = rollouts.inputs[m, k].reshape(n, h).argmax(-1)
                actions[t, b, 0] = rollouts.actions[m, k]
                ends[b] = max(int(ends[b]), t + 1)
        batches.append(Trajectories(env, env.States(states), env.actions_from_tensor(actions), ends))
    return batches


def normal(seed: int) -> Noise:
    """The noise of training, for encoders."""
    rng = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=rng)


def log_pf_of_rows(rollouts, logits: torch.Tensor) -> torch.Tensor:
    """Log P_F (M, K) of the actions taken, from logits (M, K, A) of every row; 0 for padding."""
    log_probs = logits.masked_fill(~rollouts.masks, -torch.inf).log_softmax(-1)
    return log_probs.gather(-1, rollouts.actions[..., None])[..., 0].masked_fill(~rollouts.valid, 0.0)
