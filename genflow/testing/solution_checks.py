"""Checks of what an environment overrides, against torchgfn and dynamic programming over all its states.

A check takes a `TaskUnderTest`. Shapes: B states, S all states, E all steps, A actions (the last is exit).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from genflow import exact
from genflow.errors import GenflowError
from genflow.interfaces.gallery import Gallery
from genflow.interfaces.transitions import Transitions
from genflow.population import Population
from genflow.schema import brief
from genflow.seeding import seeded_cpu
from genflow.testing.environment_checks import CLOSE, ROWS, UNDONE, require_sound_steps, some_of
from genflow.testing.outcomes import Note, Skipped
from genflow.testing.statistics import UNLIKELY, p_value
from genflow.testing.tasks import TaskUnderTest, counted

#: the trajectories that torchgfn samples, the objects that are drawn, and the states of an expert
SAMPLES, DRAWS, EXPERT = 4000, 4000, 2000
#: relative differences of probabilities that rounding explains, as torchgfn's rewards may be float32, and
#: those of an expert, whose policies are
EXACT, SINGLE = 1e-4, 1e-3
#: probabilities that are none
NOTHING = 1e-9
#: how far the test policy is from uniform
SCALE = 3.0


def check_transitions(task: TaskUnderTest) -> Iterator[str]:
    """Fast transitions agree with torchgfn's in every state."""
    own, plain, states = task.own, task.plain, task.all.states
    name = type(own).__name__
    overridden = {
        each for each in vars(Transitions) if getattr(type(own), each, None) is not vars(Transitions)[each]
    }
    if type(own) is Transitions:
        return
    if own.n_actions != plain.n_actions:
        yield f"{name}.n_actions: says {own.n_actions} of torchgfn's {plain.n_actions}; count exit too"
        return
    if not torch.equal(own.initial_state, plain.initial_state):
        yield (
            f"{name}.initial_state: is {brief(own.initial_state.tolist())} and torchgfn's"
            f" {brief(plain.initial_state.tolist())}; return env.s0, of the same type"
        )
        return
    mend = "make both say the same, or leave the method out"
    for method in ("forward_masks", "n_parents", "inputs", "backward_probs"):
        if method not in overridden and not (method == "backward_probs" and own.backward == "maxent"):
            continue
        for part in states.split(ROWS):
            mine, theirs = getattr(own, method)(part), getattr(plain, method)(part)
            if method == "n_parents":  # those of the initial state are read by nobody
                mine, theirs = mine.clamp(min=1), theirs.clamp(min=1)
            if mine.shape != theirs.shape:
                yield (
                    f"{name}.{method}(): makes {tuple(mine.shape)} of {len(part)} states, and torchgfn"
                    f" {tuple(theirs.shape)}; {mend}"
                )
                break
            wrong = ((mine.double() - theirs.double()).abs() > CLOSE).reshape(len(part), -1).any(1)
            if wrong.any():
                yield (
                    f"{name}.{method}(): of state {brief(part[wrong][0].tolist())} it is"
                    f" {brief(mine[wrong][0].tolist())}, and torchgfn's {brief(theirs[wrong][0].tolist())};"
                    f" {mend}"
                )
                break
    if "step" in overridden:
        yield from _check_step(task, mend)
    numbers = own.state_ids(states)
    if numbers is not None and len(numbers.unique()) < len(states):
        yield f"{name}.state_ids(): some states share a number; give each its own, or return None"
    if "one_hot_indices" in overridden and (ones := own.one_hot_indices(states)) is not None:
        inputs = own.inputs(states)
        if not torch.equal(torch.zeros_like(inputs).scatter_(1, ones, 1.0), inputs):
            yield f"{name}.one_hot_indices(): are not the inputs that are 1; return those, or None"
    if "log_n_trajectories" in overridden and (found := own.log_n_trajectories(states)) is not None:
        wrong = (found - counted(task.graph)).abs() > CLOSE
        if wrong.any():
            yield (
                f"{name}.log_n_trajectories(): of state {task.shown(wrong.nonzero()[0, 0])} it is"
                f" {float(found[wrong][0]):.6g}, and {float(counted(task.graph)[wrong][0]):.6g} is the log"
                " of their number; count all trajectories alike"
            )
    if "log_reward" in overridden:
        theirs = task.log_reward[task.all.can_exit]
        wrong = (own.log_reward(task.ends) - theirs).abs() > CLOSE * (1 + theirs.abs())
        if wrong.any():
            yield (
                f"{name}.log_reward(): of state {brief(task.ends[wrong][0].tolist())} it is"
                f" {float(own.log_reward(task.ends)[wrong][0]):.6g}, and torchgfn's"
                f" {float(theirs[wrong][0]):.6g}; {mend}"
            )


