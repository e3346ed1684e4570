"""Checks of an environment: its steps, its masks and its rewards, each over all states of a small task.

A check takes a `TaskUnderTest`. Shapes: B states, S all states, E all steps, A actions (the last is exit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genflow import exact
from genflow.enumeration import keys_of
from genflow.errors import GenflowError
from genflow.interfaces import behaviour
from genflow.interfaces.transitions import Transitions
from genflow.interfaces.validation import kind_of
from genflow.schema import brief
from genflow.seeding import seeded_cpu
from genflow.testing.enumeration import stepped
from genflow.testing.outcomes import Note, Skipped
from genflow.testing.tasks import TaskUnderTest

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv

#: the trajectories and the most steps of the walk through torchgfn's own `reset` and `_step`
WALKS, STEPS = 16, 32
#: the most steps that are undone, and how many are at once
UNDONE, ROWS = 50_000, 4096
#: relative differences that rounding explains
CLOSE = 1e-5


def check_first_use(task: TaskUnderTest) -> Iterator[str]:
    """Genflow takes the task: exit is last, and masks, steps, inputs and rewards of a short walk fit."""
    if task.fault_at_first_use is not None:
        yield str(task.fault_at_first_use)
    elif type(task.own) is not Transitions:  # then the walk did not look at torchgfn's environment
        torchgfns = behaviour.Task(task.structure, task.plain)
        for check in behaviour.CHECKS:
            check(torchgfns)


def check_exit(task: TaskUnderTest) -> Iterator[str]:
    """Every state leads to one with exit, and none is torchgfn's sink state."""
    states = task.all
    ending = states.can_exit.clone()
    while True:
        before = ending.sum()
        ending[states.steps[ending[states.steps[:, 2]], 0]] = True
        if ending.sum() == before:
            break
    moving = torch.zeros_like(ending)
    moving[states.steps[:, 0]] = True
    for number in (~ending).nonzero()[:1, 0]:
        stuck = (~ending & ~moving).nonzero()[:1, 0]
        if len(stuck):
            yield f"{task.name}: {exact.dead_end(states.states[stuck[0]])}"
        else:
            yield (
                f"{task.name}: no actions lead from state {task.shown(number)} to one with exit; allow exit"
                " there or further on"
            )
    sink = states.place.get(keys_of(task.env.sf[None])[0])
    if sink is not None:
        yield (
            f"{type(task.env).__name__}: state {task.shown(sink)} is torchgfn's sink state too; give __init__"
            " an sf that no trajectory passes through"
        )


def check_number_of_states(task: TaskUnderTest) -> Iterator[str]:
    """The number of states is that of an enumeration."""
    known, found = task.solution.n_states, len(task.all.states)
    if known is None:
        yield Note(
            f"{task.name} does not tell its number of states, so that exact metrics are left out; from"
            f" exact_solution() return ExactSolution(transitions, n_states=...), here {found}"
        )
    elif found != known:
        yield (
            f"{task.name}.exact_solution(): says n_states={known:,}, and an enumeration finds {found:,}; give"
            " the true number, with the initial and all other states"
        )


def check_circles(task: TaskUnderTest) -> Iterator[str]:
    """No trajectory returns to a state that it has left.

    Raises:
        Skipped: the task cannot be enumerated.
    """
    states = task.all
    if states.levels is None:
        # states are numbered breadth first, so that each circle has a step to a lower number
        back = states.steps[:, 2] <= states.steps[:, 0]
        start, action, end = states.steps[back][0].tolist()
        yield (
            f"{task.name}: steps lead in a circle, action {action} from state {task.shown(start)} back to"
            f" {task.shown(end)}; forbid it in _compute_forward_masks(), as trajectories would not end"
        )


