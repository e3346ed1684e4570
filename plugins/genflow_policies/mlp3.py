"""MLP-3, the paper's policy: three linear layers with LeakyReLU between them.

Shapes: M policies, B states, s inputs, d width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from genflow import PolicyArch, Schema

NEGATIVE_SLOPE = 0.01


class Network(nn.Module):
    """Linear(s, d), LeakyReLU, Linear(d, d), LeakyReLU, Linear(d, outputs)."""

    def __init__(self, n_inputs: int, width: int, n_outputs: int) -> None:
        super().__init__()
        self.input_dim = n_inputs
        self.output_dim = n_outputs
        self.net = nn.Sequential(
            nn.Linear(n_inputs, width),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(width, n_outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., s) -> (..., outputs)."""
        return self.net(x)


class MLP3(PolicyArch):
    """Three linear layers of any width d."""

    class Config(Schema):
        """`width`: hidden units d."""

        width: int = Field(default=128, ge=1, le=8192)

    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """A network with torch's default initialisation."""
        return Network(n_inputs, self.config.width, n_outputs)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Rows are outputs, columns inputs, as in `nn.Linear`."""
        return {
            "net.0.weight": ("hidden1", "input"),
            "net.0.bias": ("hidden1",),
            "net.2.weight": ("hidden2", "hidden1"),
            "net.2.bias": ("hidden2",),
            "net.4.weight": ("action", "hidden2"),
            "net.4.bias": ("action",),
        }

    def condition(self) -> dict[str, float]:
        """d of c = [s, h, n, d]."""
        return {"width": float(self.config.width)}

    def forward(self, module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """M networks as batched matrix products; states shared by all members make one wide product."""
        first, bias = weights["net.0.weight"], weights["net.0.bias"]
        if x.ndim == 2:
            members, width, n_inputs = first.shape
            h = (x @ first.reshape(-1, n_inputs).T).reshape(len(x), members, width).transpose(0, 1) + bias[:, None]
        else:
            h = torch.baddbmm(bias[:, None], x, first.transpose(1, 2))
        for layer in (2, 4):
            h = nn.functional.leaky_relu(h, NEGATIVE_SLOPE)
            h = torch.baddbmm(weights[f"net.{layer}.bias"][:, None], h, weights[f"net.{layer}.weight"].transpose(1, 2))
        return h
