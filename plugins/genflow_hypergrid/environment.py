"""The hypergrid: n counters from 0 to h-1; each action increments one, or exits.

Shapes: n dimensions, h positions each, S = h**n states in row-major order (torchgfn's), s = n*h one-hot
inputs.
"""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genflow import Environment, Expert, GenflowError, Schema, StateGraph

from . import rewards
from .expert import n_sorted, sorted_expert, sorted_graph
from .features import position_features

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor

#: the paper's structures: name -> (height, ndim); its s is n*h and its d is sqrt(s) in all twelve
PAPER = {
    "A": (16, 4), "B": (6, 6), "C": (5, 5), "D": (9, 4),
    "A*": (3, 3), "B*": (4, 4), "C*": (12, 3), "D*": (7, 7), "E*": (2, 2), "F*": (8, 2), "G*": (27, 3), "H*": (25, 4),
}  # fmt: skip
DEFAULT_WIDTH = 128
#: sorted states up to which the optimal policy is computed
MAX_SORTED = 2_500_000
#: dimensions up to which torchgfn's sparse reward, which lists all their permutations, fits into memory
MAX_SPARSE = 9
#: smallest share of the reward that the condition tells from none
MIN_SHARE = 1e-6
#: rewards, of which float32 holds the sums and the ratios
MIN_REWARD, MAX_REWARD = 1e-18, 1e18


def _presets() -> dict[str, dict[str, int]]:
    presets = {}
    for name, (height, ndim) in PAPER.items():
        presets[name] = {"ndim": ndim, "height": height, "width": DEFAULT_WIDTH}
        presets[f"{name}:paper"] = presets[name] | {"width": round((ndim * height) ** 0.5)}
    return presets