def _check_step(task: TaskUnderTest, mend: str) -> Iterator[str]:
    """Steps of fast transitions."""
    own, states, name = task.own, task.all.states, type(task.own).__name__
    for part in some_of(task.all.steps, UNDONE).split(ROWS):
        start, action, end = part.T
        found = own.step(states[start], action)
        wrong = (found != states[end]).flatten(1).any(1)
        if wrong.any():
            yield (
                f"{name}.step(): action {int(action[wrong][0])} leads from state"
                f" {task.shown(start[wrong][0])} to {brief(found[wrong][0].tolist())}, and torchgfn's to"
                f" {task.shown(end[wrong][0])}; {mend}"
            )
            return
    leave = torch.full((len(task.ends),), own.n_actions - 1)
    if not torch.equal(own.step(task.ends, leave), task.ends):
        yield f"{name}.step(): exit changes a state; return it as it is"


def check_exact_solution(task: TaskUnderTest) -> Iterator[str]:
    """Graph, target, flows and draws of the exact solution are those of an enumeration.

    Raises:
        Skipped: the task does not tell its number of states, or cannot be enumerated.
    """
    solution, states = task.solution, task.all
    if not solution.enumerable:
        raise Skipped("the exact solution does not enumerate its states, see `number of states`")
    require_sound_steps(task)
    name, own = type(solution).__name__, solution.graph
    numbers = states.numbers(own.states)
    if len(own.states) != len(states.states) or (numbers < 0).any() or len(numbers.unique()) < len(numbers):
        yield (
            f"{name}.graph: its {len(own.states)} states are not the {len(states.states)} that torchgfn's"
            " steps lead to; list each once"
        )
        return
    padded = torch.cat([numbers, torch.tensor([exact.NO_CHILD])])
    children = padded[own.children.long()]  # NO_CHILD is the last place
    wrong = (children != task.graph.children[numbers]).any(1) | (own.can_exit != states.can_exit[numbers])
    if wrong.any():
        yield (
            f"{name}.graph: the steps from state {task.shown(numbers[wrong][0])} are not torchgfn's; give"
            " children by action, -1 where an action is not allowed, and can_exit"
        )
        return
    target = task.log_reward.softmax(0)
    if not _alike(solution.target(), target[numbers]):
        yield f"{name}.target(): is not R(x) / Z of torchgfn's rewards; return that, in the order of `graph`"
    z = float(task.log_reward.logsumexp(0))
    if abs(solution.log_partition() - z) > CLOSE * (1 + abs(z)):
        yield (
            f"{name}.log_partition(): says {solution.log_partition():.6g}, and the log of the sum of all"
            f" rewards is {z:.6g}; return the latter"
        )
    if not _alike(solution.optimal_flows().policy, task.flows.policy[numbers]):
        yield (
            f"{name}.optimal_flows(): its policy is not that of F(s) = R(s) + sum of F(s') P_B(s | s');"
            " compute that, or leave the method out"
        )
    if solution.can_draw:
        drawn = states.numbers(solution.draw(DRAWS, torch.Generator().manual_seed(0)))
        if (drawn < 0).any() or p_value(drawn.bincount(minlength=len(target)), target) < UNLIKELY:
            yield f"{name}.draw(): does not draw objects by R(x) / Z; do so, or leave the method out"


