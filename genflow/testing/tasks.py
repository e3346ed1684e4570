"""`TaskUnderTest`: a structure as its checks see it, with what torchgfn says beside what genflow uses."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genflow import exact
from genflow.errors import GenflowError
from genflow.interfaces import behaviour
from genflow.interfaces.exact_solution import ExactSolution
from genflow.interfaces.transitions import BACKWARD_POLICIES, Transitions
from genflow.schema import brief
from genflow.structure import Structure
from genflow.testing.enumeration import Enumeration, enumerated
from genflow.testing.outcomes import Skipped

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv

CPU = torch.device("cpu")


class TaskUnderTest:
    """A structure, and what torchgfn's environment says of it.

    Attributes:
        structure: the structure.
        environment: its task.
        name: the name of the environment's class.
    """

    def __init__(self, structure: Structure) -> None:
        self.structure, self.environment = structure, structure.environment
        self.name = type(structure.environment).__name__

    @cached_property
    def fault_at_first_use(self) -> GenflowError | None:
        """What genflow refuses the task for when it is first used, or None."""
        try:
            self.structure.condition(), self.structure.initial_bias
            for check in behaviour.CHECKS:
                check(self.walked)
        except GenflowError as error:
            return error
        return None

    @cached_property
    def walked(self) -> behaviour.Task:
        """The task with the short walk that genflow makes when it first uses it."""
        return behaviour.Task(self.structure, self.own)

    def require_use(self) -> None:
        """Skip a check of a task that genflow refuses.

        Raises:
            Skipped: it does.
        """
        if self.fault_at_first_use is not None:
            raise Skipped("genflow refuses the task, see `first use`; mend that first")

    @cached_property
    def own(self) -> Transitions:
        """The transitions that genflow uses, not checked."""
        return behaviour.made_transitions(self.environment, CPU)

    @cached_property
    def plain(self) -> Transitions:
        """The transitions through torchgfn, which knows no counts and no P_B of the task's own."""
        own = self.own

        class Plain(Transitions):
            def log_pb(self, parents: Tensor, states: Tensor) -> Tensor:
                named = self.backward in BACKWARD_POLICIES
                return super().log_pb(parents, states) if named else own.log_pb(parents, states)

            def log_n_trajectories(self, states: Tensor) -> Tensor | None:
                return own.log_n_trajectories(states)

        plain = Plain(self.environment.make, CPU)
        plain.backward = self.environment.backward
        return plain

    @property
    def env(self) -> DiscreteEnv:
        """The torchgfn environment."""
        return self.plain.env

    @cached_property
    def solution(self) -> ExactSolution:
        """The exact solution that genflow uses."""
        return self.environment.exact_solution(self.own)

    @cached_property
    def all(self) -> Enumeration:
        """All states and steps.

        Raises:
            Skipped: they are too many, or genflow refuses the task.
        """
        self.require_use()
        return enumerated(self.env)

    @cached_property
    def graph(self) -> exact.StateGraph:
        """All states and steps as a graph.

        Raises:
            Skipped: there are too many states, steps lead in a circle, or genflow refuses the task.
        """
        return self.all.graph()

    @cached_property
    def ends(self) -> Tensor:
        """The terminal states."""
        return self.all.states[self.all.can_exit]

    def require_cheap(self) -> None:
        """Skip a check that asks for the reward of every object.

        Raises:
            Skipped: the reward is expensive.
        """
        if self.environment.reward is not None and self.environment.reward.expensive:
            raise Skipped(
                "it would ask an expensive reward for every object; check a structure with another reward too"
            )

    @cached_property
    def log_reward(self) -> Tensor:
        """Log R (S,) of every state by torchgfn's environment, -infinity where no trajectory ends.

        Raises:
            Skipped: the reward is expensive, or one is not positive and finite.
        """
        self.require_cheap()
        found = torch.full((len(self.all.states),), -torch.inf, dtype=torch.float64)
        found[self.all.can_exit] = self.plain.log_reward(self.ends)
        if not found[self.all.can_exit].isfinite().all():
            raise Skipped("a reward is not positive and finite, see `rewards`; mend that first")
        return found

    @cached_property
    def flows(self) -> exact.Flows:
        """The flows that sample the target, by dynamic programming over torchgfn's steps."""
        states, named, log_pb = self.graph.states, self.environment.backward, None
        if named == "maxent":
            log_n = counted(self.graph)
            log_pb = exact.log_pb_of_edges(self.graph, lambda parents, ends: log_n[parents] - log_n[ends])
        elif named != "uniform":  # the task's own, of which torchgfn says nothing
            log_pb = exact.log_pb_of_edges(
                self.graph, lambda parents, ends: self.own.log_pb(states[parents], states[ends])
            )
        return exact.optimal_flows(self.graph, self.log_reward, log_pb)

    def shown(self, number: int | Tensor) -> str:
        """Write a state of the enumeration, in a few characters."""
        return brief(self.all.states[int(number)].tolist())


def counted(graph: exact.StateGraph) -> Tensor:
    """Return the log of the number of trajectories (S,) to each state, by dynamic programming."""
    count = torch.zeros(len(graph.states), dtype=torch.float64)
    count[0] = 1
    for level in graph.levels:
        for child in graph.children[level].T:
            there = child != exact.NO_CHILD
            count.index_add_(0, child[there].long(), count[level][there])
    return count.log()
