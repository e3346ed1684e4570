"""`Environment`: one GFlowNet task.

Shapes: M policies, S states, A actions (the last is exit), s inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from genflow import exact
from genflow.errors import GenflowError
from genflow.interfaces.configured import Configured
from genflow.interfaces.gallery import Gallery

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor

    from genflow.population import Population

#: Above this many states a task counts as too large to enumerate.
MAX_STATES = 2_000_000


class Environment(Configured, ABC):
    """One GFlowNet task. Subclasses wrap a torchgfn `DiscreteEnv` with a uniform backward policy.

    Only the four abstract methods are needed. A task with `n_states` gets the exact abilities (`target`,
    `terminal_distribution`, `optimal_flows`) from its `graph`, which is enumerated from the torchgfn
    environment unless the subclass computes it faster.
    """

    #: Named structures: preset name -> fields of the environment and of the policy.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Presets that a zoo is trained on when none is named.
    default_structures: ClassVar[tuple[str, ...]] = ()
    #: Fields that `features` express beside those that `condition` names: a generator takes any value of
    #: them.
    described: ClassVar[frozenset[str]] = frozenset()
    #: Generators that ship with the plugin, ``"package:folder"`` each; the first that covers a structure
    #: serves it.
    pretrained: ClassVar[tuple[str, ...]] = ()
    #: Whether whole numbers of a state are places along axes, so that a report draws distributions over the
    #: first two.
    positional: ClassVar[bool] = True

    @abstractmethod
    def make(self, device: str | torch.device = "cpu") -> tuple[DiscreteEnv, Preprocessor]:
        """Build the torchgfn environment and the preprocessor whose output is the policy's input."""

    @abstractmethod
    def condition(self) -> dict[str, float]:
        """The environment's part of c, e.g. ``{"state_dim": s, "height": h, "ndim": n}``.

        A key that is also a field of the Config is a field that a generator can vary.
        """

    @abstractmethod
    def input_coordinates(self) -> Tensor:
        """(s, F) float: what each input unit means."""

    @abstractmethod
    def action_coordinates(self) -> Tensor:
        """(A, G) float: what each action means; the last row is exit."""

    def features(self) -> dict[str, Tensor]:
        """More about ``"input"`` and ``"action"`` units for networks that make weights: label -> (units, G).

        A label that is left out is described by its coordinates. A column of whole numbers that exceed 1 is a
        name, not an amount.
        """
        return {}

    def initial_logits(self) -> Tensor | None:
        """(A,) what an untrained policy prefers, added to the biases of its outputs; None: nothing.

        Where hundreds of actions stand against one exit, untrained policies would never stop.
        """
        return None

    @property
    def n_states(self) -> int | None:
        """Number of states, or None if it is not known."""
        return None

    @property
    def enumerable(self) -> bool:
        """Whether exact metrics can be computed."""
        return self.n_states is not None and self.n_states <= MAX_STATES

    @property
    def gfn(self) -> tuple[DiscreteEnv, Preprocessor]:
        """The torchgfn environment and preprocessor on the CPU, built once."""
        return self.gfn_on(torch.device("cpu"))

    def gfn_on(self, device: torch.device) -> tuple[DiscreteEnv, Preprocessor]:
        """The torchgfn environment and preprocessor on a device, built once."""
        made = self.__dict__.setdefault("_made", {})
        if device not in made:
            made[device] = self.make(device)
        return made[device]

    @cached_property
    def n_actions(self) -> int:
        """A, with exit."""
        return len(self.action_coordinates())

    # What follows is computed by torchgfn; a task overrides it where a few tensor operations do the same, for
    # speed. States are torchgfn's tensors with any leading shape, (..., *state_shape).

    def start(self, device: torch.device) -> Tensor:
        """The initial state (*state_shape)."""
        return self.gfn_on(device)[0].s0

    def forward_masks(self, states: Tensor) -> Tensor:
        """States (..., *state_shape) -> allowed actions (..., A) bool."""
        return self.gfn_on(states.device)[0].States(states).forward_masks

    def n_parents(self, states: Tensor) -> Tensor:
        """States (..., *state_shape) -> (...) number of states that lead to each."""
        return self.gfn_on(states.device)[0].States(states).backward_masks.sum(-1)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """States (..., *state_shape) after allowed actions (...); exit leaves a state as it is."""
        env, _ = self.gfn_on(states.device)
        moving = actions != self.n_actions - 1
        stepped = states.clone()
        if moving.any():
            stepped[moving] = env.step(
                env.States(states[moving]), env.actions_from_tensor(actions[moving][:, None])
            ).tensor
        return stepped

    def indices(self, states: Tensor) -> Tensor | None:
        """States (..., *state_shape) -> (...) int64, different for different states; None: this task does not number them."""
        return None

    def inputs(self, states: Tensor) -> Tensor:
        """torchgfn state tensors (B, *state_shape) -> policy inputs (B, s) float32."""
        env, preprocessor = self.gfn_on(states.device)
        return preprocessor(env.States(states)).float()

    def active(self, states: Tensor) -> Tensor | None:
        """Where inputs are 0 but for k ones: states (..., *state_shape) -> (..., k) int64, which inputs are 1; None: they are not."""
        return None

    @torch.no_grad()
    def log_reward(self, states: Tensor) -> Tensor:
        """(B, *state_shape) -> (B,) float64 log R(x)."""
        env, _ = self.gfn_on(states.device)
        return env.log_reward(env.States(states)).double()

    def is_mode(self, states: Tensor) -> Tensor | None:
        """(B, *state_shape) -> (B,) bool: which of these objects are modes of the reward; None: this task does not say."""
        return None

    @property
    def gallery(self) -> Gallery | None:
        """How a report shows the best objects that policies sample; None: it shows none."""
        return None

    def require_enumerable(self, what: str, instead: str) -> None:
        """Refuse an exact computation on a task that is too large for it.

        Raises:
            GenflowError: says what to do `instead`.
        """
        if not self.enumerable:
            size = f"{self.n_states:,}" if self.n_states is not None else "an unknown number of"
            raise GenflowError(
                f"{what} needs every state, but this structure has {size} states (the limit is {MAX_STATES:,}); {instead}"
            )

    @cached_property
    def graph(self) -> exact.StateGraph:
        """Every state; torchgfn's state order is the order of `target`."""
        self.require_enumerable("the state graph", "use metrics that sample")
        return exact.enumerate_states(self.gfn[0], MAX_STATES)

    @cached_property
    def _log_reward_S(self) -> Tensor:
        graph = self.graph
        log_reward = torch.full((len(graph.states),), -torch.inf, dtype=torch.float64)
        log_reward[graph.can_exit] = self.log_reward(graph.states[graph.can_exit])
        return log_reward

    def log_partition(self) -> float:
        """Log of the sum of rewards over all terminal states."""
        return float(self._log_reward_S.logsumexp(0))

    def target(self) -> Tensor:
        """(S,) float64: R(x) / Z."""
        return self._log_reward_S.softmax(0)

    @cached_property
    def _flows(self) -> exact.Flows:
        return exact.optimal_flows(self.graph, self._log_reward_S)

    def optimal_flows(self) -> exact.Flows:
        """The flows, and the policy, that sample the target exactly."""
        return self._flows

    def require_expert(self) -> None:
        """Refuse a task whose optimal policy cannot be computed.

        Raises:
            GenflowError: says what to do instead.
        """
        self.require_enumerable("the optimal policy", "use a balance objective, e.g. zoo.objective=tb")

    @cached_property
    def expert(self) -> exact.Expert:
        """Draws states with the optimal policy there; a task with symmetries may override it for far larger structures."""
        self.require_expert()
        graph, flows = self.graph, self.optimal_flows()
        mask = graph.mask(torch.arange(len(graph.states)))
        return exact.Expert(graph.states, flows.policy.float(), mask, flows.visit)

    def terminal_distribution(self, population: Population, max_floats: int = 2**19) -> Tensor:
        """(M, S) float64: the exact probability of ending in each state.

        Args:
            population: policies of this environment.
            max_floats: bound on the activations of a layer held at once; the default fits a processor's
                cache.
        """
        graph = self.graph
        widest = max(max(shape) for shape in population.layout.shapes.values())
        rows = max(1, max_floats // (len(population) * widest))
        return exact.terminal_distribution(
            graph, lambda index: population.trace(graph.states[index])[0], len(population), rows
        )
