"""Each check of an environment finds the mistake that it is for, and names the mend."""

from __future__ import annotations

import pytest
import torch
from bits import Bits, BitsEnv, always, bits, described_as
from gfn.gym import DiscreteEBM
from gfn.preprocessors import IdentityPreprocessor, KHotPreprocessor
from pydantic import field_serializer, field_validator

from genflow import (
    Environment,
    ExactSolution,
    Expert,
    PlainGallery,
    Reward,
    Schema,
    StateGraph,
    Structure,
    Transitions,
    UnitDescriptions,
    Units,
    size,
)
from genflow.exact import optimal_flows
from genflow.testing import environment_checks as steps
from genflow.testing import solution_checks as solutions
from genflow.testing import structure_checks as structures
from genflow.testing.outcomes import Outcome, made
from genflow.testing.plans import ENVIRONMENT, STRUCTURES
from genflow.testing.tasks import TaskUnderTest

S = 15  # prefixes of words of three bits
RARE = torch.tensor([2, 1, 2])  # no word of the short walk


def outcome(check, structure: Structure) -> Outcome:
    return made(check, lambda: TaskUnderTest(structure), "bits")


def rare(states: torch.Tensor) -> torch.Tensor:
    return (states == RARE).all(-1)


def masks(**changed):
    """torchgfn's environment with other masks, each a function of the true ones and of the states' tensor."""

    def other(name, change):
        return staticmethod(lambda states: change(getattr(BitsEnv, name)(states), states.tensor))

    return {"torchgfn": {name: other(name, change) for name, change in changed.items()}}


def fast(**methods):
    """Transitions with other methods."""
    cls = type("Fast", (Transitions,), methods)
    return {"transitions": lambda self, device: cls(self.make, device)}


def solved(**methods):
    """An exact solution with other methods."""
    cls = type("Solved", (ExactSolution,), methods)
    return {"exact_solution": lambda self, transitions: cls(transitions, S)}


def shown(**methods):
    """A gallery with other methods."""
    cls = type("Shown", (PlainGallery,), methods)
    return {"gallery": lambda self, transitions: cls(transitions)}


def inputs(change):
    """A preprocessor that changes the inputs (B, 9) of states (B, 3)."""

    class Changed(KHotPreprocessor):
        def preprocess(self, states):
            return change(super().preprocess(states).float(), states.tensor)

    return {"make": lambda self, device="cpu": (self.torchgfn(3, self.reward.score), Changed(3, 3))}


class SinkEnv(BitsEnv):
    """Its sink state is a word."""

    def __init__(self, n, score):
        BitsEnv.__init__(self, n, score)
        self.sf = RARE


class Forgetful(BitsEnv):
    """A step forgets all earlier bits but their number."""

    def step(self, states, actions):
        """All earlier bits become 1."""
        following = BitsEnv.step(self, states, actions).tensor
        count = (following > 0).sum(-1, keepdim=True)
        earlier = torch.arange(following.shape[-1]) < count - 1
        return self.States(torch.where(earlier, 1, following))


class Ring(BitsEnv):
    """It counts the first number from 0 to 2 and round; exit is always allowed."""

    forward = staticmethod(lambda states: torch.tensor([True, False, True]).repeat(*states.batch_shape, 1))
    backward = staticmethod(lambda states: torch.tensor([True, False]).repeat(*states.batch_shape, 1))

    def step(self, states, actions):
        """Go on by one."""
        return self.States((states.tensor + torch.tensor([1, 0, 0])) % 3)


def in_place(env, states, actions):
    """Set the next bit in the given states."""
    count = (states.tensor > 0).sum(-1, keepdim=True)
    states.tensor.scatter_(-1, count, actions.tensor + 1)
    return states


def fast_in_place(self, states, actions):
    """Fast steps that change large batches, which the short walk has none of."""
    following = Transitions.step(self, states, actions)
    return states.copy_(following) if len(states) > 4 else following


def counted_steps(env, states, actions):
    """Torchgfn's _step, after which all actions are allowed."""
    following = BitsEnv._step(env, states, actions)
    following.forward_masks = torch.ones(len(following), 3, dtype=torch.bool)
    return following


