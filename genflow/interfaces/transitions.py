"""`Transitions`: masks, steps, inputs and rewards of the states of a task, as tensor operations.

Shapes: B states, A actions (the last is exit), s inputs. States are torchgfn's tensors (..., *state_shape)
with any leading shape unless (B, *state_shape) is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from genflow.errors import GenflowError

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor

#: backward policies that need nothing but the graph of states: uniform over the parents of a state, as
#: torchgfn's; or the maximum-entropy one, under which all trajectories to a state are equally likely
#: (Mohammadpour et al., "Maximum entropy GFlowNets with soft Q-learning", 2024)
BackwardPolicy = Literal["uniform", "maxent"]
BACKWARD_POLICIES: tuple[BackwardPolicy, ...] = get_args(BackwardPolicy)


class Transitions:
    """The tensor operations of a task on one device, by default torchgfn's.

    A task may override any of them with faster ones. A method returns tensors on the device of the states
    that it is given.

    Attributes:
        backward: the name of the backward policy: one of `BACKWARD_POLICIES`, or one of the task's own,
            whose Transitions override `log_pb`.
    """

    #: set by the structure, as `Environment.backward` says
    backward: str = "uniform"

    def __init__(
        self,
        make: Callable[[torch.device], tuple[DiscreteEnv, Preprocessor]],
        device: torch.device | str = "cpu",
    ) -> None:
        """Create the transitions on a device.

        Args:
            make: `Environment.make`, called when torchgfn's environment is first needed.
            device: the device of the states.
        """
        self._make = make
        self.device = torch.device(device)

    @cached_property
    def _made(self) -> tuple[DiscreteEnv, Preprocessor]:
        made = self._make(self.device)
        require_discrete(getattr(self._make, "__qualname__", "make"), made)
        return made

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
        """The number of actions A, including exit."""
        return self.env.n_actions

    @property
    def initial_state(self) -> Tensor:
        """The state (*state_shape) that every trajectory starts from."""
        return self.env.s0

    @property
    def max_steps(self) -> int | None:
        """The most steps of a trajectory, exit included, or None if the task does not say.

        A task that says it, and whose operations neither wait for the device nor make tensors whose size
        depends on values, is trained by a CUDA graph.
        """
        return None

    def forward_masks(self, states: Tensor) -> Tensor:
        """Return the allowed actions (..., A) in states (..., *state_shape), as bool."""
        return self.env.States(states).forward_masks

    def n_parents(self, states: Tensor) -> Tensor:
        """Return the number of parents (...) of states (..., *state_shape)."""
        return self.env.States(states).backward_masks.sum(-1)

    def log_n_trajectories(self, states: Tensor) -> Tensor | None:
        """Return the log of the number of trajectories (...) to states (..., *state_shape), in float64.

        The result is None if the task does not know it; the backward policy "maxent" needs it.
        """
        return None

    def log_pb(self, parents: Tensor, states: Tensor) -> Tensor:
        """Return log P_B (...) in float64 of steps from parents to states, both (..., *state_shape).

        It is - log of the number of parents under "uniform" and log n(parent) - log n(state) under "maxent",
        with n the number of trajectories. A task whose backward policy has a name of its own overrides this
        method. It must be finite for every step, and add up to 1 over the parents of a state.
        """
        if self.backward == "uniform":
            return -self.n_parents(states).clamp(min=1).double().log()
        return self._log_n(parents) - self._log_n(states)

    def log_pb_where(self, steps: Tensor, parents: Tensor, states: Tensor) -> Tensor:
        """Return log P_B (...) of the pairs that are `steps` (...), and anything of the others."""
        if self.backward in BACKWARD_POLICIES:
            return self.log_pb(parents, states)
        # one of the task's own need not bear pairs that are no step
        log_pb = torch.zeros(steps.shape, dtype=torch.float64, device=steps.device)
        log_pb[steps] = self.log_pb(parents[steps], states[steps]).double()
        return log_pb

    def backward_probs(self, states: Tensor) -> Tensor:
        """Return P_B (B, A - 1) in float64 of undoing each action in states (B, *state_shape).

        Rows of states without parents, such as the initial one, are 0.
        """
        masks = self.env.States(states).backward_masks
        if self.backward == "uniform":
            return masks.double() / masks.sum(1, keepdim=True).clamp(min=1)
        rows, actions = masks.nonzero(as_tuple=True)
        parents = self.env.backward_step(
            self.env.States(states[rows]), self.env.actions_from_tensor(actions[:, None])
        ).tensor
        probs = torch.zeros(masks.shape, dtype=torch.float64, device=states.device)
        probs[rows, actions] = self.log_pb(parents, states[rows]).double().exp()
        return probs

    def _log_n(self, states: Tensor) -> Tensor:
        """`log_n_trajectories`, of a task that knows it."""
        found = self.log_n_trajectories(states)
        if found is None:
            raise GenflowError(
                f"the backward policy {self.backward!r} needs the number of trajectories to a state, and"
                f" {type(self).__name__}.log_n_trajectories does not say it; use backward=uniform"
            )
        return found

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Apply allowed actions (...) to states (..., *state_shape), where exit does not change a state."""
        moving = actions != self.n_actions - 1
        stepped = states.clone()
        if moving.any():
            taken = self.env.actions_from_tensor(actions[moving][:, None])
            stepped[moving] = self.env.step(self.env.States(states[moving]), taken).tensor
        return stepped

    def state_ids(self, states: Tensor) -> Tensor | None:
        """Return a unique number (...) in int64 for states (..., *state_shape).

        The result is None if the task does not number its states.
        """
        return None

    def inputs(self, states: Tensor) -> Tensor:
        """Return the policy inputs (B, s) of states (B, *state_shape), as float32."""
        return self.preprocessor(self.env.States(states)).float()

    def one_hot_indices(self, states: Tensor) -> Tensor | None:
        """Return the indices (..., k) in int64 of the inputs that are 1, for states (..., *state_shape).

        The result is None unless exactly k inputs are 1 and all others 0.
        """
        return None

    @torch.no_grad()
    def log_reward(self, states: Tensor) -> Tensor:
        """Return log R(x) of terminal states (B, *state_shape) as (B,) float64, without an autograd graph.

        Raises:
            GenflowError: the environment returns another shape.
        """
        log_reward = self.env.log_reward(self.env.States(states)).detach().double()
        if log_reward.shape != states.shape[:1]:
            raise GenflowError(
                f"{type(self.env).__name__}: the reward of {len(states)} states is of shape"
                f" {tuple(log_reward.shape)}; it must be ({len(states)},), a number for each state"
            )
        return log_reward

    def is_mode(self, states: Tensor) -> Tensor | None:
        """Return which terminal states (B, *state_shape) are modes of the reward, as (B,) bool.

        The result is None if the task does not define modes.
        """
        return None


def require_discrete(where: str, made: Any) -> None:
    """Raise an error unless `made` is a torchgfn environment that genflow can use, and its preprocessor.

    Args:
        where: the function that returned it, e.g. ``Bits.make``.
        made: what it returned.

    Raises:
        GenflowError: it is something else, e.g. an environment with continuous actions or graphs as states.
    """
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor

    parts = made if isinstance(made, tuple) else (made,)
    found = ", ".join(type(each).__name__ for each in parts)
    if len(parts) != 2 or not isinstance(parts[1], Preprocessor):
        raise GenflowError(
            f"{where}() returns {found}; return two things, a torchgfn DiscreteEnv and the Preprocessor that"
            " makes the policy's inputs"
        )
    env = parts[0]
    if not isinstance(env, DiscreteEnv) or not isinstance(env.s0, Tensor) or env.is_conditional:
        raise GenflowError(
            f"{where}() returns {found}; the environment must be a torchgfn DiscreteEnv with tensors as"
            " states: continuous actions, graphs and conditional environments are not supported"
        )