class Hypergrid(Environment):
    """torchgfn's HyperGrid with an exact reward, exact flows and exact terminal distributions."""

    presets = _presets()
    default_structures = ("A", "B", "C", "D")
    pretrained = ("genflow_hypergrid:pretrained/default", "genflow_hypergrid:pretrained/narrow")

    class Config(Schema):
        """The grid and its reward.

        `reward` is "original" (positions x/(H-1)), "paper" (x/H, as the paper prints it) or one of torchgfn's
        others; `outer` and `band` bound |x/(H-1) - 0.5| for R1 and R2.
        """

        ndim: int = Field(ge=1, le=64)
        height: int = Field(ge=2, le=1024)
        reward: Literal[
            "original",
            "paper",
            "cosine",
            "sparse",
            "deceptive",
            "bitwise_xor",
            "multiplicative_coprime",
            "conditional_multiscale",
        ] = "original"
        R0: float = Field(default=0.1, gt=MIN_REWARD, le=MAX_REWARD)
        R1: float = Field(default=0.5, ge=0, le=MAX_REWARD)
        R2: float = Field(default=2.0, ge=0, le=MAX_REWARD)
        outer: float = Field(default=0.25, ge=0, le=0.5)
        band: tuple[float, float] = (0.3, 0.4)

        @model_validator(mode="before")
        @classmethod
        def _band_as_text(cls, values: dict) -> dict:
            band = values.get("band")
            if isinstance(band, str):
                values = values | {
                    "band": tuple(band.strip("()[] ").replace("+", ",").split(","))
                }  # "+" as in a structure's name
            return values

        @model_validator(mode="after")
        def _band_in_order(self) -> Hypergrid.Config:
            if not 0 <= self.band[0] < self.band[1] <= 1:
                raise ValueError(f"band must be two increasing numbers in [0, 1], not {self.band}")
            return self

    @property
    def n_states(self) -> int:
        """h**n."""
        return self.config.height**self.config.ndim

    @cached_property
    def _indicators(self) -> tuple[Tensor, Tensor]:
        c = self.config
        return rewards.indicators(c.height, c.reward, c.outer, c.band)

    def make(self, device: str | torch.device = "cpu") -> tuple[DiscreteEnv, Preprocessor]:
        """A torchgfn HyperGrid whose reward is ours, and its row-major (dimension, position) one-hot preprocessor.

        Raises:
            GenflowError: torchgfn's reward does not fit this grid, e.g. "conditional_multiscale" needs height
                16, 64, 256 or 1024.
        """
        if self.config.reward == "sparse" and self.config.ndim > MAX_SPARSE:
            raise GenflowError(
                f"torchgfn's reward 'sparse' needs ndim of at most {MAX_SPARSE}, not {self.config.ndim}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from gfn.preprocessors import KHotPreprocessor

            from .grid import ExactHyperGrid

        try:
            env = ExactHyperGrid(self.config, device)
        except (AssertionError, ValueError) as error:
            raise GenflowError(
                f"torchgfn's reward {self.config.reward!r} does not fit this grid: {error}"
            ) from error
        preprocessor = KHotPreprocessor(self.config.height, self.config.ndim)
        preprocessor.target_dtype = (
            torch.get_default_dtype()
        )  # its one-hots are integers, which no linear layer takes
        return env, preprocessor

    def condition(self) -> dict[str, float]:
        """s, h, n of c = [s, h, n, d], then the reward: R0, R1, R2, how many positions of a dimension are outer and in the band,
        and the share of each term in the total reward.
        """
        c = self.config
        condition = {"state_dim": float(c.ndim * c.height), "height": float(c.height), "ndim": float(c.ndim)}
        condition |= {"R0": c.R0, "R1": c.R1, "R2": c.R2}
        positions, shares = [0.0, 0.0], [0.0, 0.0, 0.0]  # torchgfn's rewards do not have these terms
        if c.reward in rewards.EXACT_REWARDS:
            positions = [float(indicator.sum()) for indicator in self._indicators]
            masses, total = self._log_masses(), self.log_partition()
            shares = [max(math.exp(mass - total), MIN_SHARE) for mass in masses]
        condition |= dict(zip(("outer", "band"), positions, strict=True))
        return condition | dict(zip(("background_share", "outer_share", "band_share"), shares, strict=True))

    def _log_masses(self) -> list[float]:
        """Log of the total reward that each of the three terms pays."""
        c = self.config
        sides = (c.height, *(int(indicator.sum()) for indicator in self._indicators))
        return [
            math.log(r) + c.ndim * math.log(side) if r * side else -math.inf
            for r, side in zip((c.R0, c.R1, c.R2), sides, strict=True)
        ]

    def log_partition(self) -> float:
        """Log of the sum of rewards, in closed form where the reward is ours: R0 h^n + R1 outer^n + R2 band^n."""
        if self.config.reward not in rewards.EXACT_REWARDS:
            return super().log_partition()
        return float(torch.tensor(self._log_masses(), dtype=torch.float64).logsumexp(0))

    def input_coordinates(self) -> Tensor:
        """(n*h, 4): dimension i, u = k/(h-1), in the outer region, in the band.

        The last two are 0 for torchgfn's rewards.
        """
        n, h = self.config.ndim, self.config.height
        dimension = torch.arange(n).repeat_interleave(h)
        position = torch.linspace(0, 1, h).repeat(n)
        if self.config.reward in rewards.EXACT_REWARDS:
            outer, band = (indicator.float().repeat(n) for indicator in self._indicators)
        else:
            outer = band = torch.zeros(n * h)
        return torch.stack([dimension.float(), position, outer, band], dim=1)

    def features(self) -> dict[str, Tensor]:
        """Inputs: the dimension, as a name, and `position_features`, for our own rewards; torchgfn's have only coordinates."""
        if self.config.reward not in rewards.EXACT_REWARDS:
            return {}
        n, h = self.config.ndim, self.config.height
        dimension = torch.arange(n).repeat_interleave(h).float()
        return {
            "input": torch.cat([dimension[:, None], position_features(*self._indicators).repeat(n, 1)], dim=1)
        }

    def action_coordinates(self) -> Tensor:
        """(n+1, 2): the dimension that is incremented (-1 for exit), is exit."""
        n = self.config.ndim
        return torch.stack([torch.tensor([*range(n), -1.0]), torch.tensor([0.0] * n + [1.0])], dim=1)

    @cached_property
    def n_actions(self) -> int:
        """n + 1."""
        return self.config.ndim + 1

    def start(self, device: torch.device) -> Tensor:
        """(n,) zeros."""
        return torch.zeros(self.config.ndim, dtype=torch.long, device=device)

    def forward_masks(self, states: Tensor) -> Tensor:
        """(..., n) -> (..., n+1): every dimension that is not at the top, and exit."""
        masks = torch.ones(*states.shape[:-1], self.n_actions, dtype=torch.bool, device=states.device)
        torch.lt(states, self.config.height - 1, out=masks[..., :-1])
        return masks

    def n_parents(self, states: Tensor) -> Tensor:
        """(..., n) -> (...) dimensions that are not at 0."""
        return (states > 0).sum(-1)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """(..., n), (...) -> (..., n)."""
        return states + self._tables(states.device)[0][actions]

    def indices(self, states: Tensor) -> Tensor | None:
        """(..., n) -> (...) row-major number of the state, where it fits 64 bits."""
        return (states * self._tables(states.device)[1]).sum(-1) if self.n_states < 2**63 else None

    def inputs(self, states: Tensor) -> Tensor:
        """(B, n) positions -> (B, n*h) one-hot, built in place: the preprocessor's int64 detour costs most of an evaluation."""
        n, h = self.config.ndim, self.config.height
        return torch.zeros(len(states), n * h, device=states.device).scatter_(1, self.active(states), 1.0)

    def active(self, states: Tensor) -> Tensor:
        """(..., n) -> (..., n) int64: the input of each dimension that is 1."""
        return states + self._tables(states.device)[2]

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """What each action adds to a state (n+1, n); the row-major weight of each dimension (n,), and its first input (n,)."""
        kept = self.__dict__.setdefault("_kept_tables", {})
        if device not in kept:
            n, h = self.config.ndim, self.config.height
            weights = [h**i if self.n_states < 2**63 else 0 for i in reversed(range(n))]
            tables = torch.eye(n + 1, n, dtype=torch.long), torch.tensor(weights), h * torch.arange(n)
            kept[device] = tuple(table.to(device) for table in tables)
        return kept[device]

    def log_reward(self, states: Tensor) -> Tensor:
        """(B, n) -> (B,) float64."""
        if self.config.reward not in rewards.EXACT_REWARDS:
            return super().log_reward(states)
        outer, band = self._indicators
        c = self.config
        return rewards.log_reward(states, outer.to(states.device), band.to(states.device), c.R0, c.R1, c.R2)

    def is_mode(self, states: Tensor) -> Tensor | None:
        """(B, n) -> (B,) whether a cell has the largest reward of the grid; None for torchgfn's rewards."""
        if self.config.reward not in rewards.EXACT_REWARDS:
            return None
        # wherever all positions are in a region, so is the diagonal cell of each of them
        diagonal = torch.arange(self.config.height)[:, None].expand(-1, self.config.ndim)
        return self.log_reward(states) == self.log_reward(diagonal).max()

    def require_expert(self) -> None:
        """Refuse a grid with too many sorted states, or any other reward than ours with too many states."""
        n, h = self.config.ndim, self.config.height
        if self.config.reward not in rewards.EXACT_REWARDS:
            super().require_expert()
        elif n_sorted(n, h) > MAX_SORTED or self.n_states >= 2**63:  # a state's number must fit 64 bits
            raise GenflowError(
                f"the optimal policy of ndim={n}, height={h} needs {n_sorted(n, h):,} sorted states of {self.n_states:.3g} (the limits"
                f" are {MAX_SORTED:,} and 9e18); use a balance objective, e.g. zoo.objective=tb"
            )

    @cached_property
    def expert(self) -> Expert:
        """From sorted states, which reaches far beyond what can be enumerated."""
        if self.config.reward not in rewards.EXACT_REWARDS:
            return Environment.expert.func(self)
        self.require_expert()
        graph = sorted_graph(self.config.ndim, self.config.height)
        return sorted_expert(self.config.ndim, self.config.height, self.log_reward(graph.states), graph)

    @cached_property
    def graph(self) -> StateGraph:
        """All h**n states by index arithmetic; the level of a state is the sum of its positions."""
        self.require_enumerable("the state graph", "use metrics that sample")
        n, h = self.config.ndim, self.config.height
        index = torch.arange(h**n)
        place = h ** torch.arange(n - 1, -1, -1)
        states = index[:, None] // place % h
        children = torch.where(states < h - 1, index[:, None] + place, -1).int()  # half the memory
        order = states.sum(1)
        levels = torch.argsort(order, stable=True).split(torch.bincount(order).tolist())
        return StateGraph(states, children, torch.ones(len(index), dtype=torch.bool), tuple(levels))
