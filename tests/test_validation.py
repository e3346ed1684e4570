"""Mistakes of a plugin's author: each is one line that names the class and the mend."""

from __future__ import annotations

import math

import pytest
import torch
from bits import BitsEnv, always, bits, described_as, raises
from gfn.env import DiscreteEnv
from gfn.gym import Box
from gfn.gym.graph_building import GraphBuilding
from gfn.preprocessors import IdentityPreprocessor, KHotPreprocessor
from oracles import grid

from genflow import (
    ExactSolution,
    GenflowError,
    Structure,
    Transitions,
    UnitDescriptions,
    Units,
)
from genflow.interfaces import behaviour


class Row(KHotPreprocessor):
    """It makes one row of inputs for all states."""

    def preprocess(self, states):
        """(1, s)."""
        return super().preprocess(states)[:1]


class Infinite(KHotPreprocessor):
    """Its first input is never finite."""

    def preprocess(self, states):
        """(B, s)."""
        return super().preprocess(states).double().index_fill(-1, torch.tensor([0]), float("inf"))


class WrongIndices(Transitions):
    """It says that the first input is 1 always."""

    def one_hot_indices(self, states):
        """(B, 1)."""
        return torch.zeros(len(states), 1, dtype=torch.long)


class Last(BitsEnv):
    """Its exit is the first action."""

    def __init__(self, n, score):
        super().__init__(n, score, first=0)


class Conditional(BitsEnv):
    """A torchgfn environment whose reward has a condition."""

    is_conditional = True


def made(environment, preprocessor=None):
    """`make` with another torchgfn environment or preprocessor."""
    return lambda self, device="cpu": (
        environment(3, self.reward.score) if isinstance(environment, type) else environment,
        preprocessor or KHotPreprocessor(3, 3),
    )


def graphs():
    return GraphBuilding(num_node_classes=2, num_edge_classes=2, state_evaluator=always(torch.ones(1)))


def set_by_reset(env, *shape, **_):
    """States whose masks only `reset` knows."""
    states = env.States(env.s0.repeat(*shape[0], 1))
    states.forward_masks = torch.tensor([[True, True, False]]).repeat(*shape[0], 1)
    return states


#: mistake -> members of the task, the class that is named, the mend
MISTAKES = {
    "actions without exit": ({"units": always(described_as(9, 2))}, "Bits.units()", "exit last"),
    "too few inputs": ({"units": always(described_as(8, 3))}, "Bits.units()", "describe each number"),
    "units of plain tensors": (
        {"units": always((torch.eye(9), torch.eye(3)))}, "Bits.units()", "return genflow.Units(",
    ),
    "Units of plain tensors": (
        {"units": always(Units(torch.eye(9), torch.eye(3)))}, "Bits.units()", "return genflow.Units(",
    ),
    "units that raise": ({"units": raises}, "Bits.units()", "KeyError: 'oops' (bits.py, line"),
    "units of no numbers": (
        {"units": lambda self: UnitDescriptions(torch.full((9, 1), torch.nan))}, "Bits.units()", "finite",
    ),
    "axes that do not fit": ({"policy": {"axes": always({})}}, "Linear.layout()", "axis labels {}"),
    "layout of another type": (
        {"policy": {"layout": always(3)}}, "Linear.layout()", "return a genflow.WeightLayout",
    ),
    "a word in the condition": (
        {"condition": always({"beta": "high"})}, "Bits.condition()", "give each category a number",
    ),
    "an infinite condition": (
        {"condition": always({"n": float("inf")})}, "Bits.condition()", "return a float",
    ),
    "a condition without names": ({"condition": always([3.0])}, "Bits.condition()", "return a dict"),
    "a policy's condition": ({"policy": {"condition": always(None)}}, "Linear.condition()", "return a dict"),
    "too few initial logits": (
        {"initial_logits": always(torch.zeros(2))}, "Bits.initial_logits()", "each of the 3 actions",
    ),
    "no preprocessor": ({"make": always(BitsEnv(3, None))}, "returns BitsEnv;", "return two things"),
    "continuous actions": (
        {"make": made(Box(), IdentityPreprocessor(2))}, "returns BoxCartesian,", "not supported",
    ),
    "graphs": ({"make": made(graphs())}, "returns GraphBuilding,", "not supported"),
    "conditional": ({"make": made(Conditional)}, "returns Conditional,", "not supported"),
    "make that raises": ({"make": raises}, "Bits.make()", "KeyError: 'oops' (bits.py, line"),
    "exit first": ({"make": made(Last)}, "Last", "exit must be the last of its 3 actions"),
    "no masks of their own": (
        {"torchgfn": {"make_states_class": DiscreteEnv.make_states_class, "reset": set_by_reset}}, "BitsEnv",
        "compute them in _compute_forward_masks()",
    ),
    "masks that only reset sets": (
        {"torchgfn": {
            "forward": staticmethod(lambda states: torch.ones(*states.batch_shape, 3, dtype=torch.bool)),
            "reset": set_by_reset,
        }},
        "BitsEnv", "compute them in _compute_forward_masks()",
    ),
    "masks without exit": (
        {"torchgfn": {"forward": staticmethod(lambda states: BitsEnv.forward(states)[..., :2])}}, "BitsEnv",
        "they must be (1, 3) bool",
    ),
    "masks of numbers": (
        {"torchgfn": {"forward": staticmethod(lambda states: BitsEnv.forward(states).long())}}, "BitsEnv",
        "they must be (1, 3) bool",
    ),
    "backward masks with exit": (
        {"torchgfn": {"backward": staticmethod(BitsEnv.forward)}}, "BitsEnv", "they must be (1, 2) bool",
    ),
    "masks that raise": ({"torchgfn": {"backward": raises}}, "BitsEnv", "KeyError: 'oops'"),
    "a way that is not undone": (
        {"torchgfn": {"backward": staticmethod(lambda states: BitsEnv.backward(states)[..., [1, 0]])}},
        "Bits:", "allow there the actions that lead to a state",
    ),
    "a dead end": (
        {"torchgfn": {"forward": staticmethod(
            lambda states: BitsEnv.forward(states) & torch.tensor([True, True, False])
        )}},
        "Bits:", "allow exit there",
    ),
    "a step that stays": ({"torchgfn": {"step": lambda env, states, _: states}}, "Bits:", "forbid it there"),
    "a step that raises": ({"torchgfn": {"step": raises}}, "Bits: step", "KeyError: 'oops'"),
    "one row for all states": ({"make": made(BitsEnv, Row(3, 3))}, "Bits:", "a row for each state"),
    "infinite inputs": ({"make": made(BitsEnv, Infinite(3, 3))}, "Bits:", "make finite numbers"),
    "wrong indices": (
        {"transitions": lambda self, device: WrongIndices(self.make, device)}, "WrongIndices", "return None",
    ),
    "reward of 0": (
        {"score": lambda x: (x == 5).all(-1).double()}, "Bits with Ones", "finite reward above 0",
    ),
    "negative reward": ({"score": lambda x: -x.double().sum(-1)}, "Bits with Ones", "finite reward above 0"),
    "reward that is no number": (
        {"score": lambda x: x.double().sum(-1) * torch.nan}, "Bits with Ones", "finite reward above 0",
    ),
    "infinite reward": (
        {"score": lambda x: x.double().sum(-1) * torch.inf}, "Bits with Ones", "finite reward above 0",
    ),
    "one reward for all": ({"score": lambda x: x.double().mean()}, "BitsEnv", "it must be (4,)"),
    "a column of rewards": ({"score": lambda x: x.double() + 1}, "BitsEnv", "it must be (4,)"),
    "reward that raises": ({"score": raises}, "Bits with Ones", "KeyError: 'oops'"),
}  # fmt: skip