def check_masks_along_steps(task: TaskUnderTest) -> Iterator[str]:
    """Masks of env.States(x) are those along torchgfn's reset and _step."""
    task.require_use()
    env, rng = task.env, torch.Generator().manual_seed(0)
    with seeded_cpu(0):
        states = env.reset((WALKS,))
    for _ in range(STEPS):
        here = ~states.is_sink_state
        if not here.any():
            return
        fresh = env.States(states.tensor[here].clone())
        for masks in ("forward_masks", "backward_masks"):
            along = getattr(states, masks)[here]
            wrong = (getattr(fresh, masks) != along).any(-1)
            if wrong.any():
                yield (
                    f"{type(env).__name__}: {masks} of state {brief(fresh.tensor[wrong][0].tolist())} along"
                    f" reset and _step differ from those of env.States(x); compute them in _compute_{masks}()"
                    " from self.tensor alone"
                )
                return
        weights = torch.zeros(WALKS, env.n_actions, dtype=torch.float64)
        weights[:, -1] = 1.0
        weights[here] = fresh.forward_masks.double()
        weights[here, -1] *= 0.1  # to walk far
        actions = weights.multinomial(1, generator=rng)
        states = env._step(states, env.actions_from_tensor(actions))


def check_parents(task: TaskUnderTest) -> Iterator[str]:
    """Backward masks are the true parents, and `backward_step` undoes `step`."""
    states, env = task.all, task.env
    name = type(env).__name__
    start, action, end = states.steps.T
    true = torch.zeros(len(states.states), env.n_actions - 1, dtype=torch.long)
    true.index_put_((end, action), torch.ones_like(end), accumulate=True)
    masks = torch.cat([env.States(part.clone()).backward_masks for part in states.states.split(ROWS)])
    mend = "in _compute_backward_masks() allow exactly the actions that lead to a state"
    for number, which in (masks & (true == 0)).nonzero()[:1].tolist():
        yield (
            f"{name}: the backward mask of state {task.shown(number)} allows action {which}, which leads"
            f" there from no state; {mend}"
        )
    for number, which in (~masks & (true > 0)).nonzero()[:1].tolist():
        yield (
            f"{name}: action {which} leads to state {task.shown(number)}, whose backward mask does not allow"
            f" it; {mend}"
        )
    for number, which in (true > 1).nonzero()[:1].tolist():
        parents = start[(end == number) & (action == which)][:2]
        yield (
            f"{name}: action {which} leads to state {task.shown(number)} from {task.shown(parents[0])} and"
            f" from {task.shown(parents[1])}, so that it cannot be undone; give the two steps different"
            " actions"
        )
    if (true > 1).any():
        return
    for part in some_of(states.steps, UNDONE).split(ROWS):
        start, action, end = part.T
        undone = stepped(env, states.states[end], action, backward=True)
        wrong = (undone != states.states[start]).flatten(1).any(1)
        if wrong.any():
            yield (
                f"{name}: backward_step() of action {int(action[wrong][0])} leads from state"
                f" {task.shown(end[wrong][0])} to {brief(undone[wrong][0].tolist())}, and the action came"
                f" from {task.shown(start[wrong][0])}; undo in backward_step() what step() does"
            )
            return


def check_aliasing(task: TaskUnderTest) -> Iterator[str]:
    """Steps leave the states that they are given as they are."""
    states, env = task.all, task.env
    start, action, end = some_of(states.steps, ROWS).T
    for method, numbers in (("step", start), ("backward_step", end)):
        given = states.states[numbers].clone()
        wrapped = env.States(given)
        result = getattr(env, method)(wrapped, env.actions_from_tensor(action[:, None])).tensor
        changed = (given != states.states[numbers]).any()
        shared = result.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
        if len(numbers) and (changed or shared):
            yield _unless_torchgfns(
                f"{type(env).__name__}: {method}() {'changes' if changed else 'hands back'} the states that"
                " it is given; make a new tensor, e.g. of states.tensor.clone(), and return"
                " self.States(new)",
                getattr(env, method),
            )
    given = states.states[start].clone()
    for name, step in ((type(task.own).__name__, task.own.step), (type(env).__name__, _torchgfns_step(env))):
        result = step(given, action)
        shared = result.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
        if len(given) and (shared or not torch.equal(given, states.states[start])):
            yield (
                f"{name}: {step.__name__}() changes or hands back the states that it is given; work on a copy"
            )
            return


