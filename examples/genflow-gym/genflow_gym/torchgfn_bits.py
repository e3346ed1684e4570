"""torchgfn's bit sequences, put right where a step or its undoing writes into what it was given.

Apart from `bits`, because importing `gfn.gym` takes seconds and sets how processes start.
"""

from __future__ import annotations

import warnings

from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from gfn.gym.bitSequence import BitSequence
    from gfn.gym.bitSequenceNonAutoregressive import NonAutoregressiveBitSequence


class Appended(BitSequence):
    """Words are appended. torchgfn's steps change the states that they are given, and its undoing of a step
    empties the last place of each state in all of them."""

    def __init__(self, word_size: int, modes: Tensor, temperature: float, device: str) -> None:
        self._given = modes
        super().__init__(word_size, modes.shape[1], len(modes), temperature, device_str=device)

    def make_modes_set(self, seed):
        """The modes that were given, in place of drawn ones."""
        return self._given

    def step(self, states, actions):
        """The next word at the first empty place."""
        return self.States(states.tensor.scatter(-1, states.length[..., None], actions.tensor))

    def backward_step(self, states, actions):
        """Nothing at the last place that is filled."""
        return self.States(states.tensor.scatter(-1, states.length[..., None] - 1, -1))


class Placed(NonAutoregressiveBitSequence):
    """Words are placed in any order; torchgfn's is right, and with given modes draws nothing."""

    def __init__(self, word_size: int, modes: Tensor, reward_exponent: float, device: str) -> None:
        super().__init__(word_size, modes.shape[1], len(modes), reward_exponent, H=modes, device_str=device)
