"""The five interfaces that plugins implement: Environment, PolicyArch, Encoder, Denoiser, Metric; and Gallery, an Environment's pictures.

Shapes: M policies, D parameters a policy, Z latent size, S states, A actions (the last is exit), s inputs, C conditions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from genflow import exact
from genflow.errors import GenflowError
from genflow.layout import WeightLayout
from genflow.schema import Schema, validate

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor

    from genflow.population import Population
    from genflow.structure import Structure

#: (B, ...) -> standard normal numbers (B, ...) for these policies of a batch, the same whichever worker has them
Noise = Callable[[Tensor], Tensor]
#: latents (B, Z) -> what the denoiser says of them (B, Z), at one step and under one condition
Prediction = Callable[[Tensor], Tensor]
#: Above this many states a task counts as too large to enumerate.
MAX_STATES = 2_000_000


class Configured:
    """A component that is built from a frozen, validated `Config`."""

    class Config(Schema):
        """Options of this component; unknown keys are refused."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config if config is not None else self.Config()

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Build from plain values.

        Raises:
            GenflowError: a value is wrong or a key unknown; `where` leads the message.
        """
        return cls(validate(cls.Config, values, where or cls.__name__))


class Gallery(ABC):
    """How a report shows the objects of a task. States are terminal, (B, *state_shape)."""

    #: What `scores` are, in a few words, e.g. ``"reward"``.
    score: str

    @abstractmethod
    def names(self, states: Tensor) -> list[str]:
        """B names, equal for states that are the same object, which is shown once; ``""`` for a state that is not to be shown."""

    @abstractmethod
    def scores(self, states: Tensor) -> Tensor:
        """(B,) float64, finite: by how much people would rank them; the highest are shown."""

    @abstractmethod
    def draw(self, states: Tensor) -> list[bytes]:
        """B PNGs of states that have a name. Those that are seen side by side come at once, so that all can be of one size and scale."""


class Environment(Configured, ABC):
    """One GFlowNet task. Subclasses wrap a torchgfn `DiscreteEnv` with a uniform backward policy.

    Only the four abstract methods are needed. A task with `n_states` gets the exact abilities (`target`,
    `terminal_distribution`, `optimal_flows`) from its `graph`, which is enumerated from the torchgfn environment
    unless the subclass computes it faster.
    """

    #: Named structures: preset name -> fields of the environment and of the policy.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Presets that a zoo is trained on when none is named.
    default_structures: ClassVar[tuple[str, ...]] = ()
    #: Fields that `features` express beside those that `condition` names: a generator takes any value of them.
    described: ClassVar[frozenset[str]] = frozenset()
    #: Generators that ship with the plugin, ``"package:folder"`` each; the first that covers a structure serves it.
    pretrained: ClassVar[tuple[str, ...]] = ()
    #: Whether whole numbers of a state are places along axes, so that a report draws distributions over the first two.
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

        A label that is left out is described by its coordinates. A column of whole numbers that exceed 1 is a name, not an amount.
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

    # What follows is computed by torchgfn; a task overrides it where a few tensor operations do the same, for speed. States are
    # torchgfn's tensors with any leading shape, (..., *state_shape).

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
            stepped[moving] = env.step(env.States(states[moving]), env.actions_from_tensor(actions[moving][:, None])).tensor
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
            raise GenflowError(f"{what} needs every state, but this structure has {size} states (the limit is {MAX_STATES:,}); {instead}")

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
            max_floats: bound on the activations of a layer held at once; the default fits a processor's cache.
        """
        graph = self.graph
        widest = max(max(shape) for shape in population.layout.shapes.values())
        rows = max(1, max_floats // (len(population) * widest))
        return exact.terminal_distribution(graph, lambda index: population.trace(graph.states[index])[0], len(population), rows)


class PolicyArch(Configured, ABC):
    """An architecture of the forward policy: a family of networks from state features to action logits."""

    #: Whether `tracer` reads `Environment.active` instead of inputs where a task has it.
    takes_active: ClassVar[bool] = False

    @abstractmethod
    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """A freshly initialised network (B, n_inputs) -> (B, n_outputs)."""

    @abstractmethod
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Parameter name -> label of each axis; the input axis is ``"input"``, the output axis ``"action"``."""

    @abstractmethod
    def condition(self) -> dict[str, float]:
        """The architecture's part of c, e.g. ``{"width": d}``."""

    def layout(self, environment: Environment) -> WeightLayout:
        """The layout of this architecture's weights for an environment."""
        coordinates = {"input": environment.input_coordinates().float(), "action": environment.action_coordinates().float()}
        with torch.device("meta"):  # shapes only: nothing is allocated, no random numbers are drawn
            module = self.build(len(coordinates["input"]), len(coordinates["action"]))

        def features() -> dict[str, Tensor]:
            return {label: table.float() for label, table in environment.features().items()}

        return WeightLayout.of(module, self.axes(), coordinates, features)

    def forward(self, module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Evaluate M networks at once.

        Args:
            module: a network of this architecture, whose own weights are not read.
            weights: {name: (M, *shape)}.
            x: (B, s) shared by all networks or (M, B, s).

        Returns:
            (M, B, outputs)
        """
        single = lambda w, inputs: torch.func.functional_call(module, w, (inputs,))  # noqa: E731
        return torch.func.vmap(single, in_dims=(0, 0 if x.ndim == 3 else None))(dict(weights), x)

    def tracer(self, module: nn.Module, weights: Mapping[str, Tensor]) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]:
        """`forward` without a graph, prepared for many calls with the same weights.

        Args:
            module: as in `forward`.
            weights: as in `forward`.

        Returns:
            x as in `forward`, or with `takes_active` (B, k) or (M, B, k) int64 -> logits (M, B, outputs), and what `gradients` needs to
            know of the pass: tensors (M, B, ...).
        """
        weights = {name: tensor.detach() for name, tensor in weights.items()}

        def trace(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            with torch.no_grad():
                logits = self.forward(module, weights, x)
            return logits, (x.expand(len(logits), *x.shape[-2:]),)

        return trace

    def gradients(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        kept: tuple[Tensor, ...],
        grad_logits: Tensor,
        into: Mapping[str, Tensor],
    ) -> None:
        """Back-propagate through a pass of `tracer`. By default the pass is done again; an architecture that keeps its layers spares that.

        Args:
            module: as in `forward`.
            weights: as in `forward`.
            kept: what the pass kept, or several passes joined along their second axis.
            grad_logits: (M, B, outputs) gradient of a loss by its logits.
            into: {name: (M, *shape)}, overwritten with the gradient of the loss by the weights.
        """
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        with torch.enable_grad():
            logits = self.forward(module, leaves, kept[0])
        found = torch.autograd.grad(logits, list(leaves.values()), grad_logits, allow_unused=True, materialize_grads=True)
        for name, gradient in zip(leaves, found, strict=True):
            into[name].copy_(gradient)


class Encoder(Configured, nn.Module, ABC):
    """Autoencoder of policy weights.

    `for_zoo` sizes and normalises it, the training loop calls `reconstruct` on batches, and everything that `decode` needs
    is in `spec` and ``state_dict()``.
    """

    #: Z
    latent_size: int

    @classmethod
    @abstractmethod
    def for_zoo(cls, config: Any, populations: list[Population]) -> Self:
        """An untrained encoder that fits a zoo: its sizes, and its normalisation as buffers."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able facts that `from_spec` needs."""

    @classmethod
    @abstractmethod
    def from_spec(cls, config: Any, spec: dict[str, Any]) -> Self:
        """Rebuild a module of the same shape, before its ``state_dict()`` is loaded."""

    @abstractmethod
    def encode(self, population: Population) -> Tensor:
        """(M, D) weights of one structure -> (M, Z) latents, without noise."""

    @abstractmethod
    def decode(self, latents: Tensor, layout: WeightLayout, condition: Tensor) -> Tensor:
        """(M, Z) latents -> (M, D) weights for a layout and its condition (C,).

        Raises:
            GenflowError: the layout is outside what this encoder can decode.
        """

    def decode_all(self, items: Sequence[tuple[Tensor, WeightLayout, Tensor]]) -> list[Tensor]:
        """`decode` for several structures, each (latents, layout, condition); override it where one pass can make them all."""
        return [self.decode(*item) for item in items]

    def noisy(self, latents: Tensor, noise: Noise) -> Tensor:
        """Latents with the noise that training adds; by default none."""
        return latents

    def share(self, layout: WeightLayout) -> float:
        """How much a policy of this layout counts in the mean loss on weights; by default all count the same."""
        return 1.0

    def check(self, layout: WeightLayout) -> None:
        """Refuse a layout that `decode` cannot make; by default all are fine.

        Raises:
            GenflowError: says what this encoder covers.
        """

    @abstractmethod
    def reconstruct(self, populations: list[Population], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """One training pass over the B policies of several populations, with the encoder's own noise.

        Returns:
            (B,) the loss on weights of each policy, and for each population its reconstructed weights (M, D), with gradient.
        """


class Denoiser(Configured, nn.Module, ABC):
    """Network of the conditional latent diffusion model. Noise schedules and samplers are not its business."""

    def __init__(self, config: Any = None, *, latent_size: int, condition_size: int) -> None:
        super().__init__(config)
        self.latent_size = latent_size
        self.condition_size = condition_size

    @abstractmethod
    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict epsilon, v or x0 (B, Z) from noised latents (B, Z), steps (B,) and conditions (B, C).

        A row of NaN in `condition` means "no condition" (classifier-free guidance).
        """

    def prepare(self, t: Tensor, condition: Tensor) -> Sequence[Prediction]:
        """`forward` at each of the steps t (N,) under one condition (C,), as N functions (B, Z) -> (B, Z).

        Sampling calls these; override it where something does not depend on the latents and is better done once.
        """
        return [partial(self._predict, t=step, condition=condition) for step in t]

    def _predict(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self(z_t, t.expand(len(z_t)), condition.expand(len(z_t), -1))


class Metric(Configured, ABC):
    """One number a policy."""

    #: Which direction is good: ``"lower"`` or ``"higher"``.
    better: ClassVar[str]
    #: Whether every state must be enumerated.
    exact: ClassVar[bool] = False
    #: Whether progress bars show it, and tables and summaries lead with it.
    primary: ClassVar[bool] = False
    #: Whether the short table of a terminal shows it.
    brief: ClassVar[bool] = False
    #: Whether a value depends on the other policies, so that a population must be measured as a whole.
    joint: ClassVar[bool] = False
    #: Whether it is called as ``metric(population, checkpoints)``, with the zoo's policies of the same structure.
    reference: ClassVar[bool] = False

    def fits(self, structure: Structure) -> bool:
        """Whether policies of this structure can be measured."""
        return structure.environment.enumerable or not self.exact

    @abstractmethod
    def __call__(self, population: Population, *args: Any, **kwargs: Any) -> Tensor:
        """(M,) float64 values, NaN where a policy has none. Only metrics with `reference` take more than the population."""
