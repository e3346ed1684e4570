"""Exact flows of separable rewards at any state of a grid of any size, under the maximum-entropy P_B.

Going back from x undoes its |x| increments in random order, P_B(i | x) = x_i / |x|, so that all trajectories
to an object are equally likely (Mohammadpour et al., "Maximum entropy GFlowNets with soft Q-learning", 2024).
With increments at independent uniform times, those before time p are a draw of Binomial(x_i, p) in each
dimension, and a Beta integral turns the chance to pass a state into one over p:

    F(s -> s + e_i) = (s_i + 1) int_0^1 sum_k c_k g_ki(s_i + 1, p) prod_{j != i} g_kj(s_j, p) dp / p,
    g_ki(s, p) = sum_x f_ki(x) C(x, s) p^s (1 - p)^(x - s),    F(s) = R(s) + sum_i F(s -> s + e_i)

(docs/separable.md). The integrand is a polynomial in p, which Gauss-Legendre nodes integrate.

Shapes: n dimensions, h_i positions of dimension i, K terms, Q nodes, B states (B, n), A = n + 1 actions.
"""

from __future__ import annotations

import math
from functools import cache, cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from genflow import Expert, GenflowError

from .separable import SeparableTarget

#: the most numbers of a table over states, terms and nodes at once, and of one over positions and nodes
MAX_NUMBERS, MAX_TABLE = 2**21, 2**27
#: tables of binomial probabilities that are kept
MAX_TABLES = 512


