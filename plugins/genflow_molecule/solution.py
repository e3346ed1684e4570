"""The exact solution of molecules: every tree, level by level, where all their molecules can be scored.

Shapes: S terminal states, K molecules.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genflow import ExactSolution, GenflowError, StateGraph

from .transitions import MoleculeTransitions

#: states whose molecules are all assembled and scored: a minute's work
MAX_ENUMERATED = 200_000


class MoleculeSolution(ExactSolution):
    """The number of trees is known for any size; they are listed where all can be scored."""

    def __init__(self, transitions: MoleculeTransitions, beta: float) -> None:
        super().__init__(transitions, transitions.trees.count_states())
        self._trees, self._catalogue, self._beta = transitions.trees, transitions.catalogue, beta

    @property
    def enumerable(self) -> bool:
        """Whether all molecules can be scored."""
        return (self.n_states or 0) <= MAX_ENUMERATED

    def require_enumerable(self, what: str, instead: str) -> None:
        """Refuse what needs the score of every molecule where there are too many."""
        if not self.enumerable:
            raise GenflowError(
                f"{what} needs every state, but this structure has {self.n_states:,} states (the limit is"
                f" {MAX_ENUMERATED:,}); {instead}"
            )

    def _enumerate(self) -> StateGraph:
        """The level of a state is its number of blocks."""
        self.require_enumerable("the state graph", "use metrics that sample")
        return self._trees.graph()

    def molecules(self) -> tuple[Tensor, Tensor]:
        """The K different molecules that trajectories can end in, whose target counts each once.

        Returns:
            (S,) int64 the number of the molecule of each terminal state, and (K,) float64 the shares of
            score ** beta.
        """
        return self.kept("molecules", self._molecules)

    def _molecules(self) -> tuple[Tensor, Tensor]:
        graph = self.graph
        smiles = self._catalogue.smiles(graph.states[graph.can_exit])
        numbers = {each: number for number, each in enumerate(dict.fromkeys(smiles))}
        scores = torch.tensor(self._catalogue.score.scores(list(numbers)), dtype=torch.float64)
        owner = torch.tensor([numbers[each] for each in smiles])
        return owner, (self._beta * scores.log()).softmax(0)
