"""Transitions of trees of blocks, and what their molecules are worth.

Shapes: N slots, B states, states (..., 3N) int64, A actions (the last is exit), s inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genflow import Transitions

from .catalogue import Catalogue
from .trees import Trees


class MoleculeTransitions(Transitions):
    """Trees by tensor operations; the reward by looking their molecules up.

    Attributes:
        trees: on the device.
        catalogue: the molecules and their scores.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        device: torch.device,
        trees: Trees,
        catalogue: Catalogue,
        beta: float,
        multiplicity: Callable[[], Mapping[str, int]] | None,
        see: Callable[[Sequence[str], Sequence[float]], None],
    ) -> None:
        """Bind to a device.

        Args:
            make: `Molecule.make`.
            device: where states are.
            trees: on any device.
            catalogue: the molecules and their scores.
            beta: the reward is the score to this power.
            multiplicity: returns how many states each molecule has, by which its reward is divided; None: 1.
            see: is shown the molecules that are paid for, by SMILES, and their scores.
        """
        super().__init__(make, device)
        self.trees, self.catalogue = trees.to(device), catalogue
        self._beta, self._multiplicity, self._see = beta, multiplicity, see

    @property
    def n_actions(self) -> int:
        """The number of actions, (1 + (N-2) T) E + 1 for T stems and E entries."""
        return self.trees.n_actions

    @property
    def initial_state(self) -> Tensor:
        """The state without a block: (3N,) zeros."""
        return self.trees.start

    def forward_masks(self, states: Tensor) -> Tensor:
        """Which actions are allowed: (..., 3N) -> (..., A) bool."""
        return self.trees.forward_masks(states)

    def n_parents(self, states: Tensor) -> Tensor:
        """How many blocks could have been the last: (..., 3N) -> (...)."""
        return self.trees.n_parents(states)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Join blocks: states (..., 3N), actions (...) -> (..., 3N)."""
        return self.trees.step(states, actions)

    def state_ids(self, states: Tensor) -> Tensor | None:
        """The numbers of states, (..., 3N) -> (...), where they fit 64 bits."""
        return self.trees.indices(states)

    def one_hot_indices(self, states: Tensor) -> Tensor:
        """The input of each digit that is 1: (..., 3N) -> (..., 2N-2)."""
        return self.trees.one_hot_indices(states)

    def inputs(self, states: Tensor) -> Tensor:
        """The one-hot inputs of states: (B, 3N) -> (B, s)."""
        return self.trees.one_hot(states, torch.float32)

    @torch.no_grad()
    def log_reward(self, states: Tensor) -> Tensor:
        """Log R of states, (B, 3N) -> (B,) float64; where a state is not terminal, the least."""
        smiles = self.catalogue.smiles(states)
        scores = self.catalogue.score.scores(smiles)
        self._see(smiles, scores)
        log_reward = self._beta * torch.tensor(scores, dtype=torch.float64).log()
        if self._multiplicity is not None:
            known = self._multiplicity()
            counts = [max(1, known.get(each, 0)) for each in smiles]
            log_reward -= torch.tensor(counts, dtype=torch.float64).log()
        return log_reward.to(states.device)

    def is_mode(self, states: Tensor) -> Tensor:
        """Which states are modes, (B, 3N) -> (B,): as the reward says, else those with a high score."""
        return self.catalogue.modes(states).to(states.device)
