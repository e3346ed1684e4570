"""Checks of how a task behaves: a short walk through its states, their masks, inputs and rewards.

They never enumerate. Each names the class, the fault and the mend. Shapes: B states, A actions (the last is
exit), s inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from genflow import exact
from genflow.errors import GenflowError
from genflow.interfaces.environment import Environment
from genflow.interfaces.policy import PolicyArch
from genflow.interfaces.transitions import BACKWARD_POLICIES, Transitions
from genflow.interfaces.validation import blaming, fault, kind_of
from genflow.layout import WeightLayout
from genflow.schema import brief

#: the trajectories and the most steps of a walk
WALKS, STEPS = 4, 16
#: the structures of the same classes that are checked; others of them are taken to be like these
CHECKED = 2
#: class of the environment -> classes of the reward and of the policy -> structures that were checked
_checked: WeakKeyDictionary[type, Counter[tuple[Any, ...]]] = WeakKeyDictionary()


class Structured(Protocol):
    """What the checks read of a `genflow.Structure`."""

    environment: Environment
    arch: PolicyArch

    @property
    def layout(self) -> WeightLayout:
        """The layout of the policy's weights."""
        ...

    @property
    def initial_bias(self) -> Tensor | None:
        """What is added to the biases of untrained policies."""
        ...

    def condition(self) -> Tensor:
        """The condition of the diffusion model."""
        ...


class Task:
    """A task as the checks see it.

    Attributes:
        environment: the configured task.
        layout: the layout of the policy's weights.
        name: the name of the environment's class.
    """

    def __init__(self, structure: Structured, transitions: Transitions) -> None:
        """Create the task from its structure and its transitions on the CPU."""
        self.environment, self.layout, self.transitions = structure.environment, structure.layout, transitions
        self.name = type(structure.environment).__name__

    @cached_property
    def walk(self) -> list[Tensor]:
        """The states (B, *state_shape) of some trajectories, at the start and after each step."""
        start = self.transitions.initial_state
        return [start.expand(WALKS, *start.shape)]

    def ends(self) -> Tensor:
        """The states (B, *state_shape) of the walk in which a trajectory may end."""
        can_exit = [self.transitions.forward_masks(each)[:, -1] for each in self.walk]
        return torch.cat([each[here] for each, here in zip(self.walk, can_exit, strict=True)])


def check_start(task: Task) -> None:
    """Check the initial state, and that the numbers of actions agree."""
    transitions = task.transitions
    with blaming(f"{task.name}.make()"):
        start, actions = transitions.initial_state, transitions.n_actions
    if not isinstance(start, Tensor):
        raise fault(
            task.name, f"its initial state is {kind_of(start)}; genflow needs states that are tensors"
        )
    described = len(task.layout.units["action"])
    if described != actions:
        raise fault(
            f"{task.name}.units()",
            f"describes {described} actions of {actions}; describe each action in order, and exit last",
        )


def check_torchgfn(task: Task) -> None:
    """Check what the default transitions need of a torchgfn environment: exit last, and masks of its states.

    Nothing is checked of a task with transitions of its own, whose torchgfn environment is not built here.
    """
    if type(task.transitions).step is not Transitions.step:
        return
    env = task.transitions.env
    name, last = type(env).__name__, env.n_actions - 1
    if env.exit_action.tolist() != [last]:
        raise fault(
            name,
            f"its exit action is {env.exit_action.tolist()}; exit must be the last of its {env.n_actions}"
            f" actions, {last}",
        )
    with blaming(f"{name}.reset()"):
        fresh, wrapped = env.reset((1,)), env.States(env.s0[None])
    for masks in ("forward_masks", "backward_masks"):
        hint = f"compute them in _compute_{masks}() of its states class, from the states' tensor alone"
        try:
            own = getattr(wrapped, masks)
        except NotImplementedError:
            raise fault(name, f"its states have no {masks}; {hint}") from None
        except Exception:
            with blaming(f"{name}: _compute_{masks}()"):
                raise
        width = env.n_actions if masks == "forward_masks" else env.n_actions - 1
        if not isinstance(own, Tensor) or own.shape != (1, width) or own.dtype != torch.bool:
            raise fault(
                name, f"its {masks} of one state are {kind_of(own)}; they must be (1, {width}) bool; {hint}"
            )
        if masks == "forward_masks" and not torch.equal(own, fresh.forward_masks):
            raise fault(name, f"its {masks} after reset() differ from those of env.States(tensor); {hint}")


