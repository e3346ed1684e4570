"""Rewards of the hypergrid that are sums of products over dimensions, and the product rewards of the field.

The product rewards of the field, R(x) = R0 + R1 prod_i [outer(x_i)] + R2 prod_i [band(x_i)], need two yes/no
answers a position. They are decided here in exact fractions, so that they are symmetric in x; torchgfn
decides them in float32, where its tolerance of 1e-12 vanishes: at heights 11, 21, 31, 41, 51 and 61 the
boundary position 0.9 (H-1) counts as in the band.

Shapes: B objects, which are positions (B, n) int64; h_i positions of dimension i.
"""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from functools import cached_property

import torch
from pydantic import model_validator
from torch import Tensor

from genflow import GenflowError, Reward, Schema, described

from .separable import SeparableTarget, Term

#: rewards, of which float32 holds the sums and the ratios
MIN_REWARD, MAX_REWARD = 1e-18, 1e18


class SeparableReward(Reward):
    """A reward that is a sum of products over the dimensions, R(x) = sum_k c_k prod_i f_ki(x_i).

    Its total is known in closed form for grids of any size, it can be drawn from exactly, and under the
    maximum-entropy backward policy its optimal policy is known at every state (docs/separable.md).
    """

    environment = "hypergrid"

    @abstractmethod
    def terms(self) -> list[Term]:
        """The terms, for the heights of `self.task`.

        Raises:
            GenflowError: they do not fit this grid.
        """

    @cached_property
    def target(self) -> SeparableTarget:
        """The distribution that it pays for."""
        target = SeparableTarget(self.terms())
        if target.heights != self.task.heights:
            raise GenflowError(
                f"reward={self.task.reward} has profiles of {target.heights} positions on a grid of"
                f" {self.task.heights}"
            )
        return target

    def check(self) -> None:
        """Refuse a grid that the reward does not fit.

        Raises:
            GenflowError: see `terms`.
        """
        _ = self.target

    def score(self, objects: Tensor) -> Tensor:
        """The reward (B,) float64 of positions (B, n)."""
        return self.target.log_reward(objects).exp()


class ProductReward(SeparableReward):
    """A reward of R0 everywhere, R1 more in the outer regions, and R2 more in the band."""

    class Config(Schema):
        """The three terms and the regions, by the distance |x - 0.5| from the middle."""

        R0: float = described(0.1, gt=MIN_REWARD, le=MAX_REWARD, description="What every cell pays.")
        R1: float = described(0.5, ge=0, le=MAX_REWARD, description="What the outer region pays more.")
        R2: float = described(2.0, ge=0, le=MAX_REWARD, description="What the band pays more.")
        outer: float = described(
            0.25, ge=0, le=0.5, description="The distance from the middle from which the outer region begins."
        )
        band: tuple[float, float] = described(
            (0.3, 0.4), description="The two distances from the middle between which the band lies."
        )

        @model_validator(mode="after")
        def _band_in_order(self) -> ProductReward.Config:
            if not 0 <= self.band[0] < self.band[1] <= 1:
                raise ValueError(f"band must be two increasing numbers in [0, 1], not {self.band}")
            return self

    def divisor(self, height: int) -> int:
        """What positions are divided by to lie in [0, 1]."""
        return height - 1

    def regions_of(self, height: int) -> tuple[Tensor, Tensor]:
        """Which positions of a dimension lie in the outer region and in the band: two (h,) bool tensors."""
        distance = [abs(Fraction(k, self.divisor(height)) - Fraction(1, 2)) for k in range(height)]
        # str() gives the decimal that the user wrote, not its binary neighbour
        edge, low, high = (Fraction(str(value)) for value in (self.config.outer, *self.config.band))
        return torch.tensor([a > edge for a in distance]), torch.tensor([low < a < high for a in distance])

    @cached_property
    def regions(self) -> list[tuple[Tensor, Tensor]]:
        """`regions_of` each dimension."""
        return [self.regions_of(height) for height in self.task.heights]

    def terms(self) -> list[Term]:
        """R0, R1 times the outer region and R2 times the band."""
        c = self.config
        outer, band = (tuple(region.double() for region in each) for each in zip(*self.regions, strict=True))
        return [Term(c.R0, tuple(map(torch.ones_like, outer))), Term(c.R1, outer), Term(c.R2, band)]

    def shares(self) -> list[float]:
        """What the background, the outer region and the band pay of all that is paid."""
        shares = torch.zeros(3, dtype=torch.float64)
        shares[self.target.kept] = self.target.shares
        return shares.tolist()

    @cached_property
    def _inside(self) -> Tensor:
        """Whether each position of each dimension is in the outer region and in the band, (n, h, 2)."""
        tables = [torch.stack(regions, dim=1) for regions in self.regions]
        return torch.nn.utils.rnn.pad_sequence(tables, batch_first=True)

    def score(self, objects: Tensor) -> Tensor:
        """The reward (B,) float64 of positions (B, n), by lookup of the two regions."""
        inside = self._inside.to(objects.device)[torch.arange(objects.shape[-1]), objects].all(1).long()
        c = self.config
        table = [c.R0 + a * c.R1 + b * c.R2 for a in (0, 1) for b in (0, 1)]
        return torch.tensor(table, dtype=torch.float64, device=objects.device)[
            2 * inside[:, 0] + inside[:, 1]
        ]

    def is_mode(self, objects: Tensor) -> Tensor:
        """Whether each of the cells (B, n) has the largest reward of the grid, (B,) bool."""
        c = self.config
        some = self._inside.any(1).all(0)  # a cell is in a region if each dimension has a position there
        both = self._inside.all(2).any(1).all()
        most = c.R0 + max(c.R1 * bool(some[0]), c.R2 * bool(some[1]), (c.R1 + c.R2) * bool(both))
        return self.score(objects) >= most * (1 - 1e-12)


class Original(ProductReward):
    """Positions are x / (H-1), as in the code of Bengio et al. 2021."""


class Paper(ProductReward):
    """Positions are x / H, as the paper prints it."""

    def divisor(self, height: int) -> int:
        """What positions are divided by: H."""
        return height
