"""`ExactSolution`: the quantities of a task that can be computed exactly by enumerating its states.

Shapes: S states, A actions (the last is exit).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from genflow import exact
from genflow.caching import ByteCache, share_of_memory
from genflow.enumeration import enumerate_states
from genflow.errors import GenflowError
from genflow.interfaces.transitions import Transitions

T = TypeVar("T")
#: The most states of a task that is enumerated.
MAX_STATES = 2_000_000
#: graphs, flows and experts; distillation uses those of hundreds of structures in turn
_cache = ByteCache(share_of_memory(1 / 3))


class ExactSolution:
    """The graph, the target and the optimal policy of a task, by default by enumeration.

    A task may override what it can compute faster, or without enumeration. Results are kept in a cache of
    bounded size.
    """

    def __init__(self, transitions: Transitions, n_states: int | None = None) -> None:
        """Create the solution, whose parts are computed when they are first read.

        Args:
            transitions: the transitions of the task, on the CPU.
            n_states: S, or None if it is not known, so that nothing can be computed exactly.
        """
        self.transitions = transitions
        self._n_states = n_states

    @property
    def n_states(self) -> int | None:
        """The number of states S, or None if it is not known."""
        return self._n_states

    @property
    def enumerable(self) -> bool:
        """Whether the states can be enumerated, which exact metrics need."""
        return self.n_states is not None and self.n_states <= MAX_STATES

    def require_enumerable(self, what: str, instead: str) -> None:
        """Raise an error if the task is too large to enumerate.

        Args:
            what: the computation that needs all states, in the message.
            instead: what to do instead, in the message.

        Raises:
            GenflowError: the task has too many states, or an unknown number of them.
        """
        if not self.enumerable:
            size = f"{self.n_states:,}" if self.n_states is not None else "an unknown number of"
            raise GenflowError(
                f"{what} needs every state, but this structure has {size} states "
                f"(the limit is {MAX_STATES:,}); {instead}"
            )

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """Return the result with a name from the cache, or compute it."""
        return _cache.get(self, name, make)

    @property
    def graph(self) -> exact.StateGraph:
        """The graph of all states, in the order that `target` uses."""
        return self.kept("graph", self._enumerate)

    def _enumerate(self) -> exact.StateGraph:
        self.require_enumerable("the state graph", "use metrics that sample")
        env = self.transitions.env
        graph = enumerate_states(env, MAX_STATES)
        exact.require_ways_out(graph)  # without one there are fewer states, which is not the fault
        if len(graph.states) != self.n_states:
            raise GenflowError(
                f"{type(env).__name__} has {len(graph.states):,} states, but its exact_solution() says"
                f" n_states={self.n_states:,}; give the true number, with the initial and all other states"
            )
        return graph

    def log_reward(self) -> Tensor:
        """Return log R of every state (S,) in float64, -infinity where a trajectory may not end."""
        return self.kept("log_reward", self._log_reward)

    def _log_reward(self) -> Tensor:
        graph = self.graph
        log_reward = torch.full((len(graph.states),), -torch.inf, dtype=torch.float64)
        log_reward[graph.can_exit] = self.transitions.log_reward(graph.states[graph.can_exit])
        return log_reward

    @property
    def knows_log_partition(self) -> bool:
        """Whether `log_partition` can be computed: by enumeration, or in closed form where overridden."""
        return self.enumerable

    def log_partition(self) -> float:
        """Return log Z, the logarithm of the sum of rewards over all terminal states.

        Raises:
            GenflowError: it needs enumeration, and there are too many states; see `knows_log_partition`.
        """
        return float(self.log_reward().logsumexp(0))

    def target(self) -> Tensor:
        """Return the target distribution R(x) / Z as (S,) float64."""
        return self.log_reward().softmax(0)

    @property
    def can_draw(self) -> bool:
        """Whether `draw` works: by enumeration, or in another way where overridden."""
        return self.enumerable

    def draw(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw terminal states (num, *state_shape) of the target exactly.

        Args:
            num: how many.
            rng: generator of the random numbers, on the CPU.

        Raises:
            GenflowError: it needs enumeration, and there are too many states; see `can_draw`.
        """
        cdf = self.kept("cdf", lambda: self.target().cumsum(0))
        place = torch.rand(num, dtype=torch.float64, generator=rng) * cdf[-1]
        return self.graph.states[torch.searchsorted(cdf, place).clamp(max=len(cdf) - 1)]

    def optimal_flows(self) -> exact.Flows:
        """Return the flows, and the policy, that sample the target exactly."""
        return self.kept("flows", self._optimal_flows)

    def _optimal_flows(self) -> exact.Flows:
        graph, transitions, log_pb = self.graph, self.transitions, None
        if transitions.backward != "uniform":
            log_pb = exact.log_pb_of_edges(
                graph, lambda parents, states: transitions.log_pb(graph.states[parents], graph.states[states])
            )
        return exact.optimal_flows(graph, self.log_reward(), log_pb)

    def require_expert(self) -> None:
        """Raise an error if the optimal policy of the task cannot be computed.

        Raises:
            GenflowError: it cannot; the message says what to do instead.
        """
        self.require_enumerable("the optimal policy", "use a balance objective, e.g. zoo.objective=tb")

    @property
    def expert(self) -> exact.Expert:
        """The expert, which draws states with the optimal policy in each."""
        return self.kept("expert", self._expert)

    def _expert(self) -> exact.Expert:
        self.require_expert()
        graph, flows = self.graph, self.optimal_flows()
        mask: Any = graph.mask(torch.arange(len(graph.states)))
        return exact.Expert(graph.states, flows.policy.float(), mask, flows.visit)
