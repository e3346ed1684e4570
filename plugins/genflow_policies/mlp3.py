"""MLP-3, the paper's policy: three linear layers with LeakyReLU between them.

Shapes: M policies, B states, s inputs, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from genflow import PolicyArch, Schema, size

NEGATIVE_SLOPE = 0.01


class Network(nn.Module):
    """The network of a single policy, with hidden layers of d units."""

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
        """Map inputs (..., s) to logits (..., outputs)."""
        return self.net(x)


class MLP3(PolicyArch):
    """The architecture of three linear layers, of any width d."""

    takes_one_hot_indices = True

    class Config(Schema):
        """The size of the network."""

        width: int = size(128, ge=1, le=8192, description="Hidden units d of each of the two layers.")

    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """A network with torch's default initialisation."""
        return Network(n_inputs, self.config.width, n_outputs)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Name the axes of each parameter: rows are outputs and columns are inputs, as in `nn.Linear`."""
        return {
            "net.0.weight": ("hidden1", "input"),
            "net.0.bias": ("hidden1",),
            "net.2.weight": ("hidden2", "hidden1"),
            "net.2.bias": ("hidden2",),
            "net.4.weight": ("action", "hidden2"),
            "net.4.bias": ("action",),
        }

    def condition(self) -> dict[str, float]:
        """The width, which is d of the paper's c = [s, h, n, d]."""
        return {"width": float(self.config.width)}

    def forward(self, module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Compute the logits of M networks by batched matrix products.

        States (B, s) that all members share make one wide product in the first layer.
        """
        first, bias = weights["net.0.weight"], weights["net.0.bias"]
        if x.ndim == 2:
            members, width, n_inputs = first.shape
            h = (x @ first.reshape(-1, n_inputs).T).reshape(len(x), members, width).transpose(0, 1) + bias[
                :, None
            ]
        else:
            h = torch.baddbmm(bias[:, None], x, first.transpose(1, 2))
        for layer in (2, 4):
            h = nn.functional.leaky_relu(h, NEGATIVE_SLOPE)
            h = torch.baddbmm(
                weights[f"net.{layer}.bias"][:, None], h, weights[f"net.{layer}.weight"].transpose(1, 2)
            )
        return h

    def forward_with_cache(
        self, module: nn.Module, weights: Mapping[str, Tensor]
    ) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]:
        """Return a `forward` that also returns the inputs and both hidden layers, for `backward`.

        Inputs that are given as the indices of ones are gathered and summed instead of multiplied by zeros.
        """
        members, width, n_inputs = weights["net.0.weight"].shape
        # a gather needs the first layer in this order, and products read the second faster; the third has too
        # few outputs to gain
        first, second = (
            weights[f"net.{layer}.weight"].detach().transpose(1, 2).contiguous() for layer in (0, 2)
        )
        third = weights["net.4.weight"].detach().transpose(1, 2)
        bias1, bias2, bias3 = (weights[f"net.{layer}.bias"].detach()[:, None] for layer in (0, 2, 4))
        table = first.reshape(-1, width)
        offset = n_inputs * torch.arange(members, device=first.device)[:, None, None]

        @torch.no_grad()
        def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            x = x.expand(members, *x.shape[-2:])
            if x.is_floating_point():
                h1 = torch.bmm(x, first)
            else:
                places = (x + offset).flatten()
                bags = torch.arange(0, len(places), x.shape[2], device=x.device)
                h1 = torch.embedding_bag(table, places, bags)[0].view(*x.shape[:2], width)
            h1 = nn.functional.leaky_relu_(h1.add_(bias1), NEGATIVE_SLOPE)
            h2 = nn.functional.leaky_relu_(torch.baddbmm(bias2, h1, second), NEGATIVE_SLOPE)
            return torch.baddbmm(bias3, h2, third), (x, h1, h2)

        return forward

    @torch.no_grad()
    def backward(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        cache: tuple[Tensor, ...],
        grad_logits: Tensor,
        out_grads: Mapping[str, Tensor],
    ) -> None:
        """Write the gradients of all parameters to `out_grads`, from the cached layers."""
        n_inputs = weights["net.0.weight"].shape[2]
        # on a CPU one member after the other, whose layers then stay in the processor's cache
        block = 1 if grad_logits.device.type == "cpu" else len(grad_logits)
        for start in range(0, len(grad_logits), block):
            own = slice(start, start + block)
            grad, observed, *hidden = (tensor[own] for tensor in (grad_logits, *cache))
            if block == 1:
                # padding, which a population's other members need, has no gradient
                used = grad[0].any(-1).nonzero().squeeze(1)
                grad, observed, *hidden = (
                    tensor.index_select(1, used) for tensor in (grad, observed, *hidden)
                )
            if not observed.is_floating_point():
                observed = grad.new_zeros(*observed.shape[:2], n_inputs).scatter_(2, observed, 1.0)
            for layer, below in ((4, hidden[1]), (2, hidden[0]), (0, observed)):
                torch.bmm(grad.transpose(1, 2), below, out=out_grads[f"net.{layer}.weight"][own])
                torch.sum(grad, 1, out=out_grads[f"net.{layer}.bias"][own])
                if layer:
                    grad = torch.bmm(grad, weights[f"net.{layer}.weight"][own])
                    # a layer has the sign of its input
                    torch.ops.aten.leaky_relu_backward.grad_input(
                        grad, below, NEGATIVE_SLOPE, True, grad_input=grad
                    )
