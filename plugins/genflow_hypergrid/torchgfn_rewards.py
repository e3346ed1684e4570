"""torchgfn's rewards of the hypergrid by its names, those that are sums of products and others.

Shapes: B objects, which are positions (B, n) int64; h_i positions of dimension i.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from genflow import GenflowError, Reward, Schema, described

from .rewards import MAX_REWARD, MIN_REWARD, SeparableReward
from .separable import Term

#: dimensions up to which torchgfn's sparse reward, which lists all their permutations, fits into memory
MAX_SPARSE = 9


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

        if len(set(self.task.heights)) > 1:
            raise GenflowError(
                f"reward={self.task.reward} needs one height for all dimensions, not {self.task.heights};"
                " reward=separable takes any"
            )
        height, ndim = self.task.heights[0], self.task.ndim
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


class TorchgfnSeparable(SeparableReward):
    """A reward of torchgfn that is a sum of products, made of its values on a single dimension."""

    function: ClassVar[str]

    def profiles(self, **values: float) -> tuple[Tensor, ...]:
        """What each position of a dimension pays where terms have these heights, (h_i,) float64 each."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from gfn.gym import hypergrid

        found = []
        for height in self.task.heights:
            one = vars(hypergrid)[self.function](height, 1, **values)
            found.append(one(torch.arange(height)[:, None]).double())
        return tuple(found)


class Cosine(TorchgfnSeparable):
    """The reward "cosine" of torchgfn: R0 plus R1 times a product of cosines and a Gaussian."""

    function = "CosineReward"

    class Config(Schema):
        """The heights of the reward."""

        R0: float = described(0.1, gt=MIN_REWARD, le=MAX_REWARD, description="The reward everywhere.")
        R1: float = described(0.5, ge=0, le=MAX_REWARD, description="The height of the waves.")

    def terms(self) -> list[Term]:
        """R0, and R1 times the waves."""
        waves = self.profiles(R0=0, R1=1)
        return [Term(self.config.R0, tuple(map(torch.ones_like, waves))), Term(self.config.R1, waves)]


class Deceptive(TorchgfnSeparable):
    """The reward "deceptive" of torchgfn: the way to the modes pays less than the rest."""

    function = "DeceptiveReward"

    class Config(Cosine.Config):
        """The heights of the reward, as torchgfn uses them."""

        R2: float = described(2.0, ge=0, le=MAX_REWARD, description="What a mode pays more.")

    def terms(self) -> list[Term]:
        """R0 + R1, less R1 in the outer region, and R2 in the band."""
        c = self.config
        outer = tuple((1 - inner).clamp(0, 1) for inner in self.profiles(R0=0, R1=1, R2=0))
        band = self.profiles(R0=0, R1=0, R2=1)
        return [Term(c.R0 + c.R1, tuple(map(torch.ones_like, outer))), Term(-c.R1, outer), Term(c.R2, band)]


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