def one_way(env, states, actions):
    """Torchgfn's _step, which always sets the first bit to 0."""
    first = (states.tensor == 0).all(-1, keepdim=True)
    actions.tensor[first] = 0
    return BitsEnv._step(env, states, actions)


def random_units(self):
    return Units(UnitDescriptions(torch.rand(9, 2)), UnitDescriptions(torch.eye(3)))


def without_last(self):
    """A graph that lacks a state."""
    whole = ExactSolution._enumerate(self)
    levels = (*whole.levels[:-1], whole.levels[-1][:-1])
    return StateGraph(whole.states[:-1], whole.children[:-1], whole.can_exit[:-1], levels)


def swapped(self):
    """A graph in which the two actions of the initial state are swapped."""
    whole = ExactSolution._enumerate(self)
    children = whole.children.clone()
    children[0] = children[0].flip(0)
    return StateGraph(whole.states, children, whole.can_exit, whole.levels)


def expert(states=None, mask=None, policy=None):
    """An expert with other tables, each a function of the true one."""

    def own(self):
        tables = self.graph.states, self.graph.mask(torch.arange(S)), self.optimal_flows().policy.float()
        states_, mask_, policy_ = (
            change(table) if change else table
            for change, table in zip((states, mask, policy), tables, strict=True)
        )
        return Expert(states_, policy_, mask_, self.optimal_flows().visit)

    return solved(_expert=own)


def total(states):
    """The sum of the numbers (B,) of states."""
    return states.double().sum(-1)


