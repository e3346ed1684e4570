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
from genflow.interfaces.environment import Environment, Units
from genflow.layout import WeightLayout


class PolicyArch(Configured, ABC):
    """An architecture of the forward policy, a network from state features to action logits."""

    #: Whether `forward_with_cache` accepts indices of ones for tasks whose inputs are 0 except for k ones.
    takes_one_hot_indices: ClassVar[bool] = False
    #: Whether the network reads the amounts of units, so that its weights mean the same for every task and
    #: policies of one size of it run on another.
    reads_units: ClassVar[bool] = False

    @property
    def residual(self) -> bool:
        """Whether layers that repeat add to what is below them, by default not.

        Only then networks of a depth that no zoo had can be generated, between two depths that one had.
        """
        return False

    @abstractmethod
    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """Build a freshly initialised network (B, n_inputs) -> (B, n_outputs)."""

    def build_for(self, units: Units) -> nn.Module:
        """Build a freshly initialised network for described units, by default for so many of them.

        Override this method where the network reads the descriptions, which it keeps in buffers that are not
        saved (``persistent=False``). The network of log F of the objectives "db" and "subtb" is built for the
        last action alone.
        """
        return self.build(len(units.inputs), len(units.actions))

    @abstractmethod
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return a label for each axis of each parameter, by parameter name.

        The label of inputs is ``"input"`` and that of outputs is ``"action"``. Others are free.
        """

    @abstractmethod
    def condition(self) -> dict[str, float]:
        """Return the architecture's part of the condition, e.g. ``{"width": d}``."""

    def roles(self) -> dict[str, tuple[str, int]]:
        """Return the role of parameters whose name depends on the depth, by default none.

        One encoder can make networks of several depths if the same part has the same role in all of them.

        Returns:
            Parameter name -> a name that all depths share, and the place among its repetitions from 0. A
            parameter that is left out is known by its own name, at place 0.
        """
        return {}

    def layout(self, environment: Environment) -> WeightLayout:
        """Return the layout of this architecture's weights for an environment."""
        units = environment.units()
        with torch.device("meta"):  # only shapes are needed, so nothing is allocated or drawn
            module = self.build_for(units)
        own = {"input": units.inputs, "action": units.actions}
        return WeightLayout.of(module, self.axes(), own, self.roles(), self.residual)

    def forward(self, module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Evaluate M networks at once.

        Args:
            module: a network of this architecture, whose own weights are not read.
            weights: {name: (M, *shape)}.
            x: inputs (B, s) shared by all networks, or (M, B, s).

        Returns:
            Logits (M, B, outputs).
        """
        single = lambda w, inputs: torch.func.functional_call(module, w, (inputs,))  # noqa: E731
        return torch.func.vmap(single, in_dims=(0, 0 if x.ndim == 3 else None))(dict(weights), x)

    def forward_with_cache(
        self, module: nn.Module, weights: Mapping[str, Tensor]
    ) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]:
        """Prepare `forward` for many calls with the same weights, without an autograd graph.

        Args:
            module: as in `forward`.
            weights: as in `forward`.

        Returns:
            A function of x as in `forward`. With `takes_one_hot_indices`, x may also be the int64 indices
            (B, k) or (M, B, k) of the inputs that are 1. The function returns logits (M, B, outputs) and the
            cache that `backward` needs, as tensors (M, B, ...).
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
        """Back-propagate a loss from the logits of `forward_with_cache` to the weights.

        The default repeats the forward pass with autograd. An architecture whose cache holds the activations
        of its layers can avoid that.

        Args:
            module: as in `forward`.
            weights: as in `forward`.
            cache: the cache of one pass, or those of several passes concatenated along the second axis.
            grad_logits: (M, B, outputs) gradient of the loss with respect to the logits.
            out_grads: {name: (M, *shape)}, overwritten with the gradient with respect to the weights.
        """
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        with torch.enable_grad():
            logits = self.forward(module, leaves, cache[0])
        found = torch.autograd.grad(
            logits, list(leaves.values()), grad_logits, allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(leaves, found, strict=True):
            out_grads[name].copy_(gradient)