def check_inputs(task: TaskUnderTest) -> Iterator[str]:
    """Inputs of all states are finite, the same each time, and as many as `units` describes."""
    states, width = task.all.states, len(task.structure.layout.units["input"])
    if len(task.structure.layout.units["action"]) != task.env.n_actions:
        yield (
            f"{task.name}.units(): describes {len(task.structure.layout.units['action'])} actions of"
            f" {task.env.n_actions}; describe each action in order, and exit last"
        )
    whole = []
    for part in states.split(ROWS):
        inputs = task.own.inputs(part)
        if inputs.shape != (len(part), width):
            yield (
                f"{task.name}: the inputs of {len(part)} states (preprocessor) are {kind_of(inputs)}, and"
                f" units() describes {width}; describe each number that the preprocessor makes, in order"
            )
            return
        odd = ~inputs.isfinite().all(1)
        if odd.any():
            yield (
                f"{task.name}: the inputs of state {brief(part[odd][0].tolist())} (preprocessor) are not"
                " finite; make finite numbers, best between -1 and 1"
            )
            return
        whole.append(inputs)
    found = torch.cat(whole)
    few = some_of(torch.arange(len(states)), WALKS)
    alone = torch.cat([task.own.inputs(states[number][None]) for number in few])
    if not torch.allclose(alone, found[few], rtol=CLOSE, atol=CLOSE):
        yield (
            f"{task.name}: the inputs of a state (preprocessor) depend on the other states of its batch, or"
            " on chance; compute each row from its own state"
        )
    if len(found.unique(dim=0)) < len(found):
        yield Note(
            f"{task.name}: some states have the same inputs, so that no policy can tell them apart; that is"
            " right only if the best actions there are the same"
        )


def check_rewards(task: TaskUnderTest) -> Iterator[str]:
    """Rewards of all objects are finite, positive, without gradient, and do not depend on the batch."""
    task.require_cheap()
    env, states = task.env, task.ends
    name = task.name if task.environment.reward is None else type(task.environment.reward).__name__
    with torch.enable_grad():
        log_reward = env.log_reward(env.States(states.clone()))
    if not isinstance(log_reward, Tensor) or log_reward.shape != states.shape[:1]:
        yield (
            f"{name}: the rewards of {len(states)} objects are {kind_of(log_reward)}; they must be"
            f" ({len(states)},), a number for each object"
        )
        return
    if log_reward.requires_grad:
        yield _unless_torchgfns(
            f"{name}: the reward carries gradients; compute it under torch.no_grad(), or detach it",
            env.reward,
            env.log_reward,
        )
    try:
        exact.require_rewards(states, log_reward)
    except GenflowError as error:
        yield f"{name}: {error}"
        return
    few = some_of(torch.arange(len(states)), WALKS)
    alone = torch.cat([env.log_reward(env.States(states[number][None].clone())) for number in few])
    wrong = (alone - log_reward[few]).abs() > CLOSE * (1 + log_reward[few].abs())
    if wrong.any():
        yield (
            f"{name}: the reward of state {brief(states[few][wrong][0].tolist())} differs alone and among"
            " others, or from call to call; compute each from its object alone, and seed what is random"
        )


def _unless_torchgfns(finding: str, *methods: Callable[..., Any]) -> str:
    """Return a finding, or a note if it is of torchgfn's own methods: genflow copies and detaches."""
    theirs = all(each.__module__.partition(".")[0] == "gfn" for each in methods)
    return Note(finding) if theirs else finding


def _torchgfns_step(env: DiscreteEnv) -> Callable[[Tensor, Tensor], Tensor]:
    """Return torchgfn's own step, which samplers call, as a function of states (B, ...) and actions (B,)."""

    def _step(states: Tensor, actions: Tensor) -> Tensor:
        return env._step(env.States(states), env.actions_from_tensor(actions[:, None])).tensor

    return _step


def some_of(rows: Tensor, most: int) -> Tensor:
    """Return at most so many rows, the same each time."""
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most].sort().values]


def require_sound_steps(task: TaskUnderTest) -> None:
    """Skip a check that relies on steps and parents.

    Raises:
        Skipped: backward masks or steps back are wrong, or steps lead in a circle.
    """
    _ = task.graph
    if next(check_parents(task), None) is not None:
        raise Skipped("backward masks or backward_step are wrong, see `parents`; mend that first")
