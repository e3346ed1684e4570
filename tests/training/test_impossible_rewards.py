"""Tasks that cannot be learned are refused by the state at fault; rewards are read without a graph."""

from __future__ import annotations

import pytest
import torch
from gfn.env import DiscreteEnv
from gfn.preprocessors import KHotPreprocessor
from oracles import grid

from genflow import (
    Environment,
    ExactSolution,
    GenflowError,
    Population,
    Schema,
    Structure,
    UnitDescriptions,
    Units,
    load_config,
)
from genflow.progress import Progress
from genflow.stages.zoo import train_zoo
from genflow.training.options import PolicyOptions, ZooOptions
from genflow.training.policies import train_population

LENGTH, PLACE = 6, 3


class LineEnv(DiscreteEnv):
    """Positions 0 .. 5, to the right or exit; one position has a reward of its own, or no way out."""

    def __init__(self, reward, dead_end: bool) -> None:
        self.rewards = torch.ones(LENGTH)
        self.rewards[PLACE] = reward
        self.dead_end = dead_end
        super().__init__(n_actions=2, s0=torch.zeros(1, dtype=torch.long), state_shape=(1,))

    def make_states_class(self):
        dead_end = self.dead_end

        class LineStates(super().make_states_class()):
            def _compute_forward_masks(self):
                alive = (self.tensor != PLACE) | (not dead_end)
                return torch.cat([alive & (self.tensor < LENGTH - 1), alive], dim=-1)

            def _compute_backward_masks(self):
                return self.tensor > 0

        return LineStates

    def step(self, states, actions):
        return self.states_from_tensor(states.tensor + 1)

    def backward_step(self, states, actions):
        return self.states_from_tensor(states.tensor - 1)

    def reward(self, states):
        return self.rewards[states.tensor.squeeze(-1)]


class LearnedEnv(LineEnv):
    """A reward that requires grad, as of torchgfn's DiscreteEBM."""

    def __init__(self) -> None:
        super().__init__(2.0, False)
        self.rewards.requires_grad_()


class Line(Environment):
    """The genflow side."""

    class Config(Schema):
        reward: str
        dead_end: bool = False

    def make(self, device="cpu"):
        return LineEnv(float(self.config.reward), self.config.dead_end), KHotPreprocessor(
            height=LENGTH, ndim=1
        )

    def condition(self):
        return {}

    def units(self):
        return Units(UnitDescriptions(torch.arange(LENGTH)[:, None].float()), UnitDescriptions(torch.eye(2)))

    def exact_solution(self, transitions):
        return ExactSolution(transitions, n_states=LENGTH)


class Learned(Line):
    """The same with a reward that requires grad."""

    def make(self, device="cpu"):
        return LearnedEnv(), KHotPreprocessor(height=LENGTH, ndim=1)


def line(cls=Line, **fields) -> Structure:
    environment = cls(cls.Config(**fields))
    return Structure.of(environment, grid(1, 2).arch, "line", "mlp3")


def trained(structure, folder, objective):
    options = PolicyOptions(steps=3, batch_size=64, epsilon=0.9, objective=objective)
    start = Population.initialised(structure, 2, 0).weights
    return train_population(
        structure, options, start=start, seed=0, folder=folder, progress=Progress(quiet=True)
    )


BAD = {
    "0": r"the reward of state \[3\] is 0;",
    "-1": r"the reward of state \[3\] is negative or not a number;",
    "nan": r"the reward of state \[3\] is negative or not a number;",
    "inf": r"the reward of state \[3\] is infinite;",
}


@pytest.mark.parametrize("objective", ["tb", "db", "subtb", "distill"])
@pytest.mark.parametrize("reward", BAD)
def test_a_reward_that_is_not_positive_is_named_with_its_state(tmp_path, reward, objective):
    with pytest.raises(GenflowError, match=BAD[reward]) as caught:
        trained(line(reward=reward), tmp_path, objective)
    assert "\n" not in str(caught.value) and "learning rate" not in str(caught.value)


@pytest.mark.parametrize("objective", ["tb", "db", "subtb", "distill"])
def test_a_dead_end_is_named(tmp_path, objective):
    with pytest.raises(GenflowError, match=r"state \[3\] is a dead end: no action is allowed") as caught:
        trained(line(reward="1", dead_end=True), tmp_path, objective)
    assert "\n" not in str(caught.value) and "learning rate" not in str(caught.value)


def test_exact_results_name_them_too():
    with pytest.raises(GenflowError, match=BAD["0"]):
        line(reward="0").solution.optimal_flows()
    stuck = line(reward="1", dead_end=True)
    for exact in (
        stuck.solution.optimal_flows,
        Population.initialised(stuck, 2, 0).terminal_distribution,
    ):
        with pytest.raises(GenflowError, match=r"state \[3\] is a dead end"):
            exact()


def test_an_unending_trajectory_of_a_diverged_policy_is_no_dead_end(tmp_path, capfd):
    """A policy that is NaN has no highest action, which is the policy's fault and not the task's."""
    structure = line(reward="2")
    start = Population.initialised(structure, 2, 0).weights
    start[1] = torch.nan
    options = PolicyOptions(steps=3, batch_size=8)
    found = train_population(
        structure, options, start=start, seed=0, folder=tmp_path, progress=Progress(quiet=True)
    )
    assert "diverged_at" in found.provenance["members"][1]
    assert "policy 1 of 2 diverged at step 1 " in capfd.readouterr().err


@pytest.mark.parametrize("objective", ["tb", "db", "subtb", "distill"])
def test_a_reward_that_requires_grad_is_read_without_a_graph(tmp_path, objective):
    structure, plain = line(Learned, reward="2"), line(reward="2")
    flows = structure.solution.optimal_flows()
    assert not any(t.requires_grad for t in (flows.state, flows.policy, flows.visit))
    assert flows.policy.equal(plain.solution.optimal_flows().policy)
    rollouts = Population.initialised(structure, 2, 0).rollouts(5)
    assert not rollouts.log_reward.requires_grad
    found, expected = (trained(s, tmp_path / str(i), objective) for i, s in enumerate((structure, plain)))
    assert found.weights.equal(expected.weights)


def test_a_zoo_that_fails_at_once_leaves_its_folder_free(tmp_path):
    config, out = load_config(env="hypergrid"), tmp_path / "zoo"
    for options in (ZooOptions(steps=3, num=2), ZooOptions(steps=4, num=2)):
        with pytest.raises(GenflowError, match=r"the reward of state \[3\] is 0;"):
            train_zoo(config, [line(reward="0")], options, out, Progress(quiet=True))
        assert not out.exists()
