"""Enumeration of the states of a torchgfn environment.

Shapes: S states, A actions (the last one is exit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genflow.errors import GenflowError
from genflow.exact import NO_CHILD, StateGraph
from genflow.schema import brief

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv


def enumerate_states(env: DiscreteEnv, max_states: int) -> StateGraph:
    """Enumerate the states of a torchgfn environment breadth first.

    Trajectories to a state may have different lengths.

    Raises:
        GenflowError: there are more than `max_states` states, or a trajectory can return to one.
    """
    fresh = env.s0.reshape(1, -1).cpu()
    shape = env.s0.shape
    seen: dict[bytes, int] = {fresh.numpy().tobytes(): 0}
    states, children, can_exit = [fresh], [], []
    while len(fresh):
        wrapped = env.States(fresh.reshape(-1, *shape))
        mask = wrapped.forward_masks.cpu()
        rows, actions = mask[:, :-1].nonzero(as_tuple=True)
        table = torch.full((len(fresh), mask.shape[1] - 1), NO_CHILD)
        can_exit.append(mask[:, -1])
        children.append(table)
        if not len(rows):
            break
        stepped = env.step(
            env.States(fresh[rows].reshape(-1, *shape)), env.actions_from_tensor(actions[:, None])
        ).tensor
        unique, inverse = stepped.reshape(len(rows), -1).cpu().unique(dim=0, return_inverse=True)
        before = len(seen)
        keys = [row.tobytes() for row in unique.numpy()]
        numbers = torch.tensor([seen.setdefault(key, len(seen)) for key in keys])
        if len(seen) > max_states:
            raise GenflowError(
                f"this task has more than {max_states:,} states; "
                "use a metric that samples instead of an exact one"
            )
        table[rows, actions] = numbers[inverse]
        fresh = unique[numbers >= before]
        states.append(fresh)
    every, edges = torch.cat(states).reshape(-1, *shape), torch.cat(children)
    levels = _topological_levels(edges)
    if sum(map(len, levels)) < len(every):
        on_cycle = torch.ones(len(every), dtype=torch.bool)
        for level in levels:
            on_cycle[level] = False
        raise GenflowError(
            f"{type(env).__name__}: a trajectory can return to a state that it has left, on the way to"
            f" {brief(every[on_cycle][0].tolist())}; forbid an action there, as the states of a GFlowNet"
            " form a graph without cycles"
        )
    return StateGraph(every, edges, torch.cat(can_exit), tuple(levels))


def _topological_levels(children: Tensor) -> list[Tensor]:
    """States by the most steps that lead to them; those in and behind a cycle are left out."""
    ahead = torch.bincount(children[children != NO_CHILD], minlength=len(children))
    level, levels = (ahead[:1] == 0).nonzero()[:, 0], []
    while len(level):
        levels.append(level)
        reached = children[level]
        reached, times = reached[reached != NO_CHILD].unique(return_counts=True)
        ahead[reached] -= times
        level = reached[ahead[reached] == 0]
    return levels
