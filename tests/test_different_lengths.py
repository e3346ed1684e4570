"""Tasks whose trajectories to a state differ in length, and backward policies of a task's own."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from gfn.env import DiscreteEnv
from gfn.preprocessors import KHotPreprocessor
from torch import nn

from genflow import (
    Environment,
    ExactSolution,
    GenflowError,
    PolicyArch,
    PolicyOptions,
    Population,
    Progress,
    Schema,
    Structure,
    Transitions,
    UnitDescriptions,
    Units,
    js,
    size,
    train_population,
)
from genflow.ancestry import ancestry, sampled_log_probabilities
from genflow.rollouts import sample

#: the probability of having come by two stairs, where one may have come by one or by two
LONG = 0.8


class StairsEnv(DiscreteEnv):
    """A climb from stair 0 by one or two at a time, which may end anywhere."""

    def __init__(self, n: int) -> None:
        self.n = n
        super().__init__(3, torch.zeros(1, dtype=torch.long), (1,))

    def make_states_class(self):
        """States whose masks look at the stair."""
        n = self.n

        class Stairs(super().make_states_class()):
            def _compute_forward_masks(self):
                return self.tensor < torch.tensor([n - 1, n - 2, n])

            def _compute_backward_masks(self):
                return self.tensor >= torch.tensor([1, 2])

        return Stairs

    def step(self, states, actions):
        """Climb."""
        return self.States(states.tensor + actions.tensor + 1)

    def backward_step(self, states, actions):
        """Go back down."""
        return self.States(states.tensor - actions.tensor - 1)

    def reward(self, states):
        """1, 2, 3, 1, 2, ..."""
        return 1.0 + (states.tensor[..., 0] % 3).double()


class Strides(Transitions):
    """It prefers to have come by long strides."""

    def log_pb(self, parents, states):
        """Of steps, (..., 1) -> (...)."""
        stride, stair = (states - parents)[..., 0], states[..., 0]
        of_stride = torch.tensor([0.0, 1 - LONG, LONG], dtype=torch.float64)[stride]
        return of_stride.where(stair >= 2, 1.0).log()


class Stairs(Environment):
    """The climb, with either backward policy."""

    torchgfn = StairsEnv
    strides: type[Transitions] = Strides

    class Config(Schema):
        """How many stairs there are, and whether `Strides` is the backward policy."""

        n: int = size(7, ge=2)
        named: str = "uniform"

    @property
    def backward(self):
        """As the options say."""
        return self.config.named

    def make(self, device="cpu"):
        """An input for each stair."""
        return self.torchgfn(self.config.n), KHotPreprocessor(self.config.n, 1)

    def condition(self):
        """The number of stairs."""
        return {"n": float(self.config.n)}

    def units(self):
        """Each input and each action is itself."""
        return Units(UnitDescriptions(torch.eye(self.config.n)), UnitDescriptions(torch.eye(3)))

    def transitions(self, device):
        """torchgfn's, with or without the preference."""
        return (Transitions if self.config.named == "uniform" else self.strides)(self.make, device)

    def exact_solution(self, transitions):
        """All stairs."""
        return ExactSolution(transitions, n_states=self.config.n)


class Linear(PolicyArch):
    """A row of logits for each stair."""

    def build(self, n_inputs, n_outputs):
        """(B, n_inputs) -> (B, n_outputs)."""
        return nn.Sequential(nn.Linear(n_inputs, n_outputs, bias=False))

    def axes(self):
        """As in `nn.Linear`."""
        return {"0.weight": ("action", "input")}

    def condition(self):
        """It has no size of its own."""
        return {}


def stairs(named: str = "uniform", n: int = 7, **members) -> Structure:
    task = type("Stairs", (Stairs,), members)
    return Structure.of(task(task.Config(named=named, n=n)), Linear(), "stairs", "linear")


def policy_of(structure: Structure, logits: torch.Tensor) -> Population:
    """Logits (S, A) in the order of the graph -> the policy that has them."""
    place = structure.solution.graph.states[:, 0]
    return Population(structure, logits[place.argsort()].T.reshape(1, -1).float())


def every_climb(n: int) -> list[tuple[int, ...]]:
    """Strides of all trajectories, without exit."""
    return [
        strides
        for length in range(n)
        for strides in itertools.product((1, 2), repeat=length)
        if sum(strides) < n
    ]


NAMED = ("uniform", "long strides")


