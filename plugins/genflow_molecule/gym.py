"""The torchgfn side: trees of blocks as a `DiscreteEnv`.

Imports torchgfn, which takes seconds: import it late.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from gfn.actions import Actions
from gfn.env import DiscreteEnv
from gfn.preprocessors import Preprocessor
from gfn.states import DiscreteStates, States
from torch import Tensor

from .trees import Trees


class MoleculeEnv(DiscreteEnv):
    """States and actions as in `trees`; the reward is a function of states."""

    def __init__(self, trees: Trees, log_reward: Callable[[Tensor], Tensor]) -> None:
        """Build the environment.

        Args:
            trees: on the device that states are on.
            log_reward: (B, 3N) -> (B,) float64.
        """
        self.trees, self._log_reward = trees, log_reward
        super().__init__(n_actions=trees.n_actions, s0=trees.start, state_shape=tuple(trees.start.shape))

    def make_states_class(self) -> type[DiscreteStates]:
        """States that know which blocks can be added and removed."""
        trees = self.trees

        class MoleculeStates(super().make_states_class()):  # type: ignore[misc]
            def _compute_forward_masks(self) -> Tensor:
                return trees.forward_masks(self.tensor)

            def _compute_backward_masks(self) -> Tensor:
                return trees.backward_masks(self.tensor)

        return MoleculeStates

    def step(self, states: States, actions: Actions) -> States:
        """Add a block; torchgfn itself handles the exit."""
        return self.states_from_tensor(self.trees.step(states.tensor, actions.tensor.squeeze(-1)))

    def backward_step(self, states: States, actions: Actions) -> States:
        """Remove a block."""
        return self.states_from_tensor(self.trees.backward_step(states.tensor, actions.tensor.squeeze(-1)))

    def log_reward(self, states: States) -> Tensor:  # type: ignore[override]
        """The logarithm of the reward (*batch_shape,), of torch's default type."""
        tensor = states.tensor
        values = self._log_reward(tensor.reshape(-1, tensor.shape[-1])).reshape(tensor.shape[:-1])
        return values.to(torch.get_default_dtype())

    def reward(self, states: States) -> Tensor:  # type: ignore[override]
        """The reward (*batch_shape,), of torch's default type."""
        return self.log_reward(states).exp()


class OneHot(Preprocessor):
    """One input for every value of every digit of a state."""

    def __init__(self, trees: Trees) -> None:
        super().__init__(output_dim=sum(trees.radices), target_dtype=torch.get_default_dtype())
        self.trees = trees

    def preprocess(self, states: States) -> Tensor:
        """The one-hot inputs (*batch_shape, s), of the target type."""
        return self.trees.one_hot(states.tensor, self.target_dtype or torch.get_default_dtype())