def check_steps(task: Task) -> None:
    """Walk a few steps along allowed actions, and check masks, steps and numbers of parents."""
    transitions, name = task.transitions, task.name
    actions, start = transitions.n_actions, transitions.initial_state
    rng = torch.Generator().manual_seed(0)
    states = task.walk[0]
    while len(states) and len(task.walk) <= STEPS:
        with blaming(f"{name}: masks of states"):
            masks = transitions.forward_masks(states)
        if (
            not isinstance(masks, Tensor)
            or masks.shape != (len(states), actions)
            or masks.dtype != torch.bool
        ):
            raise fault(
                name,
                f"the masks of {len(states)} states are {kind_of(masks)};"
                f" they must be ({len(states)}, {actions}) bool, a column for each action and exit last",
            )
        stuck = ~masks.any(-1)
        if stuck.any():
            raise fault(name, str(exact.dead_end(states[stuck][0])))
        states, moves = states[masks[:, :-1].any(-1)], masks[masks[:, :-1].any(-1)]
        if not len(states):
            return
        taken = moves[:, :-1].double().multinomial(1, generator=rng)[:, 0]
        with blaming(f"{name}: step"):
            following = transitions.step(states, taken)
        if not isinstance(following, Tensor) or (following.shape, following.dtype) != (
            states.shape,
            start.dtype,
        ):
            raise fault(
                name,
                f"a step leads from states of {kind_of(states)} to {kind_of(following)}; it must keep the"
                " shape and the type",
            )
        same = (following == states).flatten(1).all(1)
        if same.any():
            raise fault(
                name,
                f"action {int(taken[same][0])} leaves state {brief(states[same][0].tolist())} as it is;"
                " forbid it there, as a trajectory would not end",
            )
        _check_parents(task, states, taken, following)
        states = following
        task.walk.append(states)


def _check_parents(task: Task, states: Tensor, taken: Tensor, following: Tensor) -> None:
    """Check that what an action leads to has the state it was taken in among its parents."""
    transitions = task.transitions
    with blaming(f"{task.name}: number of parents"):
        parents = transitions.n_parents(following)
    wrong = parents < 1 if parents.shape == taken.shape else torch.ones_like(taken, dtype=torch.bool)
    if type(transitions).n_parents is Transitions.n_parents:
        backward = transitions.env.States(following).backward_masks
        if backward.shape != (len(following), transitions.n_actions - 1):
            raise fault(
                type(transitions.env).__name__,
                f"its backward_masks of {len(following)} states are {kind_of(backward)}; they must be"
                f" ({len(following)}, {transitions.n_actions - 1}), a column for each action but exit",
            )
        wrong = wrong | ~backward.gather(1, taken[:, None])[:, 0].bool()
    if wrong.any():
        raise fault(
            task.name,
            f"action {int(taken[wrong][0])} leads from state {brief(states[wrong][0].tolist())} to"
            f" {brief(following[wrong][0].tolist())}, whose backward mask does not allow it; allow there the"
            " actions that lead to a state",
        )


def check_backward(task: Task) -> None:
    """Check that the probabilities of undoing actions add up to 1, where they are not uniform."""
    named = task.transitions.backward
    if named == "uniform":
        return
    source = "log_n_trajectories" if named == "maxent" else "log_pb"
    for states in task.walk[1:]:
        with blaming(f"{task.name}: the backward policy {named!r} ({source})"):
            probs = task.transitions.backward_probs(states)
        total = probs.sum(1)
        wrong = ~((total - 1).abs() <= 1e-6) | (probs < 0).any(1)
        if not wrong.any():
            continue
        state, times = brief(states[wrong][0].tolist()), float(total[wrong][0])
        if named == "maxent":
            said = f"{times:g} times as many trajectories to its parents as to itself; {source} must count"
            raise fault(task.name, f"state {state} has {said} all alike")
        said = f"probabilities of undoing actions that add up to {times:g}; {source} must make that 1"
        raise fault(task.name, f"state {state} has {said}")


