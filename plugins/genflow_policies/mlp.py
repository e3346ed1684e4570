"""MLP, a policy of linear layers with one activation between them, of any depth.

By option each hidden layer is normalised before its activation, or added to the one below it.

Shapes: M policies, B states, s inputs, d width, L hidden layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genflow import PolicyArch, Schema, described, fixed, size

NEGATIVE_SLOPE = 0.01
_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An activation with its derivative.

    Attributes:
        module: builds it as a module.
        forward: computes it; in place where `from_output`.
        backward: multiplies a gradient in place by the derivative, told by the output or the input.
        from_output: whether the output tells the derivative, so that the input need not be kept.
    """

    module: Callable[[], nn.Module]
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Any]
    from_output: bool = True


ACTIVATIONS = {
    "leaky_relu": Activation(
        lambda: nn.LeakyReLU(NEGATIVE_SLOPE),
        lambda x: F.leaky_relu_(x, NEGATIVE_SLOPE),
        # the output has the sign of the input
        lambda g, y: _aten.leaky_relu_backward.grad_input(g, y, NEGATIVE_SLOPE, True, grad_input=g),
    ),
    "relu": Activation(
        nn.ReLU, F.relu_, lambda g, y: _aten.threshold_backward.grad_input(g, y, 0, grad_input=g)
    ),
    "tanh": Activation(nn.Tanh, torch.tanh_, lambda g, y: _aten.tanh_backward.grad_input(g, y, grad_input=g)),
    "elu": Activation(
        nn.ELU, F.elu_, lambda g, y: _aten.elu_backward.grad_input(g, 1, 1, 1, True, y, grad_input=g)
    ),
    # these two fall and rise, so that an output stands for two inputs
    "silu": Activation(
        nn.SiLU, F.silu, lambda g, x: _aten.silu_backward.grad_input(g, x, grad_input=g), from_output=False
    ),
    "gelu": Activation(
        nn.GELU, F.gelu, lambda g, x: _aten.gelu_backward.grad_input(g, x, grad_input=g), from_output=False
    ),
}