def check_expert(task: TaskUnderTest) -> Iterator[str]:
    """The policy of the expert reproduces the target.

    Raises:
        Skipped: the optimal policy is not known, or the task cannot be enumerated.
    """
    require_sound_steps(task)
    graph, flows, target = task.graph, task.flows, task.log_reward.softmax(0)
    try:
        task.solution.require_expert()
    except GenflowError as error:
        raise Skipped(f"the task has no expert: {error}") from None
    ends = exact.terminal_distribution(graph, lambda index: flows.policy[index].log()[None], 1, ROWS)
    if not _alike(ends[0], target):
        yield f"{task.name}: the optimal flows miss the target; steps and exits must be what the masks say"
    rng = torch.Generator().manual_seed(0)
    drawn, mask, policy = task.solution.expert.draw(EXPERT, 0.5, rng)
    numbers = task.all.numbers(drawn)
    name = f"{type(task.solution).__name__}.expert"
    if (numbers < 0).any():
        yield (
            f"{name}: draws {brief(drawn[numbers < 0][0].tolist())}, which is no state; draw states that"
            " trajectories pass through"
        )
    elif not torch.equal(mask, graph.mask(numbers)):
        wrong = (mask != graph.mask(numbers)).any(1)
        yield (
            f"{name}: the allowed actions of state {task.shown(numbers[wrong][0])} are not those of its"
            " forward mask; return these, exit last"
        )
    elif not _alike(policy, flows.policy[numbers], SINGLE):
        wrong = ((policy - flows.policy[numbers]).abs() > SINGLE).any(1)
        yield (
            f"{name}: the policy in state {task.shown(numbers[wrong][0])} is"
            f" {brief([round(p, 4) for p in policy[wrong][0].tolist()])} and does not reproduce the target;"
            f" {brief([round(p, 4) for p in flows.policy[numbers[wrong][0]].tolist()])} does"
        )


def check_sampler(task: TaskUnderTest) -> Iterator[str]:
    """torchgfn's Sampler ends where the exact distribution of a policy says."""
    require_sound_steps(task)
    from gfn.samplers import Sampler

    start = Population.initialised(task.structure, 1, seed=0)
    policy = Population(task.structure, SCALE * start.weights)
    exactly = policy.ends_in(task.graph)[0]
    with seeded_cpu(0):
        drawn = Sampler(policy.to_estimator()).sample_trajectories(task.env, n=SAMPLES)
    numbers = task.all.numbers(drawn.terminating_states.tensor)
    if (numbers < 0).any():
        odd = drawn.terminating_states.tensor[numbers < 0][0]
        yield (
            f"{type(task.env).__name__}: torchgfn's Sampler ends in {brief(odd.tolist())}, which no steps"
            " lead to; step() must not depend on what was stepped before"
        )
    elif p_value(numbers.bincount(minlength=len(exactly)), exactly) < UNLIKELY:
        yield (
            f"{task.name}: {SAMPLES} trajectories of torchgfn's Sampler do not end where the exact"
            " distribution of the same policy says; masks, step() and the preprocessor must depend on"
            " nothing but the state"
        )


def check_gallery(task: TaskUnderTest) -> Iterator[str]:
    """Objects have a name each and a finite score, and names are read back to their states."""
    task.require_use()
    task.require_cheap()
    gallery = task.environment.gallery(task.own)
    states = some_of(task.ends, 256)
    name, names = type(gallery).__name__, gallery.names(states)
    if len(names) != len(states) or not all(isinstance(each, str) for each in names):
        yield f"{name}.names(): makes {len(names)} names of {len(states)} states; return a text for each"
        return
    scores = gallery.scores(states)
    if scores.shape != (len(states),) or not scores.isfinite().all():
        yield f"{name}.scores(): they must be ({len(states)},), a finite number for each object"
    for column, values in gallery.columns(states).items():
        if len(values) != len(states):
            yield f"{name}.columns(): {column!r} has {len(values)} values; give one for each of {len(states)}"
    for each, state in list(zip(names, states, strict=True))[:32]:
        if not each:
            continue
        try:
            found, whole = gallery.states_named(gallery.read_name(each))
        except GenflowError as error:
            if type(gallery).states_named is Gallery.states_named:
                yield Note(f"{name}: objects of a user's file cannot be found by their name")
            else:
                yield f"{name}: its name {brief(each)!r} {error}; read_name() must read what names() writes"
            return
        if whole and not (found == state).flatten(1).all(1).any():
            yield (
                f"{name}.states_named(): {brief(each)!r} is the name of {brief(state.tolist())}, which is"
                " not among the states that it returns; return it too, or say that these are not all"
            )
            return


def _alike(one: Tensor, other: Tensor, tolerance: float = EXACT) -> bool:
    """Whether two tensors of probabilities are the same but for rounding."""
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), tolerance, NOTHING)
