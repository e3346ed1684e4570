"""`Transitions`: how the states of a task change, and what they are worth, as tensor operations.

Shapes: B states, A actions (the last is exit), s inputs. States are torchgfn's tensors (..., *state_shape)
with any leading shape unless (B, *state_shape) is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor


class Transitions:
    """A task's tensor operations on one device, by default torchgfn's.

    A task overrides those that a few tensor operations do faster. What a method returns is on the device of
    the states that it is given.
    """

    def __init__(
        self,
        make: Callable[[torch.device], tuple[DiscreteEnv, Preprocessor]],
        device: torch.device | str = "cpu",
    ) -> None:
        """Bind to a device.

        Args:
            make: `Environment.make`; called when torchgfn's environment is first needed.
            device: where states are.
        """
        self._make = make
        self.device = torch.device(device)

    @cached_property
    def _made(self) -> tuple[DiscreteEnv, Preprocessor]:
        return self._make(self.device)

    @property
    def env(self) -> DiscreteEnv:
        """The torchgfn environment, built once."""
        return self._made[0]

    @property
    def preprocessor(self) -> Preprocessor:
        """The torchgfn preprocessor, built once."""
        return self._made[1]

    @property
    def n_actions(self) -> int:
        """A, with exit."""
        return self.env.n_actions

    @property
    def initial_state(self) -> Tensor:
        """The state that every trajectory starts from (*state_shape)."""
        return self.env.s0

    def forward_masks(self, states: Tensor) -> Tensor:
        """States (..., *state_shape) -> allowed actions (..., A) bool."""
        return self.env.States(states).forward_masks

    def n_parents(self, states: Tensor) -> Tensor:
        """States (..., *state_shape) -> (...) number of states that lead to each."""
        return self.env.States(states).backward_masks.sum(-1)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """States (..., *state_shape) after allowed actions (...); exit leaves a state as it is."""
        moving = actions != self.n_actions - 1
        stepped = states.clone()
        if moving.any():
            taken = self.env.actions_from_tensor(actions[moving][:, None])
            stepped[moving] = self.env.step(self.env.States(states[moving]), taken).tensor
        return stepped

    def state_ids(self, states: Tensor) -> Tensor | None:
        """States (..., *state_shape) -> (...) int64, different for different states.

        None: this task does not number them.
        """
        return None

    def inputs(self, states: Tensor) -> Tensor:
        """States (B, *state_shape) -> policy inputs (B, s) float32."""
        return self.preprocessor(self.env.States(states)).float()

    def one_hot_indices(self, states: Tensor) -> Tensor | None:
        """Which inputs are 1, where inputs are 0 but for k ones: (..., *state_shape) -> (..., k) int64.

        None: inputs are not of that kind.
        """
        return None

    @torch.no_grad()
    def log_reward(self, states: Tensor) -> Tensor:
        """Terminal states (B, *state_shape) -> (B,) float64 log R(x), without a graph."""
        return self.env.log_reward(self.env.States(states)).detach().double()

    def is_mode(self, states: Tensor) -> Tensor | None:
        """Terminal states (B, *state_shape) -> (B,) bool, which are modes of the reward.

        None: this task does not say.
        """
        return None
