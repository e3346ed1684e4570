"""`Encoder`: an autoencoder of policy weights.

Shapes: M policies, D parameters a policy, Z latent size, C conditions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from genflow.interfaces.configured import Configured
from genflow.layout import WeightLayout

if TYPE_CHECKING:
    from genflow.population import Population

#: (B, ...) -> standard normal numbers (B, ...) for these policies of a batch, the same whichever worker has
#: them
Noise = Callable[[Tensor], Tensor]


class Encoder(Configured, nn.Module, ABC):
    """Autoencoder of policy weights.

    `for_zoo` sizes and normalises it, the training loop calls `reconstruct` on batches, and everything that
    `decode` needs is in `spec` and ``state_dict()``.
    """

    #: Z
    latent_size: int

    @classmethod
    @abstractmethod
    def for_zoo(cls, config: Any, populations: list[Population]) -> Self:
        """An untrained encoder that fits a zoo: its sizes, and its normalisation as buffers."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able facts that `from_spec` needs."""

    @classmethod
    @abstractmethod
    def from_spec(cls, config: Any, spec: dict[str, Any]) -> Self:
        """Rebuild a module of the same shape, before its ``state_dict()`` is loaded."""

    @abstractmethod
    def encode(self, population: Population) -> Tensor:
        """(M, D) weights of one structure -> (M, Z) latents, without noise."""

    @abstractmethod
    def decode(self, latents: Tensor, layout: WeightLayout, condition: Tensor) -> Tensor:
        """(M, Z) latents -> (M, D) weights for a layout and its condition (C,).

        Raises:
            GenflowError: the layout is outside what this encoder can decode.
        """

    def decode_all(self, items: Sequence[tuple[Tensor, WeightLayout, Tensor]]) -> list[Tensor]:
        """`decode` for several structures, each (latents, layout, condition); override it where one pass can make them all."""
        return [self.decode(*item) for item in items]

    def noisy(self, latents: Tensor, noise: Noise) -> Tensor:
        """Latents with the noise that training adds; by default none."""
        return latents

    def share(self, layout: WeightLayout) -> float:
        """How much a policy of this layout counts in the mean loss on weights; by default all count the same."""
        return 1.0

    def check(self, layout: WeightLayout) -> None:
        """Refuse a layout that `decode` cannot make; by default all are fine.

        Raises:
            GenflowError: says what this encoder covers.
        """

    @abstractmethod
    def reconstruct(self, populations: list[Population], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """One training pass over the B policies of several populations, with the encoder's own noise.

        Returns:
            (B,) the loss on weights of each policy, and for each population its reconstructed weights (M, D),
            with gradient.
        """