@pytest.mark.parametrize(("members", "where", "mend"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_the_class_and_the_mend(members, where, mend):
    with pytest.raises(GenflowError) as refused:
        bits(**members).transitions()
    line = str(refused.value)
    assert where in line and mend in line and "\n" not in line
    assert len(line) < 300, line


def test_a_task_without_a_mistake_is_taken():
    solution = bits().solution
    assert len(solution.graph.states) == 15
    total = math.fsum(math.comb(3, ones) * math.exp(-ones) for ones in range(4))
    assert float(solution.log_reward().logsumexp(0).exp()) == pytest.approx(total)


def test_names_of_the_condition_are_the_same_in_all_structures():
    def condition(self):
        return {"n": 3.0} if self.config.beta == 1 else {"n": 3.0, "beta": self.config.beta}

    first = bits(condition=condition)
    cls, reward, arch = type(first.environment), first.environment.reward, first.arch
    second = Structure.of(cls(cls.Config(beta=2.0), reward), arch, "bits", "linear")
    assert first.condition().tolist() == [3.0]
    with pytest.raises(GenflowError, match=r"Bits\.condition\(\): gives n, beta for one structure and n for"):
        second.condition()


def test_what_only_enumeration_finds_names_the_class():
    wrong = bits(exact_solution=lambda self, transitions: ExactSolution(transitions, n_states=8))
    with pytest.raises(GenflowError, match="BitsEnv has 15 states, but"):
        wrong.solution.graph  # noqa: B018


def test_an_expensive_reward_is_not_asked():
    structure = bits(score=raises)
    structure.environment.reward.expensive = True
    structure.transitions()


def test_few_structures_of_the_same_classes_are_walked_through(monkeypatch):
    """Others of a zoo cost no more than before."""
    walked = []
    monkeypatch.setattr(behaviour, "CHECKS", (walked.append,))
    monkeypatch.setattr(behaviour, "_checked", {})
    for height in range(3, 30):
        grid(2, height).transitions()
    assert len(walked) == behaviour.CHECKED


def test_a_structure_that_is_only_named_computes_nothing():
    structure = bits(make=raises, units=raises, condition=raises)
    assert structure.fields() == {"n": 3, "beta": 1.0}
    assert structure.name == "n=3"


def test_a_lack_of_memory_is_no_mistake():
    def make(self, device="cpu"):
        raise MemoryError

    with pytest.raises(MemoryError):
        bits(make=make).transitions()
