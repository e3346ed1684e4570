"""Every state and every step of a small task, found through torchgfn's environment alone.

Unlike `genflow.enumeration` it goes on where steps lead in a circle, so that all faults can be told.

Shapes: S states, E steps (edges), A actions (the last is exit).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genflow import exact
from genflow.testing.outcomes import Skipped

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv

#: the most states of a task that is enumerated for checks
MAX_STATES = 20_000
ENUMERATE = f"more than {MAX_STATES:,} states; give a smaller structure with --structure (or `structures`)"


@dataclass(frozen=True, eq=False)
class Enumeration:
    """The states of a task and the steps between them.

    Attributes:
        states: (S, *state_shape), the initial one first.
        depth: (S,) the least number of steps to each.
        can_exit: (S,) whether exit is allowed.
        steps: (E, 3) state, action and the state that it leads to.
    """

    states: Tensor
    depth: Tensor
    can_exit: Tensor
    steps: Tensor

    @cached_property
    def levels(self) -> list[Tensor] | None:
        """The states in topological order, level by level; None if steps lead in a circle."""
        waits = torch.bincount(self.steps[:, 2], minlength=len(self.states))
        level, found = (waits == 0).nonzero()[:, 0], []
        while len(level):
            found.append(level)
            left = self.steps[torch.isin(self.steps[:, 0], level), 2]
            fewer = torch.bincount(left, minlength=len(self.states))
            waits = waits - fewer
            level = ((waits == 0) & (fewer > 0)).nonzero()[:, 0]
        return found if sum(map(len, found)) == len(self.states) else None

    @cached_property
    def place(self) -> dict[bytes, int]:
        """The number of each state by its content."""
        return {key: number for number, key in enumerate(keys_of(self.states))}

    def numbers(self, states: Tensor) -> Tensor:
        """Return the numbers (B,) of states (B, *state_shape), -1 where a state is none of these."""
        return torch.tensor([self.place.get(key, -1) for key in keys_of(states)], dtype=torch.long)

    def graph(self, n_actions: int) -> exact.StateGraph:
        """Return the states as a graph, for dynamic programming.

        Raises:
            Skipped: there is none, as steps lead in a circle.
        """
        if self.levels is None:
            raise Skipped("steps lead in a circle, which another check reports")
        children = torch.full((len(self.states), n_actions - 1), exact.NO_CHILD)
        children[self.steps[:, 0], self.steps[:, 1]] = self.steps[:, 2]
        return exact.StateGraph(self.states, children, self.can_exit, tuple(self.levels))


def keys_of(states: Tensor) -> list[bytes]:
    """Return the content of each of B states."""
    flat: Any = states.detach().cpu().reshape(len(states), -1).contiguous().numpy()
    return [row.tobytes() for row in flat]


def enumerated(env: DiscreteEnv) -> Enumeration:
    """Enumerate a task breadth first.

    Raises:
        Skipped: it has more than `MAX_STATES` states.
    """
    level = env.s0.reshape(1, *env.s0.shape)
    place = {key: number for number, key in enumerate(keys_of(level))}
    states, can_exit, steps, depths = [level], [], [], [0]
    first, depth = 0, 0
    while len(level):
        depth += 1
        masks = env.States(level.clone()).forward_masks
        can_exit.append(masks[:, -1])
        rows, actions = masks[:, :-1].nonzero(as_tuple=True)
        if not len(rows):
            break
        following = stepped(env, level[rows], actions)
        numbers, new = [], []
        for row, key in enumerate(keys_of(following)):
            if key not in place:
                place[key] = len(place)
                new.append(row)
            numbers.append(place[key])
        if len(place) > MAX_STATES:
            raise Skipped(f"the task has {ENUMERATE}")
        steps.append(torch.stack([rows + first, actions, torch.tensor(numbers)], dim=1))
        first += len(level)
        level = following[new]
        states.append(level)
        depths += [depth] * len(new)
    none = torch.empty(0, 3, dtype=torch.long)
    return Enumeration(
        torch.cat(states), torch.tensor(depths), torch.cat(can_exit), torch.cat([none, *steps])
    )


def stepped(env: DiscreteEnv, states: Tensor, actions: Tensor, backward: bool = False) -> Tensor:
    """Apply actions (B,) to copies of states (B, *state_shape), through torchgfn's environment."""
    step = env.backward_step if backward else env.step
    return step(env.States(states.clone()), env.actions_from_tensor(actions[:, None])).tensor
