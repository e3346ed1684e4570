"""What the coordinate encoder writes between hidden units, which nothing describes.

Shapes: M policies, Z latent size, E embedding, W widest hidden layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genflow import Encoder

from .parts import Part, Parts
from .units import Residual


class HiddenParts(Encoder):
    """The part of an encoder that writes between hidden units: mixtures of learned matrices, plus some
    directions, and vectors for the units of one layer.

    Layers that repeat are written by the same modules, which are told the place of each.
    """

    def add_hidden(self, parts: Parts, described: set[str], width: int) -> None:
        """Add the modules for all tensors that have no described axis."""
        options, size = self.config, self.config.embedding
        self.hidden = {name: p for name, p in parts.tensors.items() if not set(p.labels) & described}
        labels = {part.role: part.labels for part in self.hidden.values()}
        self.vectors = nn.ModuleDict(
            {_key(role): nn.Linear(size, width) for role, own in labels.items() if len(own) == 1}
        )
        self.matrices, self.mixes, self.factors = nn.ParameterDict(), nn.ModuleDict(), nn.ModuleDict()
        for role, own in labels.items():
            if len(own) == 2:
                spread = (3 * width * options.matrices) ** -0.5
                self.matrices[_key(role)] = nn.Parameter(torch.empty(options.matrices, width, width))
                nn.init.normal_(self.matrices[_key(role)], std=spread)
                self.mixes[_key(role)] = nn.Linear(size, options.matrices)
                self.factors[_key(role)] = nn.Linear(size, 2 * options.rank * width)
        # by the place of a repeated layer
        several = parts.deepest > 1
        self.places = nn.Embedding(parts.deepest, size) if several else None
        self.at_place = Residual(size, options.latent_size) if several else None

    def write_hidden(self, e: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Write all tensors under embeddings (M, E) and latents (M, Z): (M, W, W), or (M, W)."""
        at = [e]
        if self.places is not None and self.at_place is not None:
            at = [self.at_place(e + place, z) for place in self.places.weight]
        return {name: self._write(part, at[part.place]) for name, part in self.hidden.items()}

    def _write(self, part: Part, e: Tensor) -> Tensor:
        key = _key(part.role)
        if len(part.labels) == 1:
            return self.vectors[key](e)
        mixed = torch.einsum("mk,kab->mab", self.mixes[key](e), self.matrices[key])
        left, right = self.factors[key](e).unflatten(1, (2, self.config.rank, -1)).unbind(1)
        return mixed + torch.einsum("mra,mrb->mab", left, right) / left.shape[2] ** 0.5


def _key(name: str) -> str:
    """A parameter name as the name of a submodule."""
    return name.replace(".", "_")
