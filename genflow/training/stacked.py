"""Stacked parameters of M policies, and of the state flows that some objectives learn beside them.

Shapes: M policies, m of a block, D parameters, B states, K rows, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from genflow.interfaces.environment import Units
from genflow.precision import float32_default, products
from genflow.rollouts import Rollouts, Trace
from genflow.seeding import seeded_cpu
from genflow.structure import Structure
from genflow.training import objectives
from genflow.training.loop import Trainee
from genflow.training.options import PolicyOptions


def leaf(tensor: Tensor) -> Tensor:
    """Create a leaf tensor with a gradient of zeros."""
    tensor = tensor.detach().requires_grad_()
    tensor.grad = torch.zeros_like(tensor)
    return tensor


def values(parameters: Mapping[str, Tensor], own: slice) -> dict[str, Tensor]:
    """Return the parameters of a block without an autograd graph."""
    return {name: parameter.detach()[own] for name, parameter in parameters.items()}


def grads(parameters: Mapping[str, Tensor], own: slice) -> dict[str, Tensor]:
    """Return views of the gradients of a block."""
    return {name: cast(Tensor, parameter.grad)[own] for name, parameter in parameters.items()}


def flow_module(structure: Structure) -> torch.nn.Module:
    """Build a network of the policy's architecture with the single output log F, in float32."""
    units = structure.layout.units
    with float32_default():
        return structure.arch.build_for(Units(units["input"], units["action"][-1:]))


def state_flow(structure: Structure, members: int, seed: int) -> dict[str, Tensor]:
    """Initialise stacked weights (M, *shape) of a log-flow network for each policy."""
    with seeded_cpu(seed + 1):
        states = [flow_module(structure).state_dict() for _ in range(members)]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


class StackedPolicies(Trainee):
    """M policies, and the gradients of their losses, block by block.

    Attributes:
        structure, options, transitions: what is trained, how, and the task on the device.
        members: M.
        weights: {name: (M, *shape)}.
        log_z: (M,).
        flow: {name: (M, *shape)} of the state flows, empty for objectives that have none.
    """

    def __init__(
        self, structure: Structure, weights: Tensor, options: PolicyOptions, *, seed: int, device: str
    ) -> None:
        self.structure, self.options, self.members = structure, options, len(weights)
        self.weights = {
            n: leaf(t.to(device, copy=True)) for n, t in structure.layout.unflatten(weights.float()).items()
        }
        self._module = structure.module().to(device)
        self.log_z = leaf(torch.zeros(self.members, dtype=torch.float32, device=device))
        self.transitions = structure.transitions(self.log_z.device)  # by index, as that of its states
        self.flow: dict[str, Tensor] = {}
        if options.objective in objectives.WITH_STATE_FLOW:
            self.flow = {
                n: leaf(t.float().to(device)) for n, t in state_flow(structure, self.members, seed).items()
            }
            self._flow_module = flow_module(structure).to(device)

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of weights, log Z and state flows."""
        groups: list[dict[str, Any]] = [{"params": list(self.weights.values())}]
        if self.options.objective == "tb":
            groups.append({"params": [self.log_z], "lr_scale": self.options.log_z_rate})
        if self.flow:
            groups.append({"params": list(self.flow.values()), "lr_scale": self.options.flow_rate})
        return groups

    def parameters(self) -> list[Tensor]:
        """Return all that is learned."""
        return [p for group in self.groups() for p in group["params"]]

    def trace(self, own: slice) -> Trace:
        """Return the policies of a block as a function of states, as `rollouts.sample` needs it."""
        forward = self._forward(self._module, self.weights, own)
        return lambda states: forward(self.structure.observe(states))

    def balance(self, own: slice, rollouts: Rollouts) -> Tensor:
        """Compute the gradients of a block's losses of trajectories in place, and return the losses (m,)."""
        logits = rollouts.logits.requires_grad_()
        log_pf = rollouts.log_pf(logits)
        if self.options.objective == "tb":
            log_z = self.log_z.detach()[own].requires_grad_()
            losses = objectives.trajectory_balance(rollouts, log_pf, log_z)
            by_logits, cast(Tensor, self.log_z.grad)[own] = torch.autograd.grad(losses.sum(), (logits, log_z))
        else:
            forward = self._forward(self._flow_module, self.flow, own)
            log_flow, cache = forward(self.structure.observe(rollouts.states))
            db = self.options.objective == "db"
            loss = objectives.detailed_balance if db else objectives.sub_trajectory_balance
            losses = loss(rollouts, log_pf, rollouts.rows(log_flow.requires_grad_()).squeeze(-1))
            by_logits, by_flow = torch.autograd.grad(losses.sum(), (logits, log_flow))
            self._backward(self._flow_module, self.flow, own, cache, by_flow)
        self._backward(self._module, self.weights, own, rollouts.cache, by_logits)
        return losses.detach()

    def distill(self, own: slice, observed: Tensor, masks: Tensor, optimal: Tensor) -> Tensor:
        """Compute the gradients of a block's losses of distillation in place, and return them (m,).

        Args:
            own: the block.
            observed: (B, ...) policy inputs.
            masks: (B, A) allowed actions.
            optimal: (B, A) optimal policies.
        """
        logits, cache = self._forward(self._module, self.weights, own)(observed)
        losses = objectives.distillation(logits.requires_grad_(), masks, optimal)
        (by_logits,) = torch.autograd.grad(losses.sum(), logits)
        self._backward(self._module, self.weights, own, cache, by_logits)
        return losses.detach()

    def _products(self) -> AbstractContextManager[Any]:
        return products(self.options.precision, self.log_z.device)

    def _forward(self, module: nn.Module, parameters: Mapping[str, Tensor], own: slice) -> Trace:
        """`PolicyArch.forward_with_cache` of a block in the precision of the options, with float32 logits."""
        with self._products():
            forward = self.structure.arch.forward_with_cache(module, values(parameters, own))

        def run(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            with self._products():
                logits, cache = forward(x)
            return logits.float(), cache

        return run

    def _backward(
        self,
        module: nn.Module,
        parameters: Mapping[str, Tensor],
        own: slice,
        cache: tuple[Tensor, ...],
        by_logits: Tensor,
    ) -> None:
        with self._products():
            weights, into = values(parameters, own), grads(parameters, own)
            self.structure.arch.backward(module, weights, cache, by_logits, into)