#: mistake -> the check that finds it, members of the task, the class that is named, the mend
MISTAKES = {
    "too few actions": (
        steps.check_first_use, {"units": always(described_as(9, 2))}, "Bits.units()", "exit last",
    ),
    "fast transitions hide torchgfn's exit": (
        steps.check_first_use,
        {**fast(step=lambda self, states, actions: Transitions.step(self, states, actions)),
         "torchgfn": {"__init__": lambda self, n, score: BitsEnv.__init__(self, n, score, first=0)}},
        "BitsEnv", "exit must be the last",
    ),
    "a dead end": (
        steps.check_exit, masks(forward=lambda m, x: m & ~rare(x)[..., None]), "Bits", "allow exit there",
    ),
    "a ring without exit": (
        steps.check_exit,
        {"torchgfn": {"forward": staticmethod(lambda s: Ring.forward(s) & torch.tensor([True, False, False])),
                      "backward": vars(Ring)["backward"], "step": Ring.step},
         "exact_solution": lambda self, transitions: ExactSolution(transitions)},
        "Bits", "allow exit there or further on",
    ),
    "a sink state that is a word": (
        steps.check_exit, {"torchgfn": {"__init__": SinkEnv.__init__}}, "BitsEnv", "no trajectory passes",
    ),
    "a wrong number of states": (
        steps.check_number_of_states,
        {"exact_solution": lambda self, transitions: ExactSolution(transitions, n_states=8)},
        "Bits.exact_solution()", "give the true number",
    ),
    "a ring": (
        steps.check_circles,
        {"torchgfn": {name: vars(Ring)[name] for name in ("forward", "backward", "step")}},
        "Bits", "forbid it in _compute_forward_masks()",
    ),
    "masks that a step sets": (
        steps.check_masks_along_steps, {"torchgfn": {"_step": counted_steps}}, "BitsEnv",
        "compute them in _compute_forward_masks() from self.tensor alone",
    ),
    "all-true backward masks": (
        steps.check_parents, masks(backward=lambda m, x: torch.ones_like(m)), "BitsEnv",
        "allow exactly the actions that lead to a state",
    ),
    "a parent that is missing": (
        steps.check_parents, masks(backward=lambda m, x: m & ~rare(x)[..., None]), "[2, 1, 2]",
        "allow exactly the actions that lead to a state",
    ),
    "a step that nothing can undo": (
        steps.check_parents, {"torchgfn": {"step": vars(Forgetful)["step"]}}, "BitsEnv",
        "give the two steps different actions",
    ),
    "backward_step that stays": (
        steps.check_parents, {"torchgfn": {"backward_step": lambda env, s, _: env.States(s.tensor)}},
        "BitsEnv", "undo in backward_step() what step() does",
    ),
    "a step in place": (
        steps.check_aliasing, {"torchgfn": {"step": in_place}}, "step() changes", "make a new tensor",
    ),
    "fast steps in place": (
        steps.check_aliasing, fast(step=fast_in_place), "Fast: fast_in_place() changes", "work on a copy",
    ),
    "torchgfn's step without a copy": (
        steps.check_aliasing,
        {"torchgfn": {"_step": lambda env, states, actions: in_place(env, states, actions)}},
        "BitsEnv: _step() changes", "work on a copy",
    ),
    "inputs that are not finite": (
        steps.check_inputs, inputs(lambda x, states: x.masked_fill(rare(states)[:, None], torch.inf)),
        "[2, 1, 2]", "make finite numbers",
    ),
    "inputs of a batch": (
        steps.check_inputs, inputs(lambda x, states: x / states.sum().clamp(min=1)), "Bits",
        "compute each row from its own state",
    ),
    "a reward of 0": (
        steps.check_rewards, {"score": lambda x: (~rare(x)).double()}, "Ones: the reward of state [2, 1, 2]",
        "have a finite reward above 0",
    ),
    "a reward with gradients": (
        steps.check_rewards, {"score": lambda x: total(x) * torch.ones((), requires_grad=True)}, "Ones",
        "compute it under torch.no_grad()",
    ),
    "a reward of a batch": (
        steps.check_rewards, {"score": lambda x: total(x) / total(x).max()}, "Ones", "from its object alone",
    ),
    "random rewards": (
        steps.check_rewards, {"score": lambda x: torch.rand(len(x)) + 0.1}, "Ones", "seed what is random",
    ),
    "other actions": (
        solutions.check_transitions,
        fast(n_parents=lambda self, states: 1 + Transitions.n_parents(self, states)),
        "Fast.n_parents()", "or leave the method out",
    ),
    "other masks": (
        solutions.check_transitions,
        fast(forward_masks=lambda self, states: Transitions.forward_masks(self, states)
             | (rare(states)[..., None] & torch.tensor([True, False, False]))),
        "[2, 1, 2]", "make both say the same",
    ),
    "other steps": (
        solutions.check_transitions,
        fast(step=lambda self, states, actions: Transitions.step(
            self, states, torch.where((states.sum(-1) == 4) & (actions == 0), 1, actions))),
        "Fast.step(): action 0", "make both say the same",
    ),
    "other inputs": (
        solutions.check_transitions,
        fast(inputs=lambda self, states: 2 * Transitions.inputs(self, states)), "Fast.inputs()",
        "make both say the same",
    ),
    "other rewards": (
        solutions.check_transitions,
        fast(log_reward=lambda self, states: 1 + Transitions.log_reward(self, states)), "Fast.log_reward()",
        "make both say the same",
    ),
    "one number for two states": (
        solutions.check_transitions, fast(state_ids=lambda self, states: states.sum(-1)), "Fast.state_ids()",
        "give each its own",
    ),
    "indices of no ones": (
        solutions.check_transitions,
        fast(one_hot_indices=lambda self, states: torch.where(rare(states)[..., None], 0, states)
             + 3 * torch.arange(3)),
        "Fast.one_hot_indices()", "return those, or None",
    ),
    "a wrong number of trajectories": (
        solutions.check_transitions,
        fast(log_n_trajectories=lambda self, states: (states > 0).sum(-1).double()),
        "Fast.log_n_trajectories()", "count all trajectories alike",
    ),
    "a state that is missing": (
        solutions.check_exact_solution, solved(_enumerate=without_last), "Solved.graph", "list each once",
    ),
    "swapped children": (
        solutions.check_exact_solution, solved(_enumerate=swapped), "Solved.graph", "give children by action",
    ),
    "another target": (
        solutions.check_exact_solution,
        solved(target=lambda self: torch.ones(S, dtype=torch.float64) / S), "Solved.target()", "return that",
    ),
    "another log Z": (
        solutions.check_exact_solution, solved(log_partition=always(0.0)), "Solved.log_partition()",
        "return the latter",
    ),
    "flows of another target": (
        solutions.check_exact_solution,
        solved(_optimal_flows=lambda self: optimal_flows(self.graph, 2 * self.log_reward())),
        "Solved.optimal_flows()", "compute that, or leave the method out",
    ),
    "draws of another target": (
        solutions.check_exact_solution,
        solved(draw=lambda self, num, rng: self.graph.states[
            7 + torch.randint(8, (num,), generator=rng)]),
        "Solved.draw()", "R(x) / Z",
    ),
    "an expert of no states": (
        solutions.check_expert, expert(states=lambda x: x + 7), "Solved.expert", "draw states that",
    ),
    "an expert of other actions": (
        solutions.check_expert, expert(mask=torch.ones_like), "Solved.expert", "those of its forward mask",
    ),
    "an expert of another policy": (
        solutions.check_expert, expert(policy=lambda p: (p > 0) / (p > 0).sum(1, keepdim=True)),
        "Solved.expert", "does not reproduce the target",
    ),
    "a sampler that goes one way": (
        solutions.check_sampler, {"torchgfn": {"_step": one_way}}, "torchgfn's Sampler",
        "must depend on nothing but the state",
    ),
    "a name for several": (
        solutions.check_gallery, shown(names=lambda self, states: ["word"]), "Shown.names()", "a text for",
    ),
    "names that are not read": (
        solutions.check_gallery, shown(names=lambda self, states: [f"word {i}" for i in range(len(states))]),
        "Shown", "read_name() must read what names() writes",
    ),
    "names of another": (
        solutions.check_gallery,
        shown(states_named=lambda self, name: (torch.zeros(1, 3, dtype=torch.long), True)),
        "Shown.states_named()", "return it too",
    ),
    "scores that are not finite": (
        solutions.check_gallery, shown(scores=lambda self, states: torch.full((len(states),), torch.nan)),
        "Shown.scores()", "a finite number for each object",
    ),
    "columns that are too short": (
        solutions.check_gallery, shown(columns=always({"ones": [1]})), "'ones'", "give one for each",
    ),
    "random descriptions": (
        structures.check_descriptions, {"units": random_units}, "Bits.units()", "seed what is",
    ),
    "a random condition": (
        structures.check_descriptions, {"condition": lambda self: {"n": float(torch.rand(()))}},
        "Bits.condition()", "seed what is random",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("check", "members", "where", "mend"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_found_and_its_mend_named(check, members, where, mend):
    task = TaskUnderTest(bits(**members))
    found = made(check, lambda: task, "bits")
    assert found.findings, (found, task.fault_at_first_use)
    assert where in found.findings[0] and mend in found.findings[0], found
    assert "\n" not in found.findings[0] and len(found.findings[0]) < 400


@pytest.mark.parametrize("check", ENVIRONMENT, ids=lambda check: check.__name__)
def test_a_task_without_a_mistake_passes(check):
    if check is not structures.check_name:  # which reads names that are registered
        found = outcome(check, bits())
        assert not found.findings and found.skipped is None and not found.notes, found


def test_every_check_of_environments_has_a_planted_mistake():
    planted = {check for check, *_ in MISTAKES.values()}
    elsewhere = {structures.check_name, *STRUCTURES}
    assert planted | elsewhere == {*ENVIRONMENT, *STRUCTURES}


def test_what_relies_on_a_mistake_is_skipped_and_says_so():
    refused = bits(units=always(described_as(9, 2)))
    assert "see `first use`" in outcome(steps.check_parents, refused).skipped
    wrong = bits(**masks(backward=lambda m, x: torch.ones_like(m)))
    assert "see `parents`" in outcome(solutions.check_sampler, wrong).skipped
    unpaid = bits(score=lambda x: (~rare(x)).double())
    assert "see `rewards`" in outcome(solutions.check_expert, unpaid).skipped


def test_a_task_too_large_to_enumerate_is_skipped_and_says_so():
    words = Structure.build("hypergrid", {"ndim": 4, "height": 16, "width": 8})
    skipped = outcome(steps.check_parents, words).skipped
    assert "more than 20,000 states" in skipped and "--structure" in skipped


def test_an_expensive_reward_is_asked_for_no_table():
    structure = bits()
    structure.environment.reward.expensive = True
    assert "expensive" in outcome(steps.check_rewards, structure).skipped
    assert "expensive" in outcome(solutions.check_expert, structure).skipped


def test_states_of_an_unknown_number_are_noted_with_the_number():
    structure = bits(exact_solution=lambda self, transitions: ExactSolution(transitions))
    found = outcome(steps.check_number_of_states, structure)
    assert not found.findings and "n_states=...), here 15" in found.notes[0]


class Spins(Bits):
    """Torchgfn's own environment, whose step works in place and whose energy is a module."""

    def make(self, device="cpu"):
        """Three spins, each unset, 0 or 1."""
        return DiscreteEBM(ndim=3), IdentityPreprocessor(3, target_dtype=torch.float32)

    def units(self):
        """An input a spin; an action sets one of them."""
        return described_as(3, 7)


def test_what_torchgfn_itself_does_is_noted_since_genflow_copies_and_detaches():
    plain = bits()
    spins = Structure.of(Spins(Spins.Config(), plain.environment.reward), plain.arch, "spins", "linear")
    for check, words in ((steps.check_aliasing, "step() changes"), (steps.check_rewards, "gradients")):
        found = outcome(check, spins)
        assert not found.findings and words in found.notes[0]


class Unequal(Environment):
    """Words whose descriptions and condition depend on their length, and whose length grows when read."""

    class Config(Schema):
        """`n`: the length. `shift`: a number that is written without its last digits."""

        n: int = size(ge=1)
        shift: float = 0.0

        @field_serializer("shift")
        def _rounded(self, shift):
            return round(shift, 1)

        @field_validator("n", mode="before")
        @classmethod
        def _longer(cls, n):
            return int(n) + 1 if isinstance(n, str) else n

    def make(self, device="cpu"):
        """Words that are all worth the same."""
        return BitsEnv(self.config.n, lambda x: torch.ones(len(x))), KHotPreprocessor(3, self.config.n)

    def condition(self):
        """A number a bit."""
        return {f"bit{i}": 1.0 for i in range(self.config.n)}

    def units(self):
        """A column a unit."""
        return described_as(3 * self.config.n, 3)


@pytest.fixture
def unequal(third_party):
    third_party("register_environments", "unequal", f"{__name__}:Unequal")
    return lambda **fields: TaskUnderTest(Structure.build("unequal", fields))


def test_columns_and_conditions_are_compared_over_structures(unequal):
    pair = [unequal(n=2), unequal(n=3)]
    columns = made(structures.check_columns, lambda: pair[:1], "unequal")
    assert "give a second one" in columns.skipped
    (condition,) = made(structures.check_condition, lambda: pair, "unequal").findings
    assert "bit0, bit1, bit2 for n=3" in condition and "return the same names" in condition

    class Alike(Bits):
        """Columns of two lengths."""

        units = Unequal.units

    tasks = []
    for n in (2, 3):
        config = Alike.Config(n=n)
        reward = type("Ones", (Reward,), {"score": lambda self, x: torch.ones(len(x)), "environment": "bits"})
        plain = bits()
        tasks.append(
            TaskUnderTest(Structure.of(Alike(config, reward(None, config)), plain.arch, "bits", "linear"))
        )
    found = made(structures.check_columns, lambda: tasks, "bits").findings
    assert "6 and 9 columns of amounts" in found[0] and "the same at every size" in found[0]


def test_names_and_saved_fields_that_are_read_otherwise_are_told(unequal):
    lossy = made(structures.check_name, lambda: unequal(n=2, shift=0.25), "unequal").findings
    assert "shift=0.25 is 0.2 after it was saved" in lossy[0] and "without a loss" in lossy[0]
    (renamed,) = made(structures.check_name, lambda: unequal(n=2), "unequal").findings
    assert "n=2 is 3 after its name 'n=2" in renamed and "take what they made as it is" in renamed
