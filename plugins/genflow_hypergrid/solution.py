"""The exact solution of a hypergrid: all states by index arithmetic, and the optimal policy by symmetry.

Shapes: n dimensions, h positions each, S = h**n states in row-major order (torchgfn's).
"""

from __future__ import annotations

import torch

from genflow import ExactSolution, Expert, GenflowError, StateGraph

from .expert import n_sorted, sorted_expert, sorted_graph
from .rewards import ProductReward, SeparableReward
from .transitions import GridTransitions

#: sorted states up to which the optimal policy is computed
MAX_SORTED = 2_500_000


class GridSolution(ExactSolution):
    """The exact solution of a grid, by enumeration or by the symmetry of a product reward.

    A product reward does not tell dimensions apart, so its optimal policy is known for grids that are far too
    large to enumerate.
    """

    def __init__(self, transitions: GridTransitions, ndim: int, height: int) -> None:
        super().__init__(transitions, height**ndim)
        self._ndim, self._height, self._reward = ndim, height, transitions.reward

    @property
    def knows_log_partition(self) -> bool:
        """Always for rewards that are sums of products over the dimensions."""
        return super().knows_log_partition or isinstance(self._reward, ProductReward | SeparableReward)

    def log_partition(self) -> float:
        """The logarithm of the sum of all rewards.

        For sums of products over the dimensions it is in closed form, e.g. R0 h^n + R1 outer^n + R2 band^n.
        """
        if isinstance(self._reward, ProductReward):
            return float(torch.tensor(self._reward.log_masses(), dtype=torch.float64).logsumexp(0))
        if isinstance(self._reward, SeparableReward) and not self.enumerable:
            return self._reward.log_total()
        return super().log_partition()

    def require_expert(self) -> None:
        """Refuse a grid with too many sorted states, or one of another reward with too many states."""
        n, h = self._ndim, self._height
        if not isinstance(self._reward, ProductReward):
            super().require_expert()
        elif n_sorted(n, h) > MAX_SORTED or h**n >= 2**63:  # a state's number must fit 64 bits
            raise GenflowError(
                f"the optimal policy of ndim={n}, height={h} needs {n_sorted(n, h):,} sorted states of"
                f" {h**n:.3g} (the"
                f" limits are {MAX_SORTED:,} and 9e18); use a balance objective, e.g. zoo.objective=tb"
            )

    def _expert(self) -> Expert:
        if not isinstance(self._reward, ProductReward):
            return super()._expert()
        self.require_expert()
        graph = sorted_graph(self._ndim, self._height)
        return sorted_expert(self._ndim, self._height, self.transitions.log_reward(graph.states), graph)

    def _enumerate(self) -> StateGraph:
        """List all h**n states; the level of a state is the sum of its positions."""
        self.require_enumerable("the state graph", "use metrics that sample")
        n, h = self._ndim, self._height
        index = torch.arange(h**n)
        place = h ** torch.arange(n - 1, -1, -1)
        states = index[:, None] // place % h
        children = torch.where(states < h - 1, index[:, None] + place, -1).int()  # half the memory
        order = states.sum(1)
        levels = torch.argsort(order, stable=True).split(torch.bincount(order).tolist())
        return StateGraph(states, children, torch.ones(len(index), dtype=torch.bool), tuple(levels))
