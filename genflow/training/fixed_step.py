"""A training step in tensors of fixed sizes, which CUDA replays as two graphs instead of kernel by kernel.

The rewards stand between the graphs, so that they may be computed by any code.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor

from genflow.fixed_rollouts import FixedRollouts, sample_fixed
from genflow.rollouts import log_rewards
from genflow.training.stacked import StackedPolicies

#: steps before the capture, in which CUDA's libraries make what they need
WARM_UP = 2


class FixedStep:
    """The losses of new trajectories of M policies, and the gradients in place.

    `roll_out` and `learn` neither wait for the device nor depend on values but in tensors.
    """

    def __init__(self, policies: StackedPolicies) -> None:
        self.policies, transitions = policies, policies.transitions
        device, shape = policies.log_z.device, (policies.members, policies.options.batch_size)
        numbers = cast(int, transitions.max_steps), *shape, transitions.n_actions + 1
        # what a step is given: random numbers, the probability of a random action, and the rewards
        self.uniform = torch.full(numbers, 0.5, dtype=torch.float32, device=device)
        self.epsilon = torch.zeros((), dtype=torch.float32, device=device)
        self.log_reward = torch.zeros(shape, dtype=torch.float32, device=device)
        self._everyone = slice(0, policies.members)
        self._roll_out, self._learn = self.roll_out, self.learn

    @classmethod
    def captured(cls, policies: StackedPolicies, warn: Callable[[str], None] | None) -> Self | None:
        """The step as CUDA graphs; None, and a warning in a line, where that is not possible."""
        try:
            if policies.transitions.max_steps is None:
                raise RuntimeError(f"{type(policies.transitions).__name__}.max_steps is not told")
            step = cls(policies)
            step.capture()
            return step
        except RuntimeError as error:  # an operation that waits for the device, or too little memory
            reason = str(error).splitlines()[0]
        torch.cuda.empty_cache()
        if warn is not None:
            warn(
                f"{policies.structure.name}: a training step is not captured in a CUDA graph ({reason});"
                " its kernels are launched one by one, as with cuda_graph=off"
            )
        return None

    def roll_out(self) -> FixedRollouts:
        """Take the steps of all trajectories."""
        trace = self.policies.trace(self._everyone)
        return sample_fixed(self.policies.transitions, trace, self.uniform, self.epsilon)

    def learn(self, rollouts: FixedRollouts) -> tuple[Tensor, Tensor]:
        """Return losses and mean rewards (M,)."""
        losses = self.policies.balance(self._everyone, rollouts.rollouts(self.log_reward))
        return losses, self.log_reward.double().exp().mean(1)

    def __call__(self, epsilon: float, rng: torch.Generator) -> dict[str, Tensor]:
        """Take new trajectories and compute the gradients; return losses and rewards (M,)."""
        self.uniform.uniform_(generator=rng)
        self.epsilon.fill_(epsilon)
        rollouts = self._roll_out()
        rollouts.require_ended()
        self.log_reward.copy_(log_rewards(self.policies.transitions, rollouts.final))
        losses, rewards = self._learn(rollouts)
        return {"loss": losses, "reward": rewards}

    def capture(self) -> None:
        """Replace both parts by graphs, whose kernels work on the tensors of the capture.

        Raises:
            RuntimeError: an operation waits for the device, or the memory does not suffice.
        """
        stream, before = torch.cuda.Stream(), torch.cuda.get_sync_debug_mode()
        stream.wait_stream(torch.cuda.current_stream())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode")  # that it is a prototype
            torch.cuda.set_sync_debug_mode("error")  # before it would spoil a capture
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.learn(self.roll_out())
        finally:
            torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(stream)
        rolling, learning = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(rolling, stream=stream):
            rollouts = self.roll_out()
        with torch.cuda.graph(learning, pool=rolling.pool(), stream=stream):
            found = self.learn(rollouts)

        def replay_rollouts() -> FixedRollouts:
            rolling.replay()
            return rollouts

        def replay_learn(rollouts: FixedRollouts) -> tuple[Tensor, Tensor]:
            learning.replay()
            return found

        self._roll_out, self._learn = replay_rollouts, replay_learn
