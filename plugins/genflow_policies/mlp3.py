"""MLP-3, the paper's policy: three linear layers with LeakyReLU between them."""

from __future__ import annotations

from genflow import Schema, size

from .mlp import MLP


class MLP3(MLP):
    """The MLP of two hidden layers with LeakyReLU, of any width d."""

    depth = 2
    activation = "leaky_relu"
    layer_norm = False
    residual = False

    class Config(Schema):
        """The size of the network."""

        width: int = size(128, ge=1, le=8192, description="Hidden units d of each of the two layers.")

    def roles(self) -> dict[str, tuple[str, int]]:
        """None: there is one depth."""
        return {}

    def condition(self) -> dict[str, float]:
        """The width, which is d of the paper's c = [s, h, n, d]."""
        return {"width": float(self.config.width)}
