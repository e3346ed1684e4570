"""torchgfn's sets, energies and trees, put right where they are not.

Apart from the modules that use them, because importing `gfn.gym` takes seconds and sets how processes start.
"""

from __future__ import annotations

import warnings

from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from gfn.gym.discrete_ebm import DiscreteEBM, EnergyFunction
    from gfn.gym.perfect_tree import PerfectBinaryTree
    from gfn.gym.set_addition import SetAddition

__all__ = ["Energy", "Filled", "SetAddition", "VectorTree"]


class Energy(EnergyFunction):
    """E(s) = - s^T J s - h s. torchgfn's `IsingModel` has no h, and rewards that carry gradients to J."""

    def __init__(self, couplings: Tensor, fields: Tensor) -> None:
        super().__init__()
        self.register_buffer("couplings", couplings)
        self.register_buffer("fields", fields)

    def forward(self, states: Tensor) -> Tensor:
        """(*batch, n) of -1 and 1 to (*batch,) float64."""
        states = states.double()
        return -((states @ self.couplings) * states).sum(-1) - states @ self.fields


class Filled(DiscreteEBM):
    """Spins are set in any order. torchgfn's steps write into the states that they are given."""

    def step(self, states, actions):
        """The spin of a site."""
        return self.States(states.tensor.scatter(-1, actions.tensor % self.ndim, actions.tensor // self.ndim))


class VectorTree(PerfectBinaryTree):
    """The same tree by arithmetic: torchgfn looks each step up in a dict, and flattens batches."""

    def step(self, states, actions):
        """To a child."""
        return self.States(2 * states.tensor + 1 + actions.tensor)

    def backward_step(self, states, actions):
        """To the parent."""
        return self.States((states.tensor - 1).div(2, rounding_mode="floor"))
