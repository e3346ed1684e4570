"""`Encoder`: an autoencoder of policy weights, and `Starts`: where the members of its zoo start from.

Shapes: M policies, D parameters a policy, Z latent size, C conditions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from genflow.interfaces.configured import Configured
from genflow.layout import WeightLayout

if TYPE_CHECKING:
    from genflow.population import Population
    from genflow.structure import Structure

#: (B, ...) -> standard normal numbers (B, ...) for these policies of a batch, the same whichever worker has
#: them
Noise = Callable[[Tensor], Tensor]


class Starts:
    """Where the members of a zoo start from, by default the architecture's own initialisation."""

    def facts(self) -> dict[str, Any]:
        """What they depend on beside `tensors`, JSON-able: part of the zoo's identity."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What is stored with the zoo, so that it is not drawn anew."""
        return {}

    def weights(self, untrained: Population, seed: int) -> Tensor:
        """(M, D) starting weights.

        Args:
            untrained: M policies as `Population.initialised` makes them.
            seed: of the members' own randomness.
        """
        return untrained.weights


class Encoder(Configured, nn.Module, ABC):
    """Autoencoder of policy weights.

    `for_zoo` sizes and normalises it, the training loop calls `reconstruct` on batches, and everything that
    `decode` needs is in `spec` and ``state_dict()``.
    """

    #: Z
    latent_size: int

    @classmethod
    def starts(
        cls, config: Any, structures: Sequence[Structure], stored: Mapping[str, Tensor] | None = None
    ) -> Starts:
        """Where a zoo of these structures starts from.

        Args:
            config: options of the encoder.
            structures: of the zoo.
            stored: `Starts.tensors` of a zoo that was begun.
        """
        return Starts()

    @classmethod
    def objective(cls) -> type[Any] | None:
        """A subclass of `genflow.AutoencoderObjective` with losses of its own; None: the plain ones."""
        return None

    @classmethod
    @abstractmethod
    def for_zoo(
        cls, config: Any, populations: list[Population], starts: Mapping[str, Tensor] | None = None
    ) -> Self:
        """An untrained encoder that fits a zoo: its sizes, and its normalisation as buffers.

        Args:
            config: options of the encoder.
            populations: the zoo.
            starts: `Starts.tensors` of the zoo, if it has some.
        """

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
        """`decode` for several structures, each (latents, layout, condition).

        Override it where one pass can make them all.
        """
        return [self.decode(*item) for item in items]

    def noisy(self, latents: Tensor, noise: Noise) -> Tensor:
        """Latents with the noise that training adds; by default none."""
        return latents

    def loss_weight(self, layout: WeightLayout) -> float:
        """How much a policy of this layout counts in the mean loss on weights; by default all alike."""
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
