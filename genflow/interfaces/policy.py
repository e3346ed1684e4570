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

    #: Whether `tracer` reads `Environment.active` instead of inputs where a task has it.
    takes_active: ClassVar[bool] = False

    @abstractmethod
    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """A freshly initialised network (B, n_inputs) -> (B, n_outputs)."""

    @abstractmethod
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Parameter name -> label of each axis; the input axis is ``"input"``, the output axis ``"action"``."""

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

    def tracer(
        self, module: nn.Module, weights: Mapping[str, Tensor]
    ) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]:
        """`forward` without a graph, prepared for many calls with the same weights.

        Args:
            module: as in `forward`.
            weights: as in `forward`.

        Returns:
            x as in `forward`, or with `takes_active` (B, k) or (M, B, k) int64 -> logits (M, B, outputs), and
            what `gradients` needs to
            know of the pass: tensors (M, B, ...).
        """
        weights = {name: tensor.detach() for name, tensor in weights.items()}

        def trace(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            with torch.no_grad():
                logits = self.forward(module, weights, x)
            return logits, (x.expand(len(logits), *x.shape[-2:]),)

        return trace

    def gradients(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        kept: tuple[Tensor, ...],
        grad_logits: Tensor,
        into: Mapping[str, Tensor],
    ) -> None:
        """Back-propagate through a pass of `tracer`.

        By default the pass is done again; an architecture that keeps its layers spares that.

        Args:
            module: as in `forward`.
            weights: as in `forward`.
            kept: what the pass kept, or several passes joined along their second axis.
            grad_logits: (M, B, outputs) gradient of a loss by its logits.
            into: {name: (M, *shape)}, overwritten with the gradient of the loss by the weights.
        """
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        with torch.enable_grad():
            logits = self.forward(module, leaves, kept[0])
        found = torch.autograd.grad(
            logits, list(leaves.values()), grad_logits, allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(leaves, found, strict=True):
            into[name].copy_(gradient)
