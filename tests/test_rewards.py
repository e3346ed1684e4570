"""Rewards of a third party for the hypergrid: trained on, evaluated, and refused in one line where they are
wrong.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from genflow_hypergrid.environment import Hypergrid
from gfn.samplers import Sampler
from oracles import cells, grid, optimal

from genflow import (
    GenflowError,
    Population,
    Reward,
    Schema,
    Structure,
    described,
    load_config,
    run,
)


class Corner(Reward):
    """Pays more the nearer a position is to the far corner."""

    environment = "hypergrid"

    class Config(Schema):
        """`slope`: by how much."""

        slope: float = described(2.0, gt=0)

    def score(self, objects):
        """exp(slope * mean position), all tensors."""
        return (self.config.slope * objects.double().mean(1) / (self.task.height - 1)).exp()

    def is_mode(self, objects):
        """The far corner alone."""
        return (objects == self.task.height - 1).all(1)


class Lists(Corner):
    """The same from plain numbers."""

    def score(self, objects):
        """A list."""
        return super().score(objects).tolist()


class Learned(Corner):
    """The same from a parameter, as an energy model has it."""

    def score(self, objects):
        """With a graph, in float32."""
        weight = torch.nn.Parameter(torch.tensor(self.config.slope))
        return (weight * objects.float().mean(1) / (self.task.height - 1)).exp()


def task(reward: Reward | type[Reward], ndim: int = 2, height: int = 5) -> Structure:
    """A hypergrid that pays this reward, which nobody has registered."""
    config = Hypergrid.Config(ndim=ndim, height=height)
    reward = reward(None, config) if isinstance(reward, type) else reward
    return Structure.of(Hypergrid(config, reward), grid(ndim, height).arch, "hypergrid", "mlp3")


@pytest.mark.parametrize("cls", [Corner, Lists, Learned])
def test_a_reward_is_what_the_task_pays(cls):
    structure = task(cls)
    expected = torch.tensor([2.0 * sum(cell) / 2 / 4 for cell in cells(2, 5)], dtype=torch.float64)
    found = structure.transitions().log_reward(torch.tensor(cells(2, 5)))
    assert found.dtype == torch.float64 and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(structure.solution.target(), expected.softmax(0), rtol=1e-6, atol=1e-6)
    # torchgfn's side is the same
    env = structure.transitions().env
    states = env.States(torch.tensor(cells(2, 5)))
    torch.testing.assert_close(env.log_reward(states).double(), expected, rtol=1e-6, atol=1e-6)
    assert not env.log_reward(states).requires_grad
    assert structure.transitions().is_mode(torch.tensor([[4, 4], [4, 3]])).tolist() == [True, False]
    # one that is not symmetric by promise is solved by enumeration
    torch.testing.assert_close(
        optimal(structure).terminal_distribution()[0], structure.solution.target(), rtol=1e-4, atol=1e-6
    )


def test_torchgfn_samples_such_a_task():
    structure = task(Corner)
    population = Population.initialised(structure, 1, 0)
    sampled = Sampler(population.to_estimator()).sample_trajectories(
        structure.transitions().env, n=16, save_logprobs=False
    )
    final = sampled.terminating_states.tensor
    torch.testing.assert_close(
        sampled.log_rewards.double(), structure.transitions().log_reward(final), rtol=1e-5, atol=1e-6
    )


def test_a_registered_reward_is_trained_and_evaluated(third_party, tmp_path):
    third_party("register_rewards", "corner", f"{__name__}:Corner", environment="hypergrid")
    structure = Structure.parse("hypergrid", "ndim=2,height=4,width=4,reward=corner,slope=3")
    assert structure.fields() == {"ndim": 2, "height": 4, "reward": "corner", "slope": 3.0, "width": 4}
    assert structure.fixed_fields() == {"reward": "corner", "backward": None}
    assert structure.roles()["slope"] == "described"
    assert Structure.parse("hypergrid", structure.name) == structure
    config = load_config(
        env="hypergrid",
        structures=[structure.name],
        **{
            "zoo.num": 2, "zoo.steps": 3, "zoo.batch_size": 4, "autoencoder.steps": 2,
            "autoencoder.batch_size": 2,
            "diffusion.steps": 2, "generate.num": 2, "generate.steps": 2, "evaluation.num": 2,
            "evaluation.metrics": ["js", "mean_reward"], "evaluation.baselines": ["random"],
        },
    )  # fmt: skip
    entries = run(config, tmp_path / "run")
    assert {entry["source"] for entry in entries} >= {"trained", "generated", "random"}
    for entry in entries:
        assert entry["structure"]["slope"] == 3.0
        assert 1 <= entry["metrics"]["mean_reward"]["mean"] <= 20.1
    trained = Population.load(tmp_path / "run" / "zoo" / structure.name)
    assert trained.structure == structure


def test_a_reward_of_another_task_is_not_found(third_party):
    third_party("register_rewards", "corner", f"{__name__}:Corner", environment="elsewhere")
    with pytest.raises(GenflowError, match="corner"):
        Structure.parse("hypergrid", "ndim=2,height=4,reward=corner")


def test_a_key_of_another_reward_is_unknown(third_party):
    third_party("register_rewards", "corner", f"{__name__}:Corner", environment="hypergrid")
    with pytest.raises(GenflowError, match="unknown key 'R0'"):
        Structure.parse("hypergrid", "ndim=2,height=4,reward=corner,R0=0.5")
    with pytest.raises(GenflowError, match="unknown key 'slope'"):
        Structure.parse("hypergrid", "ndim=2,height=4,slope=0.5")


class Wrong(Corner):
    """Wrong in the way that `change` says."""

    change = staticmethod(lambda scores: scores)

    def score(self, objects):
        """Changed."""
        return self.change(super().score(objects))


def at_third(value):
    def change(scores):
        scores = scores.clone()
        scores[2:3] = value
        return scores

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (at_third(0.0), "is 0.0 at positions [0, 2]"),
        (at_third(-1.5), "is -1.5 at positions [0, 2]"),
        (at_third(float("nan")), "is nan at positions [0, 2]"),
        (at_third(float("inf")), "is inf at positions [0, 2]"),
        (lambda scores: scores[:-1], "returned (24,) values for 25 objects"),
        (lambda scores: scores[:, None], "returned (25, 1) values for 25 objects"),
        (lambda scores: scores.sum(), "returned () values for 25 objects"),
        (lambda scores: scores.tolist()[:3], "returned (3,) values for 25 objects"),
        (
            lambda scores: scores.config,
            "failed for 25 positions, the first of which is [0, 0]: AttributeError: ",
        ),
    ],
)
def test_wrong_scores_are_one_line_that_names_reward_and_positions(change, says):
    class Mistaken(Wrong):
        pass

    Mistaken.change = staticmethod(change)
    structure = task(Mistaken)
    env = structure.transitions().env
    for ask in (
        lambda: structure.transitions().log_reward(torch.tensor(cells(2, 5))),
        structure.solution.target,
        lambda: structure.solution.expert,
        lambda: env.log_reward(env.States(torch.tensor(cells(2, 5)))),
    ):
        with pytest.raises(GenflowError) as caught:
            ask()
        assert "reward Mistaken" in str(caught.value) and says in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scores", [["a"] * 25, None, [None] * 25, "abc", [[1.0], [1.0, 2.0]]], ids=str)
def test_scores_that_are_no_numbers_are_one_line_that_names_the_reward(scores):
    class Silent(Corner):
        def score(self, objects):
            return scores

    with pytest.raises(GenflowError, match="reward Silent") as caught:
        task(Silent).solution.target()
    assert "\n" not in str(caught.value)


def test_tasks_with_a_reward_of_their_own_are_copied_and_pickled():
    structure = task(Corner)
    population = Population.initialised(structure, 2, 0)
    for again in (copy.copy(structure), copy.deepcopy(structure), pickle.loads(pickle.dumps(structure))):
        assert again == structure and hash(again) == hash(structure)
    before = population.terminal_distribution()
    for other in (copy.deepcopy(population), pickle.loads(pickle.dumps(population))):
        assert other.structure == structure
        assert other.terminal_distribution().equal(before)


def test_rewards_of_one_class_and_other_options_are_other_tasks():
    config = Hypergrid.Config(ndim=2, height=5)
    gentle, steep = (task(Corner(Corner.Config(slope=slope), config)) for slope in (1.0, 4.0))
    assert gentle != steep and gentle.name != steep.name
    assert not gentle.solution.target().equal(steep.solution.target())
    assert task(Corner) != task(Lists)
