"""`ExactSolution`: what can be computed exactly where all states can be listed.

Shapes: S states, A actions (the last is exit).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from genflow import exact
from genflow.caching import ByteCache, share_of_memory
from genflow.errors import GenflowError
from genflow.interfaces.transitions import Transitions

T = TypeVar("T")
#: Above this many states a task counts as too large to enumerate.
MAX_STATES = 2_000_000
#: graphs, flows and experts: training by distillation asks those of hundreds of structures in turn
_cache = ByteCache(share_of_memory(1 / 3))


class ExactSolution:
    """The graph, the target and the optimal policy of a task, by default by enumerating it.

    A task overrides what it can do faster, or for structures that are too large to list. Results are kept in
    a cache that is bounded in bytes.
    """

    def __init__(self, transitions: Transitions, n_states: int | None = None) -> None:
        """Solve a task.

        Args:
            transitions: of the task, on the CPU.
            n_states: S, or None if it is not known, which rules exact results out.
        """
        self.transitions = transitions
        self._n_states = n_states

    @property
    def n_states(self) -> int | None:
        """S, or None if it is not known."""
        return self._n_states

    @property
    def enumerable(self) -> bool:
        """Whether exact metrics can be computed."""
        return self.n_states is not None and self.n_states <= MAX_STATES

    def require_enumerable(self, what: str, instead: str) -> None:
        """Refuse an exact computation on a task that is too large for it.

        Raises:
            GenflowError: says what to do `instead`.
        """
        if not self.enumerable:
            size = f"{self.n_states:,}" if self.n_states is not None else "an unknown number of"
            raise GenflowError(
                f"{what} needs every state, but this structure has {size} states "
                f"(the limit is {MAX_STATES:,}); {instead}"
            )

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """A result under a name, computed once while the cache has room for it."""
        return _cache.get(self, name, make)

    @property
    def graph(self) -> exact.StateGraph:
        """Every state; their order is the order of `target`."""
        return self.kept("graph", self._enumerate)

    def _enumerate(self) -> exact.StateGraph:
        self.require_enumerable("the state graph", "use metrics that sample")
        return exact.enumerate_states(self.transitions.env, MAX_STATES)

    def log_reward(self) -> Tensor:
        """(S,) float64 log R, -infinity where a trajectory may not end."""
        return self.kept("log_reward", self._log_reward)

    def _log_reward(self) -> Tensor:
        graph = self.graph
        log_reward = torch.full((len(graph.states),), -torch.inf, dtype=torch.float64)
        log_reward[graph.can_exit] = self.transitions.log_reward(graph.states[graph.can_exit])
        return log_reward

    def log_partition(self) -> float:
        """Log of the sum of rewards over all terminal states."""
        return float(self.log_reward().logsumexp(0))

    def target(self) -> Tensor:
        """(S,) float64: R(x) / Z."""
        return self.log_reward().softmax(0)

    def optimal_flows(self) -> exact.Flows:
        """The flows, and the policy, that sample the target exactly."""
        return self.kept("flows", lambda: exact.optimal_flows(self.graph, self.log_reward()))

    def require_expert(self) -> None:
        """Refuse a task whose optimal policy cannot be computed.

        Raises:
            GenflowError: says what to do instead.
        """
        self.require_enumerable("the optimal policy", "use a balance objective, e.g. zoo.objective=tb")

    @property
    def expert(self) -> exact.Expert:
        """Draws states with the optimal policy there; symmetries may allow it for far larger structures."""
        return self.kept("expert", self._expert)

    def _expert(self) -> exact.Expert:
        self.require_expert()
        graph, flows = self.graph, self.optimal_flows()
        mask: Any = graph.mask(torch.arange(len(graph.states)))
        return exact.Expert(graph.states, flows.policy.float(), mask, flows.visit)