@cache
def _nodes(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights (Q,) float64 of an integral from 0 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def n_nodes(heights: tuple[int, ...]) -> int:
    """How many nodes are as exact as float64.

    Half the polynomial's degree are exact. Fewer do on tall grids: in the angle of which p is the squared
    sine, the nodes lie evenly and integrands are peaks of a width of at least .5 / sqrt(|x|), amid nodes
    that lie closer; a test holds them to the exact number.
    """
    longest = sum(heights) - len(heights)
    enough = 16 * math.ceil((3 * longest**0.5 + 16) / 16)  # rounded, so that grids share tables
    return min(longest // 2 + 1, enough)


def require_tables(heights: tuple[int, ...]) -> None:
    """Refuse a grid whose tables do not fit into memory.

    Raises:
        GenflowError: says what is too large.
    """
    numbers = sum(height * (height + 1) for height in set(heights)) * n_nodes(heights)
    if numbers > MAX_TABLE:
        raise GenflowError(
            f"the flows of ndim={len(heights)} with {max(heights)} positions need tables of {numbers:.2g}"
            f" numbers (the limit is {MAX_TABLE:.2g}); use a smaller grid, or a balance objective, e.g."
            " zoo.objective=tb"
        )


@lru_cache(maxsize=MAX_TABLES)
def binomials(height: int, times: tuple[float, ...]) -> Tensor:
    """Binomial probabilities of s of x increments by each time p, (x, s, P) = (h, h + 1, P) float64."""
    p = torch.tensor(times, dtype=torch.float64)
    x = torch.arange(height, dtype=torch.float64)[:, None, None]
    s = torch.arange(height + 1, dtype=torch.float64)[None, :, None]
    ways = torch.lgamma(x + 1) - torch.lgamma(s + 1) - torch.lgamma((x - s).clamp(min=0) + 1)
    return (ways + s * p.log() + (x - s) * (-p).log1p()).exp().masked_fill(s > x, 0.0)


class MaxentFlows:
    """The flows of a separable target."""

    def __init__(self, target: SeparableTarget) -> None:
        """Tabulate g of each dimension; takes milliseconds.

        Raises:
            GenflowError: see `require_tables`.
        """
        self.target = target
        heights = target.heights
        require_tables(heights)
        self._height = torch.tensor(heights)
        count = n_nodes(heights)
        p, weight = _nodes(count)
        terms, times = len(target.signs), tuple(p.tolist())
        # of each dimension, rows s of K * Q numbers: log g(s), and g(s + 1) / g(s)
        self._tables: list[tuple[Tensor, Tensor]] = []
        known: dict[bytes, tuple[Tensor, Tensor]] = {}  # of dimensions that are alike
        for height, profile in zip(heights, target.profiles, strict=True):
            key = profile.numpy().tobytes()
            if key not in known:
                g = torch.einsum("kx,xsq->skq", profile, binomials(height, times)).flatten(1)
                # where nothing is ahead of s there is nothing ahead of s + 1
                known[key] = g.log()[:-1], torch.where(g[:-1] > 0, g[1:] / g[:-1], 0.0)
            self._tables.append(known[key])
        self._start = (target.log_scale[:, None] + (weight / p).log()).flatten()
        self._sign = target.signs[:, None].expand(terms, count).flatten()

    def at(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The exact flows of states.

        Args:
            states: (B, n), on the CPU.

        Returns:
            log F (B,) and the optimal policy P_F (B, A), float64; exit is the last action.
        """
        step = max(1, MAX_NUMBERS // len(self._start))
        parts = [self._at(part) for part in states.split(step)]
        flows, policies = zip(*parts, strict=True)
        return torch.cat(flows), torch.cat(policies)

    def _at(self, states: Tensor) -> tuple[Tensor, Tensor]:
        total = self._start.expand(len(states), -1).clone()
        for i, (log_g, _) in enumerate(self._tables):
            total += log_g[states[:, i]]
        top = total.amax(1, keepdim=True).clamp(min=-1e300)
        inside = (total - top).exp_().mul_(self._sign)
        flows = [
            (inside * ratio[states[:, i]]).sum(1) * (states[:, i] + 1)
            for i, (_, ratio) in enumerate(self._tables)
        ]
        log_reward = self.target.log_reward(states)
        # relative to the larger of both, so that neither overflows
        base = torch.maximum(log_reward, top[:, 0])
        onwards = torch.stack(flows, dim=1).clamp(min=0) * (top[:, 0] - base).exp()[:, None]
        every = torch.cat([onwards, (log_reward - base).exp()[:, None]], dim=1)
        every[:, :-1][states == self._height - 1] = 0.0
        sums = every.sum(1)
        return sums.log() + base, every / sums[:, None]

    def draw_visited(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw states (num, n) as often as trajectories of the optimal policy visit them.

        An object is drawn in proportion to R(x) (|x| + 1), and one of the |x| + 1 states on the way to it:
        each increment has happened by a time p, which is drawn uniformly, so that all levels are equally
        likely.
        """
        objects = self.target.draw(num, rng, by_length=True)
        p = torch.rand(num, 1, generator=rng, dtype=torch.float64)
        return torch.binomial(objects.double(), p.expand(objects.shape).contiguous(), generator=rng).long()


class MaxentExpert(Expert):
    """The optimal policy of a separable target at freshly drawn states, with nothing enumerated."""

    def __init__(self, flows: MaxentFlows) -> None:
        """Take the flows."""
        self._flows = flows
        self.length = flows.target.length

    @cached_property
    def _heights(self) -> Tensor:
        return torch.tensor(self._flows.target.heights)

    def draw(
        self, num: int, uniform: float, rng: torch.Generator, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw states and the optimal policy in each, see `Expert.draw`."""
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        own = torch.Generator().manual_seed(seed)
        split = num - round(uniform * num)
        anywhere = torch.rand(num - split, len(self._heights), generator=own, dtype=torch.float64)
        states = torch.cat([self._flows.draw_visited(split, own), (anywhere * self._heights).long()])
        _, policy = self._flows.at(states)
        masks = torch.ones(num, len(self._heights) + 1, dtype=torch.bool)
        masks[:, :-1] = states < self._heights - 1
        return states.to(device), masks.to(device), policy.float().to(device)
