"""Rewards of the hypergrid, one class each: our own exact ones, and torchgfn's others by its names.

The product rewards of the field, R(x) = R0 + R1 prod_i [outer(x_i)] + R2 prod_i [band(x_i)], need two yes/no
answers a position. They are decided here in exact fractions, so that they are symmetric in x; torchgfn
decides them in float32, where its tolerance of 1e-12 vanishes: at heights 11, 21, 31, 41, 51 and 61 the
boundary position 0.9 (H-1) counts as in the band.

Shapes: B objects, which are positions (B, n) int64; h positions a dimension.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor

from genflow import GenflowError, Reward, Schema, described

#: rewards, of which float32 holds the sums and the ratios
MIN_REWARD, MAX_REWARD = 1e-18, 1e18
#: dimensions up to which torchgfn's sparse reward, which lists all their permutations, fits into memory
MAX_SPARSE = 9


class ProductReward(Reward):
    """A reward of R0 everywhere, R1 more in the outer regions, and R2 more in the band."""

    environment = "hypergrid"

    class Config(Schema):
        """The three terms and the regions.

        `R0`, `R1`, `R2`: what the background, the outer region and the band pay.
        `outer`: the outer region is where |x - 0.5| > `outer`.
        `band`: the band is where `band[0]` < |x - 0.5| < `band[1]`.
        """

        R0: float = described(0.1, gt=MIN_REWARD, le=MAX_REWARD)
        R1: float = described(0.5, ge=0, le=MAX_REWARD)
        R2: float = described(2.0, ge=0, le=MAX_REWARD)
        outer: float = described(0.25, ge=0, le=0.5)
        band: tuple[float, float] = described((0.3, 0.4))

        @model_validator(mode="after")
        def _band_in_order(self) -> ProductReward.Config:
            if not 0 <= self.band[0] < self.band[1] <= 1:
                raise ValueError(f"band must be two increasing numbers in [0, 1], not {self.band}")
            return self

    def divisor(self, height: int) -> int:
        """What positions are divided by to lie in [0, 1]."""
        return height - 1

    @cached_property
    def regions(self) -> tuple[Tensor, Tensor]:
        """Which positions of a dimension lie in the outer region and in the band: two (h,) bool tensors."""
        height = self.task.height
        distance = [abs(Fraction(k, self.divisor(height)) - Fraction(1, 2)) for k in range(height)]
        # str() gives the decimal that the user wrote, not its binary neighbour
        edge, low, high = (Fraction(str(value)) for value in (self.config.outer, *self.config.band))
        return torch.tensor([a > edge for a in distance]), torch.tensor([low < a < high for a in distance])

    def score(self, objects: Tensor) -> Tensor:
        """The reward (B,) float64 of positions (B, n), by lookup of the two regions."""
        outer, band = (region.to(objects.device) for region in self.regions)
        c = self.config
        table = [c.R0 + a * c.R1 + b * c.R2 for a in (0, 1) for b in (0, 1)]
        place = 2 * outer[objects].all(-1).long() + band[objects].all(-1).long()
        return torch.tensor(table, dtype=torch.float64, device=objects.device)[place]

    def is_mode(self, objects: Tensor) -> Tensor:
        """Whether each of the cells (B, n) has the largest reward of the grid, (B,) bool."""
        # wherever all positions are in a region, so is the diagonal cell of each of them
        diagonal = torch.arange(self.task.height, device=objects.device)[:, None].expand(-1, self.task.ndim)
        return self.score(objects) == self.score(diagonal).max()

    def log_masses(self) -> list[float]:
        """The logarithms of the total reward of each term: R0 h^n, R1 outer^n and R2 band^n."""
        c, task = self.config, self.task
        sides = (task.height, *(int(region.sum()) for region in self.regions))
        terms = zip((c.R0, c.R1, c.R2), sides, strict=True)
        return [math.log(r) + task.ndim * math.log(side) if r * side else -math.inf for r, side in terms]


class Original(ProductReward):
    """Positions are x / (H-1), as in the code of Bengio et al. 2021."""


class Paper(ProductReward):
    """Positions are x / H, as the paper prints it."""

    def divisor(self, height: int) -> int:
        """What positions are divided by: H."""
        return height


class TorchgfnReward(Reward):
    """A reward function of torchgfn, by the name of its class in `gfn.gym.hypergrid`."""

    environment = "hypergrid"
    function: ClassVar[str]
    #: torchgfn's name for the "easy" preset that gives what `Config` does not; None: there is no preset
    preset: ClassVar[str | None] = None

    @cached_property
    def _function(self) -> Callable[[Tensor], Tensor]:
        return self.build()

    def build(self) -> Callable[[Tensor], Tensor]:
        """Build torchgfn's function for this grid, which maps positions (B, n) to R (B,).

        Raises:
            GenflowError: the grid does not fit it, e.g. "conditional_multiscale" needs height 16, 64, 256 or
                1024.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from gfn.gym import hypergrid

        height, ndim = self.task.height, self.task.ndim
        values: dict[str, Any] = self.config.model_dump()
        try:
            if self.preset is not None:
                values = {**hypergrid.get_reward_presets(self.preset, ndim, height)["easy"], **values}
            return vars(hypergrid)[self.function](height, ndim, **values)
        except (AssertionError, ValueError) as error:
            raise GenflowError(
                f"torchgfn's reward {self.task.reward!r} does not fit this grid: {error}"
            ) from error

    def check(self) -> None:
        """Refuse a grid that the reward does not fit.

        Raises:
            GenflowError: see `build`.
        """
        _ = self._function

    @torch.no_grad()
    def score(self, objects: Tensor) -> Tensor:
        """The reward (B,) of positions (B, n)."""
        return self._function(objects)


