"""The hypergrid: n counters from 0 to h-1, where an action increments one of them or exits.

Shapes: n dimensions, h positions each, s = n*h one-hot inputs, n+1 actions.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch

from genflow import Environment, Schema, UnitDescriptions, Units, reward_name, size

from .features import position_features
from .gallery import Positions
from .rewards import ProductReward, TorchgfnReward
from .solution import GridSolution
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
    pretrained = ("genflow_hypergrid:pretrained/default", "genflow_hypergrid:pretrained/narrow")
    reward: Reward

    class Config(Schema):
        """The size of the grid and the name of its reward."""

        ndim: int = size(ge=1, le=64, description="The number of dimensions.")
        height: int = size(ge=2, le=1024, description="The number of positions of each dimension.")
        reward: str = reward_name("original", description="The registered name of the reward.")

    def make(self, device: str | torch.device = "cpu") -> tuple[DiscreteEnv, Preprocessor]:
        """Make a torchgfn HyperGrid with this reward, and its one-hot preprocessor.

        Inputs are row-major: (dimension, position).

        Raises:
            GenflowError: torchgfn's reward does not fit this grid.
        """
        if isinstance(self.reward, TorchgfnReward):
            self.reward.check()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from gfn.preprocessors import KHotPreprocessor

            from .grid import RewardedHyperGrid

        n, h = self.config.ndim, self.config.height
        # not `self.transitions`: a subclass may leave its transitions to torchgfn, which asks this
        # environment
        log_reward = Hypergrid.transitions(self, torch.device(device)).log_reward
        env = RewardedHyperGrid(n, h, log_reward, device)
        preprocessor = KHotPreprocessor(h, n)
        # its one-hots are integers, which no linear layer takes
        preprocessor.target_dtype = torch.get_default_dtype()
        return env, preprocessor

    def condition(self) -> dict[str, float]:
        """The condition of the networks: s, h and n of the paper's c = [s, h, n, d], then the reward.

        The reward is told by R0, R1 and R2, by how many positions of a dimension are in the outer region and
        in the band, and by the fraction of the total reward that each of the three terms pays. All are 0 for
        rewards that do not have these terms.
        """
        n, h = self.config.ndim, self.config.height
        condition = {"state_dim": float(n * h), "height": float(h), "ndim": float(n)}
        values = self.reward.config.model_dump()
        condition |= {key: float(values.get(key, 0.0)) for key in ("R0", "R1", "R2")}
        positions, shares = [0.0, 0.0], [0.0, 0.0, 0.0]
        if isinstance(self.reward, ProductReward):
            positions = [float(region.sum()) for region in self.reward.regions]
            masses = torch.tensor(self.reward.log_masses(), dtype=torch.float64)
            total = float(masses.logsumexp(0))
            shares = [max(math.exp(float(mass) - total), MIN_SHARE) for mass in masses]
        condition |= dict(zip(("outer", "band"), positions, strict=True))
        return condition | dict(zip(("background_share", "outer_share", "band_share"), shares, strict=True))

    def units(self) -> Units:
        """Describe the policy's inputs and actions, so that a network can make weights from their meaning.

        An input stands for a position of a dimension. It has the dimension as a category, and the features of
        the position (see `features.py`) as amounts. An action has the dimension that it increments as a
        category, -1 for exit, and whether it is exit as its amount. For n dimensions of h positions there are
        n*h inputs, in the order of the one-hot preprocessor, and n+1 actions.
        """
        n, h = self.config.ndim, self.config.height
        dimension = torch.arange(n).repeat_interleave(h)
        position = torch.linspace(0, 1, h, dtype=torch.float32).repeat(n)
        outer = band = torch.zeros(n * h)
        amounts = torch.stack([position, outer, band], dim=1)
        if isinstance(self.reward, ProductReward):
            outer, band = (region.float().repeat(n) for region in self.reward.regions)
            amounts = position_features(*self.reward.regions).repeat(n, 1)
        places = torch.stack([dimension.float(), position, outer, band], dim=1)
        inputs = UnitDescriptions(amounts, {"dimension": dimension}, places)
        # exit increments no dimension
        incremented = torch.tensor([*range(n), -1])
        leave = torch.tensor([0.0] * n + [1.0])[:, None]
        actions = UnitDescriptions(
            leave, {"dimension": incremented}, torch.cat([incremented.float()[:, None], leave], dim=1)
        )
        return Units(inputs, actions)

    def transitions(self, device: torch.device) -> GridTransitions:
        """The transitions by index arithmetic."""
        return GridTransitions(self.make, device, self.config.ndim, self.config.height, self.reward)

    def exact_solution(self, transitions: Transitions) -> GridSolution:
        """The exact solution by index arithmetic, and by symmetry where the reward has one."""
        assert isinstance(transitions, GridTransitions)
        return GridSolution(transitions, self.config.ndim, self.config.height)

    def gallery(self, transitions: Transitions) -> Positions:
        """Positions, named by their coordinates."""
        return Positions(transitions, self.config.height)
