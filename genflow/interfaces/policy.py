"""`PolicyArch`: an architecture of the forward policy.

Shapes: M policies, B states, s inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from genflow.interfaces.configured import Configured
from genflow.interfaces.environment import Environment
from genflow.layout import WeightLayout


class PolicyArch(Configured, ABC):
    """An architecture of the forward policy: a family of networks from state features to action logits."""

    #: Whether `forward_with_cache` reads indices of ones where a task's inputs are 0 but for k ones.
    takes_one_hot_indices: ClassVar[bool] = False

    @abstractmethod
    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """A freshly initialised network (B, n_inputs) -> (B, n_outputs)."""

    @abstractmethod
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Parameter name -> label of each axis: ``"input"`` of inputs, ``"action"`` of outputs, else free."""

    @abstractmethod
    def condition(self) -> dict[str, float]:
        """The architecture's part of c, e.g. ``{"width": d}``."""

    def layout(self, environment: Environment) -> WeightLayout:
        """The layout of this architecture's weights for an environment."""
        units = environment.units()
        with torch.device("meta"):  # shapes only: nothing is allocated, no random numbers are drawn
            module = self.build(len(units.inputs), len(units.actions))
        return WeightLayout.of(module, self.axes(), {"input": units.inputs, "action": units.actions})

    def forward(self, module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Evaluate M networks at once.

        Args:
            module: a network of this architecture, whose own weights are not read.
            weights: {name: (M, *shape)}.
            x: (B, s) shared by all networks or (M, B, s).

        Returns:
            (M, B, outputs)
        """
        single = lambda w, inputs: torch.func.functional_call(module, w, (inputs,))  # noqa: E731
        return torch.func.vmap(single, in_dims=(0, 0 if x.ndim == 3 else None))(dict(weights), x)

    def forward_with_cache(
        self, module: nn.Module, weights: Mapping[str, Tensor]
    ) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]:
        """Prepare `forward` for many calls with the same weights, each keeping what `backward` needs of it.

        No graph of autograd is built.

        Args:
            module: as in `forward`.
            weights: as in `forward`.

        Returns:
            A function of x as in `forward`, or with `takes_one_hot_indices` of (B, k) or (M, B, k) int64
            indices of the inputs that are 1. It returns logits (M, B, outputs)
            and the cache, tensors (M, B, ...).
        """
        weights = {name: tensor.detach() for name, tensor in weights.items()}

        def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            with torch.no_grad():
                logits = self.forward(module, weights, x)
            return logits, (x.expand(len(logits), *x.shape[-2:]),)

        return forward

    def backward(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        cache: tuple[Tensor, ...],
        grad_logits: Tensor,
        out_grads: Mapping[str, Tensor],
    ) -> None:
        """Back-propagate a loss from the logits of a pass of `forward_with_cache` to the weights.

        By default autograd does the pass again, which an architecture whose cache holds its layers spares.

        Args:
            module: as in `forward`.
            weights: as in `forward`.
            cache: of the pass, or of several passes joined along their second axis.
            grad_logits: (M, B, outputs) gradient of a loss by its logits.
            out_grads: {name: (M, *shape)}, overwritten with the gradient of the loss by the weights.
        """
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        with torch.enable_grad():
            logits = self.forward(module, leaves, cache[0])
        found = torch.autograd.grad(
            logits, list(leaves.values()), grad_logits, allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(leaves, found, strict=True):
            out_grads[name].copy_(gradient)
