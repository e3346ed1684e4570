"""The hypergrid: n counters from 0 to h-1, where an action increments one of them or exits.

Shapes: n dimensions, h_i positions of dimension i, s = h_1 + .. + h_n one-hot inputs, n+1 actions.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genflow import (
    BackwardPolicy,
    Environment,
    Rehearsal,
    Schema,
    UnitDescriptions,
    Units,
    fixed,
    reward_name,
    size,
)

from .features import position_features
from .gallery import Positions
from .maxent import MaxentExpert, MaxentFlows
from .profiles import MAX_TOLD, action_amounts, position_amounts
from .rehearsals import random_target
from .rewards import ProductReward, SeparableReward
from .solution import GridSolution
from .torchgfn_rewards import TorchgfnReward
from .transitions import GridTransitions

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor

    from genflow import Reward, Transitions

#: the paper's structures: name -> (height, ndim); its s is n*h and its d is sqrt(s) in all twelve
PAPER = {
    "A": (16, 4), "B": (6, 6), "C": (5, 5), "D": (9, 4),
    "A*": (3, 3), "B*": (4, 4), "C*": (12, 3), "D*": (7, 7), "E*": (2, 2), "F*": (8, 2), "G*": (27, 3),
    "H*": (25, 4),
}  # fmt: skip
DEFAULT_WIDTH = 128
Height = Annotated[int, Field(ge=2, le=1024)]
#: smallest fraction of the reward that the condition tells apart from 0
MIN_SHARE = 1e-6


def _presets() -> dict[str, dict[str, int]]:
    presets = {}
    for name, (height, ndim) in PAPER.items():
        presets[name] = {"ndim": ndim, "height": height, "width": DEFAULT_WIDTH}
        presets[f"{name}:paper"] = presets[name] | {"width": round((ndim * height) ** 0.5)}
    return presets


class Hypergrid(Environment):
    """torchgfn's HyperGrid with any reward of positions."""

    presets = _presets()
    default_structures = ("A", "B", "C", "D")
    pretrained = (
        "genflow_hypergrid:pretrained/default",
        "genflow_hypergrid:pretrained/narrow",
        "genflow_hypergrid:pretrained/separable",
    )
    reward_template = "genflow_hypergrid:reward_template"
    reward: Reward

    class Config(Schema):
        """The size of the grid, the name of its reward and of its backward policy."""

        ndim: int = size(ge=1, le=64, description="The number of dimensions.")
        height: Height | tuple[Height, ...] = size(
            description="The number of positions of each dimension, or of one after the other, as in 8+12+5."
        )
        reward: str = reward_name("original", role="told", description="The registered name of the reward.")
        backward: BackwardPolicy | None = fixed(
            None,
            added=True,
            description="The backward policy: uniform over the parents of a state, as torchgfn's, or maxent,"
            " under which all trajectories to a state are equally likely. Left open, training from scratch"
            " takes uniform, and a generator its own.",
        )

        @model_validator(mode="before")
        @classmethod
        def _counted(cls, values: Any) -> Any:
            """The heights say how many dimensions there are, and alike ones are one number."""
            height = values.get("height") if isinstance(values, dict) else None
            if isinstance(height, list | tuple) and height:
                one = height[0] if all(each == height[0] for each in height) else height
                values = {"ndim": len(height), **values}
                if values["ndim"] == len(height):
                    values["height"] = one
            return values

        @model_validator(mode="after")
        def _a_height_for_each(self) -> Hypergrid.Config:
            if isinstance(self.height, tuple) and len(self.height) != self.ndim:
                raise ValueError(
                    f"height has {len(self.height)} numbers for ndim={self.ndim}; give one or {self.ndim}"
                )
            return self

        @property
        def heights(self) -> tuple[int, ...]:
            """The number of positions of each dimension."""
            return self.height if isinstance(self.height, tuple) else (self.height,) * self.ndim

    @property
    def backward(self) -> BackwardPolicy:
        """The backward policy of the task, uniform where it is left open."""
        return self.config.backward or "uniform"

    def make(self, device: str | torch.device = "cpu") -> tuple[DiscreteEnv, Preprocessor]:
        """Make a torchgfn HyperGrid with this reward, and its one-hot preprocessor.

        Inputs are row-major: (dimension, position).

        Raises:
            GenflowError: the reward does not fit this grid.
        """
        if isinstance(self.reward, TorchgfnReward | SeparableReward):
            self.reward.check()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from gfn.preprocessors import KHotPreprocessor

            from .grid import OneHotPositions, RewardedHyperGrid

        heights = self.config.heights
        # not `self.transitions`: a subclass may leave its transitions to torchgfn, which asks this
        # environment
        log_reward = Hypergrid.transitions(self, torch.device(device)).log_reward
        env = RewardedHyperGrid(heights, log_reward, device)
        if len(set(heights)) > 1:
            return env, OneHotPositions(heights)
        preprocessor = KHotPreprocessor(heights[0], len(heights))
        # its one-hots are integers, which no linear layer takes
        preprocessor.target_dtype = torch.get_default_dtype()
        return env, preprocessor

    def condition(self) -> dict[str, float]:
        """The condition of the networks: s, h and n of the paper's c = [s, h, n, d], then the reward.

        Under the maximum-entropy backward policy the units tell the reward, and the condition has 0 for it.

        The reward is told by R0, R1 and R2, by how many positions of a dimension are in the outer region and
        in the band, and by the fraction of the total reward that each of the three terms pays. All are 0 for
        rewards that do not have these terms.
        """
        heights = self.config.heights
        n, inputs = len(heights), sum(heights)
        condition = {"state_dim": float(inputs), "height": inputs / n, "ndim": float(n)}
        reward: dict[str, float] = dict.fromkeys(
            ("R0", "R1", "R2", "outer", "band", "background_share", "outer_share", "band_share"), 0.0
        )
        if self.backward == "maxent":
            return condition | reward
        values = self.reward.config.model_dump()
        reward |= {key: float(values[key]) for key in ("R0", "R1", "R2") if key in values}
        if isinstance(self.reward, ProductReward):
            for k, key in enumerate(("outer", "band")):
                reward[key] = sum(float(regions[k].sum()) for regions in self.reward.regions) / n
            for key, share in zip(("background", "outer", "band"), self.reward.shares(), strict=True):
                reward[f"{key}_share"] = max(share, MIN_SHARE)
        return condition | reward

    def units(self) -> Units:
        """Describe the policy's inputs and actions, so that a network can make weights from their meaning.

        An input stands for a position of a dimension. It has the dimension as a category, and the features of
        the position (see `features.py`) as amounts. An action has the dimension that it increments as a
        category, -1 for exit, and whether it is exit as its amount. For n dimensions of h positions there are
        n*h inputs, in the order of the one-hot preprocessor, and n+1 actions.
        """
        if self.backward == "maxent" and isinstance(self.reward, SeparableReward):
            target = self.reward.target
            return self._units(position_amounts(target), action_amounts(target))
        heights = torch.tensor(self.config.heights)
        n = len(heights)
        position = torch.cat([torch.linspace(0, 1, h, dtype=torch.float32) for h in heights.tolist()])
        outer = band = torch.zeros(len(position))
        amounts = torch.stack([position, outer, band], dim=1)
        if isinstance(self.reward, ProductReward):
            outer, band = (torch.cat(region).float() for region in zip(*self.reward.regions, strict=True))
            amounts = torch.cat([position_features(*regions) for regions in self.reward.regions])
        return self._units(amounts, torch.tensor([0.0] * n + [1.0])[:, None], outer, band)

    def _units(self, inputs: Tensor, actions: Tensor, *regions: Tensor) -> Units:
        """Units of amounts, with the dimension as their category; regions (s,) are among the coordinates."""
        heights = torch.tensor(self.config.heights)
        n = len(heights)
        dimension = torch.arange(n).repeat_interleave(heights)
        position = torch.cat([torch.linspace(0, 1, h, dtype=torch.float32) for h in heights.tolist()])
        places = torch.stack([dimension.float(), position, *regions], dim=1)
        # exit increments no dimension
        incremented, leave = torch.tensor([*range(n), -1]), torch.tensor([0.0] * n + [1.0])
        return Units(
            UnitDescriptions(inputs, {"dimension": dimension}, places),
            UnitDescriptions(
                actions, {"dimension": incremented}, torch.stack([incremented.float(), leave], dim=1)
            ),
        )

    def untold(self) -> str | None:
        """Why units do not tell the reward: they do under "maxent", if it is separable."""
        if self.backward != "maxent":
            return "is told under backward=maxent alone"
        if not isinstance(self.reward, SeparableReward):
            return "is no sum of products over the dimensions"
        count = len(self.reward.target.signs)
        return None if count <= MAX_TOLD else f"has {count} terms, of which {MAX_TOLD} can be told"

    def rehearse(self, rng: torch.Generator) -> Rehearsal | None:
        """Make up a separable reward, under the maximum-entropy backward policy."""
        if self.backward != "maxent":
            return None
        target = random_target(self.config.heights, rng)
        expert = MaxentExpert(MaxentFlows(target))
        return Rehearsal(position_amounts(target), action_amounts(target), expert)

    def transitions(self, device: torch.device) -> GridTransitions:
        """The transitions by index arithmetic."""
        return GridTransitions(self.make, device, self.config.heights, self.reward)

    def exact_solution(self, transitions: Transitions) -> GridSolution:
        """The exact solution by index arithmetic, by symmetry, or by sums of products."""
        assert isinstance(transitions, GridTransitions)
        return GridSolution(transitions)

    def gallery(self, transitions: Transitions) -> Positions:
        """Positions, named by their coordinates."""
        return Positions(transitions, self.config.heights)