@pytest.mark.parametrize("named", NAMED)
def test_flows_are_those_of_all_trajectories(named):
    structure = stairs(named)
    solution = structure.solution
    flows, target = solution.optimal_flows(), solution.target()
    stair = solution.graph.states[:, 0].tolist()
    reward = {s: 1.0 + s % 3 for s in stair}
    assert math.isclose(flows.log_z, math.log(sum(reward.values())))
    for s, p in zip(stair, target.tolist(), strict=True):
        assert p == pytest.approx(reward[s] / sum(reward.values()))
    # F(s) is the sum over trajectories through s of R(x) P_B(trajectory | x)
    through: dict[int, float] = defaultdict(float)
    long = 0.5 if named == "uniform" else LONG
    for strides in every_climb(7):
        visited = [0, *itertools.accumulate(strides)]
        back = math.prod(
            1.0 if at < 2 else long if stride == 2 else 1 - long
            for at, stride in zip(visited[1:], strides, strict=True)
        )
        for s in visited:
            through[s] += reward[visited[-1]] * back
    for s, log_flow in zip(stair, flows.state.tolist(), strict=True):
        assert log_flow == pytest.approx(math.log(through[s]), abs=1e-12)


@pytest.mark.parametrize("named", NAMED)
def test_the_optimal_policy_is_balanced_on_every_trajectory_and_samples_the_target(named):
    structure = stairs(named)
    solution, transitions = structure.solution, structure.transitions()
    flows = solution.optimal_flows()
    best = policy_of(structure, flows.policy.log().clamp(min=-50))
    torch.testing.assert_close(best.terminal_distribution()[0], solution.target(), rtol=0, atol=1e-6)
    drawn = sample(transitions, best.trace, (1, 64), 0.5, torch.Generator().manual_seed(0))
    steps = drawn.total(torch.ones_like(drawn.log_pb))[0]
    ends = drawn.final[0, :, 0]
    assert any(len(steps[ends == end].unique()) > 1 for end in ends.unique()), "no two lengths were drawn"
    balance = drawn.log_reward + drawn.total(drawn.log_pb - drawn.log_pf(drawn.logits)) - flows.log_z
    assert balance.abs().max() < 1e-4


def test_backward_policies_have_different_optima_with_the_same_target():
    one, other = (stairs(named).solution for named in NAMED)
    assert torch.equal(one.target(), other.target())
    assert (one.optimal_flows().policy - other.optimal_flows().policy).abs().max() > 0.05


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("objective", ["tb", "distill"])
def test_training_reaches_the_target(named, objective, tmp_path):
    structure = stairs(named, n=5)
    options = PolicyOptions(objective=objective, steps=150, batch_size=16, lr=0.1)
    start = Population.initialised(structure, 2, 0).weights
    trained = train_population(
        structure, options, start=start, seed=0, folder=tmp_path, progress=Progress.current()
    )
    assert js(structure.solution.target(), trained.terminal_distribution()).max() < 2e-3


@pytest.mark.parametrize("named", NAMED)
def test_probabilities_of_objects_are_found_backwards(named):
    structure = stairs(named)
    transitions = structure.transitions()
    policy = policy_of(structure, torch.randn(7, 3, generator=torch.Generator().manual_seed(1)))
    graph, expected = structure.solution.graph, policy.terminal_distribution()[0]

    def logits(states):
        return policy.logits(transitions.inputs(states))

    found = ancestry(transitions, graph.states)
    assert found is not None and found.reached.all()
    assert len(found.graph.states) == 8
    rng = torch.Generator().manual_seed(0)
    for state, probability in zip(graph.states, expected.tolist(), strict=True):
        estimate = sampled_log_probabilities(transitions, logits, state, 4000, rng)
        assert estimate.exp().item() == pytest.approx(probability, rel=0.1)


def test_a_cycle_is_refused_in_one_sentence():
    class Escalator(StairsEnv):
        def step(self, states, actions):
            """Two stairs lead back to the first from the fourth."""
            up = states.tensor + actions.tensor + 1
            return self.States(torch.where((states.tensor == 3) & (actions.tensor == 1), 1, up))

        def make_states_class(self):
            """Whose backward masks know of it."""

            class Looping(super().make_states_class()):
                def _compute_backward_masks(self):
                    return super()._compute_backward_masks() | (self.tensor == 1)

            return Looping

    with pytest.raises(GenflowError, match=r"Escalator: a trajectory can return to a state .*without cycles"):
        stairs(torchgfn=Escalator).solution.graph  # noqa: B018


def test_a_backward_policy_of_its_own_needs_probabilities():
    with pytest.raises(GenflowError, match=r"Stairs.backward: it is odd; .* Transitions.log_pb"):
        stairs("odd", strides=Transitions).transitions()

    class Wrong(Transitions):
        def log_pb(self, parents, states):
            """Half for each stride, also where there is one alone."""
            return torch.full(states.shape[:-1], math.log(0.5))

    with pytest.raises(GenflowError, match=r"state \[1\] has probabilities .* add up to 0.5; log_pb must"):
        stairs("odd", strides=Wrong).transitions()