def check_inputs(task: Task) -> None:
    """Check that the inputs of the states of the walk are finite, and as many as are described."""
    transitions, described = task.transitions, len(task.layout.units["input"])
    for states in (task.walk[0], task.walk[-1]):
        with blaming(f"{task.name}: the inputs of states (preprocessor)"):
            inputs = transitions.inputs(states)
        if not isinstance(inputs, Tensor) or inputs.shape[:-1] != (len(states),):
            raise fault(
                task.name,
                f"the inputs of {len(states)} states (preprocessor) are {kind_of(inputs)}; they must be"
                f" ({len(states)}, s), a row for each state",
            )
        if inputs.shape[1] != described:
            raise fault(
                f"{task.name}.units()",
                f"describes {described} inputs, and the preprocessor makes {inputs.shape[1]}; describe each"
                " number that it makes, in order",
            )
        if not inputs.isfinite().all():
            raise fault(
                task.name,
                f"the inputs of state {brief(states[~inputs.isfinite().all(1)][0].tolist())} (preprocessor)"
                " are not finite; make finite numbers, best between -1 and 1",
            )
        ones = transitions.one_hot_indices(states)
        if ones is not None and not torch.equal(torch.zeros_like(inputs).scatter_(1, ones, 1.0), inputs):
            raise fault(
                type(transitions).__name__, "one_hot_indices() are not the inputs that are 1; return None"
            )


def check_rewards(task: Task) -> None:
    """Check the rewards of some terminal states, unless they are expensive or the task computes its own."""
    transitions, reward = task.transitions, task.environment.reward
    if type(transitions).log_reward is not Transitions.log_reward or (reward and reward.expensive):
        return
    states = task.ends()[-WALKS:]
    if not len(states):
        return
    name = task.name if reward is None else f"{task.name} with {type(reward).__name__}"
    with blaming(f"{name}: the reward of states"):
        log_reward = transitions.log_reward(states)
    try:
        exact.require_rewards(states, log_reward)
    except GenflowError as error:
        raise fault(name, str(error)) from None


#: the checks of how a task behaves, in order, as later ones rely on the earlier
CHECKS: tuple[Callable[[Task], None], ...] = (
    check_start,
    check_torchgfn,
    check_steps,
    check_backward,
    check_inputs,
    check_rewards,
)


def validated_transitions(structure: Structured, device: torch.device) -> Transitions:
    """Return the transitions of a structure on a device, after its task has been checked on the CPU.

    Raises:
        GenflowError: the first fault, in one line.
    """
    environment = structure.environment
    transitions = made_transitions(environment, device)
    passed = _checked.setdefault(type(environment), Counter())
    classes = (type(environment.reward), type(structure.arch), environment.backward)
    if passed[classes] < CHECKED:
        structure.condition(), structure.initial_bias  # checked as they are read
        on_cpu = device.type == "cpu"
        task = Task(structure, transitions if on_cpu else made_transitions(environment, torch.device("cpu")))
        for check in CHECKS:
            check(task)
        passed[classes] += 1
    return transitions


def made_transitions(environment: Environment, device: torch.device) -> Transitions:
    """Return the transitions of a task on a device, not yet checked.

    Raises:
        GenflowError: they cannot be made, or the backward policy is of another name.
    """
    name = type(environment).__name__
    with blaming(f"{name}.transitions()"):
        transitions = environment.transitions(device)
    named, own = environment.backward, type(transitions).log_pb is not Transitions.log_pb
    if named not in BACKWARD_POLICIES and not (own and isinstance(named, str)):
        raise fault(
            f"{name}.backward",
            f"it is {brief(named)}; use one of {brief(BACKWARD_POLICIES)}, or say its probabilities in"
            " Transitions.log_pb",
        )
    transitions.backward = environment.backward
    return transitions