class SeparableReward(TorchgfnReward):
    """A reward of torchgfn that is a sum of products over the dimensions, so that log Z has a closed form."""

    @abstractmethod
    def log_total(self) -> float:
        """The logarithm of the sum of all rewards."""

    def profile(self, **heights: float) -> Tensor:
        """What each position (h,) of a single dimension pays where the terms have these heights, float64."""
        from gfn.gym import hypergrid

        one = vars(hypergrid)[self.function](self.task.height, 1, **heights)
        return one(torch.arange(self.task.height)[:, None]).double()

    def _log_sum(self, base: float, *terms: tuple[float, Tensor]) -> float:
        """log of the sum over cells of base + sum_k c_k prod_i f_k(x_i), for terms (c_k, f_k (h,))."""
        n = self.task.ndim
        mean = base + sum(c * float(f.mean()) ** n for c, f in terms)
        return n * math.log(self.task.height) + math.log(mean)


class Cosine(SeparableReward):
    """The reward "cosine" of torchgfn: R0 plus R1 times a product of cosines and a Gaussian."""

    function = "CosineReward"

    class Config(Schema):
        """The heights of the reward."""

        R0: float = described(0.1, gt=MIN_REWARD, le=MAX_REWARD, description="The reward everywhere.")
        R1: float = described(0.5, ge=0, le=MAX_REWARD, description="The height of the waves.")

    def log_total(self) -> float:
        """The logarithm of the sum of all rewards, R0 h^n + R1 (the sum of a dimension's waves)^n."""
        return self._log_sum(self.config.R0, (self.config.R1, self.profile(R0=0, R1=1)))


class Deceptive(SeparableReward):
    """The reward "deceptive" of torchgfn: the way to the modes pays less than the rest."""

    function = "DeceptiveReward"

    class Config(Cosine.Config):
        """The heights of the reward, as torchgfn uses them."""

        R2: float = described(2.0, ge=0, le=MAX_REWARD, description="What a mode pays more.")

    def log_total(self) -> float:
        """The logarithm of the sum of all rewards, (R0 + R1) h^n - R1 outer^n + R2 band^n."""
        c = self.config
        outer, band = 1 - self.profile(R0=0, R1=1, R2=0), self.profile(R0=0, R1=0, R2=1)
        return self._log_sum(c.R0 + c.R1, (-c.R1, outer), (c.R2, band))


class Sparse(TorchgfnReward):
    """The reward "sparse" of torchgfn: a few cells pay."""

    function = "SparseReward"

    @cached_property
    def _function(self) -> Callable[[Tensor], Tensor]:
        # torchgfn lists all permutations of the dimensions, which are too many for more
        if self.task.ndim > MAX_SPARSE:
            raise GenflowError(
                f"torchgfn's reward 'sparse' needs ndim of at most {MAX_SPARSE}, not {self.task.ndim}"
            )
        return self.build()


class _WithPreset(TorchgfnReward):
    class Config(Schema):
        """The background; torchgfn's "easy" preset gives the rest."""

        R0: float = described(0.1, gt=MIN_REWARD, le=MAX_REWARD, description="The reward everywhere.")


class BitwiseXor(_WithPreset):
    """The reward "bitwise_xor" of torchgfn."""

    function, preset = "BitwiseXORReward", "bitwise_xor"


class MultiplicativeCoprime(_WithPreset):
    """The reward "multiplicative_coprime" of torchgfn."""

    function, preset = "MultiplicativeCoprimeReward", "multiplicative_coprime"


class ConditionalMultiscale(_WithPreset):
    """The reward "conditional_multiscale" of torchgfn."""

    function, preset = "ConditionalMultiScaleReward", "conditional_multiscale"
