"""`Encoder`, an autoencoder of policy weights, and `Starts`, the initial weights of the policies in a zoo.

Shapes: M policies, D parameters a policy, Z latent size, C conditions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor, nn

from genflow.interfaces.configured import Configured
from genflow.layout import WeightLayout

if TYPE_CHECKING:
    from genflow.population import Population
    from genflow.structure import Structure

#: returns standard normal noise of the shape of its argument (B, ...), which does not depend on how a batch
#: is divided among workers
Noise = Callable[[Tensor], Tensor]


class Starts:
    """The initial weights of the policies in a zoo, by default those of the architecture."""

    def facts(self) -> dict[str, Any]:
        """Return JSON-serialisable options that the initial weights depend on, part of the zoo's identity."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return random tensors that the initial weights depend on, which are stored with the zoo."""
        return {}

    def weights(self, untrained: Population, seed: int) -> Tensor:
        """Return the initial weights (M, D) of the policies of one structure.

        Args:
            untrained: M policies as `Population.initialised` makes them.
            seed: seed of the random numbers that differ between policies.
        """
        return untrained.weights


class Encoder(Configured, nn.Module, ABC):
    """Autoencoder of policy weights.

    `for_zoo` sets its sizes and normalisation, and the training loop calls `reconstruct` on batches.
    Everything that `decode` needs is in `spec` and ``state_dict()``.
    """

    #: whether `decode` reads the descriptions of units and `check` refuses those that training has not met.
    #: If not, a described field that holds texts or nested values must have a value that was trained on.
    reads_units: ClassVar[bool] = False
    #: Z, the size of a latent.
    latent_size: int

    @classmethod
    def starts(
        cls, config: Any, structures: Sequence[Structure], stored: Mapping[str, Tensor] | None = None
    ) -> Starts:
        """Return the initial weights for a zoo of these structures.

        Args:
            config: options of the encoder.
            structures: the structures of the zoo.
            stored: the stored `Starts.tensors` of a zoo that is resumed or read.
        """
        return Starts()

    @classmethod
    def objective(cls) -> type[Any] | None:
        """Return a subclass of `genflow.AutoencoderObjective`, or None for the default losses."""
        return None

    @classmethod
    @abstractmethod
    def for_zoo(
        cls, config: Any, populations: list[Population], starts: Mapping[str, Tensor] | None = None
    ) -> Self:
        """Build an untrained encoder with the sizes of a zoo, and its normalisation as buffers.

        Args:
            config: options of the encoder.
            populations: the populations of the zoo.
            starts: the stored `Starts.tensors` of the zoo, if any.
        """

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return the JSON-serialisable values that `from_spec` needs."""

    @classmethod
    @abstractmethod
    def from_spec(cls, config: Any, spec: dict[str, Any]) -> Self:
        """Build a module of the same shape, into which its ``state_dict()`` is then loaded."""

    @abstractmethod
    def encode(self, population: Population) -> Tensor:
        """Encode the weights (M, D) of one structure as latents (M, Z), without noise."""

    @abstractmethod
    def decode(self, latents: Tensor, layout: WeightLayout, condition: Tensor) -> Tensor:
        """Decode latents (M, Z) to weights (M, D) for a layout and its condition (C,).

        Raises:
            GenflowError: this encoder cannot decode to the layout.
        """

    def decode_all(self, items: Sequence[tuple[Tensor, WeightLayout, Tensor]]) -> list[Tensor]:
        """Decode latents for several structures, each given as (latents, layout, condition).

        Override this method if one pass can decode all of them.
        """
        return [self.decode(*item) for item in items]

    def noisy(self, latents: Tensor, noise: Noise) -> Tensor:
        """Add the noise of training to latents, by default none."""
        return latents

    def loss_weight(self, layout: WeightLayout) -> float:
        """Return the weight of a policy of this layout in the mean loss on weights, by default 1."""
        return 1.0

    def check(self, layout: WeightLayout) -> None:
        """Raise an error for a layout that `decode` does not support, by default none.

        Raises:
            GenflowError: the layout is not supported; the message says what is.
        """

    @abstractmethod
    def reconstruct(self, populations: list[Population], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """Encode and decode the B policies of several populations for a training step, with noise.

        Returns:
            The loss on weights of each policy (B,), and the reconstructed weights (M, D) of each population,
            both with gradients.
        """
