"""Every state and every step of a small task, found through torchgfn's environment alone.

Shapes: S states, E steps (edges), A actions (the last is exit).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genflow import exact
from genflow.enumeration import breadth_first, keys_of, topological_levels
from genflow.testing.outcomes import Skipped

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv

#: the most states of a task that is enumerated for checks
MAX_STATES = 20_000
ENUMERATE = f"more than {MAX_STATES:,} states; give a smaller structure with --structure (or `structures`)"


@dataclass(frozen=True, eq=False)
class Enumeration:
    """The states of a task and the steps between them, which may lead in a circle.

    Attributes:
        states: (S, *state_shape), the initial one first.
        children: (S, A-1) as in `StateGraph`.
        can_exit: (S,) whether exit is allowed.
    """

    states: Tensor
    children: Tensor
    can_exit: Tensor

    @cached_property
    def steps(self) -> Tensor:
        """(E, 3) state, action and the state that it leads to."""
        rows, actions = (self.children != exact.NO_CHILD).nonzero(as_tuple=True)
        return torch.stack([rows, actions, self.children[rows, actions]], dim=1)

    @cached_property
    def levels(self) -> list[Tensor] | None:
        """The states in topological order, level by level; None if steps lead in a circle."""
        found = topological_levels(self.children)
        return found if sum(map(len, found)) == len(self.states) else None

    @cached_property
    def place(self) -> dict[bytes, int]:
        """The number of each state by its content."""
        return {key: number for number, key in enumerate(keys_of(self.states))}

    def numbers(self, states: Tensor) -> Tensor:
        """Return the numbers (B,) of states (B, *state_shape), -1 where a state is none of these."""
        return torch.tensor([self.place.get(key, -1) for key in keys_of(states)], dtype=torch.long)

    def graph(self) -> exact.StateGraph:
        """Return the states as a graph, for dynamic programming.

        Raises:
            Skipped: there is none, as steps lead in a circle.
        """
        if self.levels is None:
            raise Skipped("steps lead in a circle, which another check reports")
        return exact.StateGraph(self.states, self.children, self.can_exit, tuple(self.levels))


def enumerated(env: DiscreteEnv) -> Enumeration:
    """Enumerate a task.

    Raises:
        Skipped: it has more than `MAX_STATES` states.
    """
    found = breadth_first(env, MAX_STATES)
    if found is None:
        raise Skipped(f"the task has {ENUMERATE}")
    return Enumeration(*found)


def stepped(env: DiscreteEnv, states: Tensor, actions: Tensor, backward: bool = False) -> Tensor:
    """Apply actions (B,) to copies of states (B, *state_shape), through torchgfn's environment."""
    step = env.backward_step if backward else env.step
    return step(env.States(states.clone()), env.actions_from_tensor(actions[:, None])).tensor
