"""The exact solution of a hypergrid: all states by index arithmetic, and the optimal policy by symmetry or by
sums of products.

Shapes: n dimensions, h_i positions of dimension i, S = h_1 .. h_n states in row-major order (torchgfn's).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genflow import ExactSolution, Expert, GenflowError, StateGraph

from .expert import n_sorted, sorted_expert, sorted_graph
from .maxent import MaxentExpert, MaxentFlows, require_tables
from .rewards import ProductReward, SeparableReward
from .separable import SeparableTarget
from .transitions import GridTransitions

#: sorted states up to which the optimal policy is computed
MAX_SORTED = 2_500_000
#: states up to which a table of all is faster than flows of those that are drawn
MAX_TABLE = 20_000


class GridSolution(ExactSolution):
    """The exact solution of a grid, by enumeration, by symmetry, or in closed form.

    The optimal policy of grids too large to enumerate is known in two cases: of a reward that does not tell
    dimensions apart under the uniform backward policy, and of any separable reward under the maximum-entropy
    one.
    """

    def __init__(self, transitions: GridTransitions) -> None:
        super().__init__(transitions, math.prod(transitions.heights))
        self._heights, self._reward = transitions.heights, transitions.reward

    @property
    def _target(self) -> SeparableTarget | None:
        """The target as sums of products, where the reward is one."""
        return self._reward.target if isinstance(self._reward, SeparableReward) else None

    @property
    def _symmetric(self) -> bool:
        """Whether swapping dimensions changes nothing."""
        return isinstance(self._reward, ProductReward) and len(set(self._heights)) == 1

    @property
    def knows_log_partition(self) -> bool:
        """Always for separable rewards."""
        return self._target is not None or super().knows_log_partition

    def log_partition(self) -> float:
        """The logarithm of the sum of all rewards, of separable ones in closed form."""
        return super().log_partition() if self._target is None else self._target.log_z

    @property
    def can_draw(self) -> bool:
        """Always for separable rewards."""
        return self._target is not None or super().can_draw

    def draw(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw terminal states (num, n) of the target."""
        return super().draw(num, rng) if self._target is None else self._target.draw(num, rng)

    def require_expert(self) -> None:
        """Refuse a grid whose optimal policy is not known."""
        if self.transitions.backward == "maxent":
            if self._target is None and not self.enumerable:
                raise GenflowError(
                    f"the optimal policy of {self.n_states:.3g} states needs a reward that is a sum of"
                    " products over the dimensions; use reward=separable, or a balance objective, e.g."
                    " zoo.objective=tb"
                )
            if self._target is not None and self.n_states > MAX_TABLE:
                require_tables(self._heights)
        elif not self._symmetric:
            super().require_expert()
        elif self._n_sorted > MAX_SORTED or self.n_states >= 2**63:  # a state's number must fit 64 bits
            n, h = len(self._heights), self._heights[0]
            raise GenflowError(
                f"the optimal policy of ndim={n}, height={h} needs {self._n_sorted:,} sorted states of"
                f" {self.n_states:.3g} (the limits are {MAX_SORTED:,} and 9e18); use backward=maxent, which"
                " needs none, or use a balance objective, e.g. zoo.objective=tb"
            )

    @property
    def _n_sorted(self) -> int:
        return n_sorted(len(self._heights), self._heights[0])

    def _expert(self) -> Expert:
        self.require_expert()
        if self.transitions.backward == "maxent":
            if self._target is None or self.n_states <= MAX_TABLE:
                return super()._expert()
            return MaxentExpert(MaxentFlows(self._target))
        if not self._symmetric:
            return super()._expert()
        n, h = len(self._heights), self._heights[0]
        graph = sorted_graph(n, h)
        return sorted_expert(n, h, self.transitions.log_reward(graph.states), graph)

    def _enumerate(self) -> StateGraph:
        """List all states; the level of a state is the sum of its positions."""
        self.require_enumerable("the state graph", "use metrics that sample")
        heights = torch.tensor(self._heights)
        index = torch.arange(self.n_states)
        place = torch.cat([heights.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.long)])
        states = index[:, None] // place % heights
        children = torch.where(states < heights - 1, index[:, None] + place, -1).int()  # half the memory
        order = states.sum(1)
        levels = torch.argsort(order, stable=True).split(torch.bincount(order).tolist())
        return StateGraph(states, children, torch.ones(len(index), dtype=torch.bool), tuple(levels))
