"""Enumeration of the states of a torchgfn environment.

Shapes: S states, A actions (the last one is exit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from genflow.errors import GenflowError
from genflow.exact import NO_CHILD, StateGraph
from genflow.schema import brief

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv


class Found(NamedTuple):
    """The states of a task, the initial one first, and the steps between them, which may lead in a circle.

    Attributes:
        states: (S, *state_shape).
        children: (S, A-1) index of the state that each non-exit action leads to, `NO_CHILD` where it is not
            allowed.
        can_exit: (S,) whether a trajectory may end here.
    """

    states: Tensor
    children: Tensor
    can_exit: Tensor


def keys_of(states: Tensor) -> list[bytes]:
    """Return the content of each of B states."""
    flat: Any = states.detach().cpu().reshape(len(states), -1).contiguous().numpy()
    return [row.tobytes() for row in flat]


def breadth_first(env: DiscreteEnv, max_states: int) -> Found | None:
    """Find the states of a torchgfn environment breadth first; None if there are more than `max_states`.

    The environment is given copies of states, which it may write into.
    """
    fresh = env.s0[None].cpu()
    seen = {key: number for number, key in enumerate(keys_of(fresh))}
    states, children, can_exit = [fresh], [], []
    while len(fresh):
        mask = env.States(fresh.clone()).forward_masks.cpu()
        rows, actions = mask[:, :-1].nonzero(as_tuple=True)
        table = torch.full((len(fresh), mask.shape[1] - 1), NO_CHILD)
        can_exit.append(mask[:, -1])
        children.append(table)
        if not len(rows):
            break
        taken = env.actions_from_tensor(actions[:, None])
        stepped = env.step(env.States(fresh[rows].clone()), taken).tensor.cpu()
        unique, inverse = stepped.reshape(len(rows), -1).unique(dim=0, return_inverse=True)
        before = len(seen)
        numbers = torch.tensor([seen.setdefault(key, len(seen)) for key in keys_of(unique)])
        if len(seen) > max_states:
            return None
        table[rows, actions] = numbers[inverse]
        fresh = unique[numbers >= before].reshape(-1, *env.s0.shape)
        states.append(fresh)
    return Found(torch.cat(states), torch.cat(children), torch.cat(can_exit))


def enumerate_states(env: DiscreteEnv, max_states: int) -> StateGraph:
    """Enumerate the states of a torchgfn environment, whose trajectories to a state may differ in length.

    Raises:
        GenflowError: there are more than `max_states` states, or a trajectory can return to one.
    """
    found = breadth_first(env, max_states)
    if found is None:
        raise GenflowError(
            f"this task has more than {max_states:,} states; use a metric that samples instead of an exact"
            " one"
        )
    levels = topological_levels(found.children)
    if sum(map(len, levels)) < len(found.states):
        on_circle = torch.ones(len(found.states), dtype=torch.bool)
        for level in levels:
            on_circle[level] = False
        raise GenflowError(
            f"{type(env).__name__}: a trajectory can return to a state that it has left, on the way to"
            f" {brief(found.states[on_circle][0].tolist())}; forbid an action there, as the states of a"
            " GFlowNet form a graph without cycles"
        )
    return StateGraph(*found, tuple(levels))


def topological_levels(children: Tensor) -> list[Tensor]:
    """Return states by the most steps that lead to them; those on and behind a circle are left out.

    Args:
        children: (S, A-1) as in `StateGraph`.
    """
    ahead = torch.bincount(children[children != NO_CHILD], minlength=len(children))
    level, levels = (ahead[:1] == 0).nonzero()[:, 0], []
    while len(level):
        levels.append(level)
        reached = children[level]
        reached, times = reached[reached != NO_CHILD].unique(return_counts=True)
        ahead[reached] -= times
        level = reached[ahead[reached] == 0]
    return levels