class Network(nn.Module):
    """The network of a single policy: hidden layers of d units, then the logits."""

    def __init__(self, sizes: Sequence[int], activation: str, layer_norm: bool, residual: bool) -> None:
        super().__init__()
        self.input_dim, self.output_dim, self.residual = sizes[0], sizes[-1], residual
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            norm = [nn.LayerNorm(after)] if layer_norm else []
            layers += [nn.Linear(before, after), *norm, ACTIVATIONS[activation].module()]
        self.per_layer = 2 + layer_norm
        self.net = nn.Sequential(*layers[: 1 - self.per_layer])

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (..., s) to logits (..., outputs)."""
        if not self.residual:
            return self.net(x)
        step = self.per_layer
        h = self.net[:step](x)
        for start in range(step, len(self.net) - 1, step):
            h = h + self.net[start : start + step](h)
        return self.net[-1](h)


class MLP(PolicyArch):
    """The architecture of L + 1 linear layers of any width d, with one activation between them."""

    takes_one_hot_indices = True

    class Config(Schema):
        """The size of the network, and what is between its linear layers."""

        width: int = size(128, ge=1, le=8192, description="Hidden units d of each hidden layer.")
        depth: int = described(2, ge=1, le=32, description="The number L of hidden layers.")
        activation: Literal["leaky_relu", "relu", "tanh", "elu", "silu", "gelu"] = fixed(
            "leaky_relu", description="The activation after each hidden layer."
        )
        layer_norm: bool = fixed(
            False, added=True, description="Whether each hidden layer is normalised before its activation."
        )
        residual: bool = fixed(
            False, added=True, description="Whether each hidden layer is added to the one below it."
        )

    @property
    def depth(self) -> int:
        """L, the number of hidden layers."""
        return self.config.depth

    @property
    def activation(self) -> str:
        """The name of the activation, a key of `ACTIVATIONS`."""
        return self.config.activation

    @property
    def layer_norm(self) -> bool:
        """Whether hidden layers are normalised."""
        return self.config.layer_norm

    @property
    def residual(self) -> bool:
        """Whether hidden layers are added to the one below."""
        return self.config.residual

    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """A network with torch's default initialisation."""
        sizes = [n_inputs, *[self.config.width] * self.depth, n_outputs]
        return Network(sizes, self.activation, self.layer_norm, self.residual)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Name the axes of each parameter: rows are outputs and columns are inputs, as in `nn.Linear`."""
        labels = ["input", *(f"hidden{layer + 1}" for layer in range(self.depth)), "action"]
        axes: dict[str, tuple[str, ...]] = {}
        for layer, (before, after) in zip(self._layers(), pairwise(labels), strict=True):
            axes |= {f"{layer}.weight": (after, before), f"{layer}.bias": (after,)}
            if self.layer_norm and after != "action":
                axes |= {f"{_norm(layer)}.{part}": (after,) for part in ("weight", "bias")}
        return axes

    def roles(self) -> dict[str, tuple[str, int]]:
        """Layers between hidden units repeat, and the last one keeps its role wherever it comes."""
        roles: dict[str, tuple[str, int]] = {}
        for place, layer in enumerate(self._layers()[1:]):
            last = place == self.depth - 1
            parts = {"last" if last else "hidden": layer}
            if self.layer_norm and not last:
                parts["norm"] = _norm(layer)
            for role, name in parts.items():
                own = 0 if last else place
                roles |= {f"{name}.{part}": (f"{role}.{part}", own) for part in ("weight", "bias")}
        return roles

    def condition(self) -> dict[str, float]:
        """The width, which is d of the paper's c = [s, h, n, d], and the depth."""
        return {"width": float(self.config.width), "depth": float(self.depth)}

    def _layers(self) -> list[str]:
        """The names of the linear layers, from the inputs to the outputs."""
        return [f"net.{(2 + self.layer_norm) * layer}" for layer in range(self.depth + 1)]

    @property
    def _plain(self) -> bool:
        """Whether activations alone are between the layers, whose passes are written out below."""
        return not (self.layer_norm or self.residual)

    def forward(self, module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Compute the logits of M networks by batched matrix products.

        States (B, s) that all members share make one wide product in the first layer; of the indices of ones
        the columns are gathered.
        """
        activate, layers = ACTIVATIONS[self.activation].module(), self._layers()
        h = self._first(weights[f"{layers[0]}.weight"], x) + weights[f"{layers[0]}.bias"][:, None]
        below: Tensor | None = None
        for before, layer in pairwise(layers):
            if self.layer_norm:
                norm = _norm(before)
                gain, bias = (weights[f"{norm}.{part}"][:, None] for part in ("weight", "bias"))
                h = F.layer_norm(h, h.shape[-1:]) * gain + bias
            active = activate(h)
            below = below + active if self.residual and below is not None else active
            h = torch.baddbmm(
                weights[f"{layer}.bias"][:, None], below, weights[f"{layer}.weight"].transpose(1, 2)
            )
        return h

    def _first(self, weight: Tensor, x: Tensor) -> Tensor:
        """The products (M, B, d) of the first layer (M, d, s) with inputs, or with the indices of ones."""
        members, width, n_inputs = weight.shape
        if not x.is_floating_point():
            table = weight.transpose(1, 2).reshape(-1, width)
            x = x.expand(members, *x.shape[-2:])
            places = x + n_inputs * torch.arange(members, device=x.device)[:, None, None]
            return F.embedding_bag(places.flatten(0, 1), table, mode="sum").view(*x.shape[:2], width)
        if x.ndim == 2:
            return (x @ weight.reshape(-1, n_inputs).T).reshape(len(x), members, width).transpose(0, 1)
        return torch.bmm(x, weight.transpose(1, 2))

    def forward_with_cache(
        self, module: nn.Module, weights: Mapping[str, Tensor]
    ) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]:
        """Return a `forward` that also returns the inputs and what it knows of each hidden layer.

        Inputs that are given as the indices of ones are gathered and summed instead of multiplied by zeros.
        Under torch's autocast the products of hidden layers are of its dtype, and so is what is returned of
        these layers; the last layer is of the weights' dtype, for logits without rounding.
        """
        if not self._plain:
            return super().forward_with_cache(module, weights)
        activation, layers = ACTIVATIONS[self.activation], self._layers()
        members, width, n_inputs = weights[f"{layers[0]}.weight"].shape
        # a gather needs the first layer in this order, and products read hidden layers faster; the last has
        # too few outputs to gain
        first, *others = (weights[f"{layer}.weight"].detach().transpose(1, 2) for layer in layers)
        first = first.contiguous()
        others[:-1] = [weight.contiguous() for weight in others[:-1]]
        first_bias, *biases = (weights[f"{layer}.bias"].detach()[:, None] for layer in layers)
        table, low = first.reshape(-1, width), _products(first)
        others[:-1], biases[:-1] = ([t.to(low) for t in each[:-1]] for each in (others, biases))
        offset = n_inputs * torch.arange(members, device=first.device)[:, None, None]

        def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            with torch.no_grad(), _explicit(first.device):
                x = x.expand(members, *x.shape[-2:])
                if x.is_floating_point():
                    z = torch.bmm(x.to(low), first.to(low))
                else:
                    places = (x + offset).flatten()
                    bags = torch.arange(0, len(places), x.shape[2], device=x.device)
                    z = torch.embedding_bag(table, places, bags)[0].view(*x.shape[:2], width)
                z = z.add_(first_bias).to(low)
                cache = [x]
                for bias, weight in zip(biases, others, strict=True):
                    h = activation.forward(z)
                    cache.append(h if activation.from_output else z)
                    z = torch.baddbmm(bias, h.to(weight.dtype), weight)
            return z, tuple(cache)

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
        """Write the gradients of all parameters to `out_grads`, from what is cached of the layers."""
        if not self._plain:
            return super().backward(module, weights, cache, grad_logits, out_grads)
        low = _products(grad_logits)
        activation, layers = ACTIVATIONS[self.activation], self._layers()
        n_inputs = weights[f"{layers[0]}.weight"].shape[2]
        # on a CPU one member after the other, whose layers then stay in the processor's cache
        alone = grad_logits.device.type == "cpu"
        block = 1 if alone else len(grad_logits)
        for start in range(0, len(grad_logits), block):
            own = slice(start, start + block)
            grad, *kept = (tensor[own] for tensor in (grad_logits, *cache))
            if alone:
                # padding, which a population's other members need, has no gradient
                used = grad[0].any(-1).nonzero().squeeze(1)
                grad, *kept = (tensor.index_select(1, used) for tensor in (grad, *kept))
            if not kept[0].is_floating_point():
                one_hot = grad.new_zeros(*kept[0].shape[:2], n_inputs, dtype=low)
                kept[0] = one_hot.scatter_(2, kept[0], 1.0)
            for place in range(self.depth, -1, -1):
                layer, below = layers[place], kept[place]
                values = below if activation.from_output or not place else activation.forward(below)
                by_weight, by_bias = (out_grads[f"{layer}.{part}"][own] for part in ("weight", "bias"))
                torch.sum(grad, 1, dtype=by_bias.dtype, out=by_bias)
                grad, values = grad.to(low), values.to(low)
                if low == by_weight.dtype:
                    torch.bmm(grad.transpose(1, 2), values, out=by_weight)
                else:
                    by_weight.copy_(torch.bmm(grad.transpose(1, 2), values))
                if place:
                    grad = torch.bmm(grad, weights[f"{layer}.weight"][own].to(low))
                    activation.backward(grad, below)


def _lowered(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _products(like: Tensor) -> torch.dtype:
    """The dtype that the factors of products are rounded to."""
    return torch.get_autocast_dtype(like.device.type) if _lowered(like.device) else like.dtype


def _explicit(device: torch.device) -> Any:
    """A context in which autocast changes no dtype."""
    return torch.autocast(device.type, enabled=False) if _lowered(device) else nullcontext()


def _norm(layer: str) -> str:
    """The name of the normalisation that follows a linear layer, e.g. ``net.4`` for ``net.3``."""
    return f"net.{int(layer.removeprefix('net.')) + 1}"
