"""`Population`: M policies of one structure, which all stages exchange.

Shapes: M policies, D parameters a policy, B states, s inputs, A actions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from genflow import exact
from genflow.caching import ByteCache
from genflow.errors import GenflowError
from genflow.foreign import weights_of_files, weights_of_modules
from genflow.layout import WeightLayout
from genflow.rollouts import LOG_Z_TRAJECTORIES, Rollouts, Trace, sample
from genflow.seeding import seeded_cpu
from genflow.storage.files import StrPath
from genflow.storage.populations import find_population, read_policies, write_policies
from genflow.structure import Structure
from genflow.threads import threads, worth
from genflow.value_text import count_of

if TYPE_CHECKING:
    from gfn.estimators import DiscretePolicyEstimator

#: the most numbers of exact distributions that are held at once
MAX_DISTRIBUTION = 2**26
#: the most activations of a layer in an exact evaluation, which fit into a processor's cache
MAX_FLOATS = 2**19
#: the most bytes of distributions and trajectories of all populations that are cached for further metrics
CACHE_BYTES = 2**30
_cache = ByteCache(CACHE_BYTES)
#: the most bytes of weights that are held on other devices
MOVED_BYTES = 2**28
_moved = ByteCache(MOVED_BYTES)
#: the provenance of policies that were made elsewhere
IMPORTED = {"source": "imported", "training_structures": []}


def source_of(provenance: Mapping[str, Any]) -> str:
    """Return the name of what made policies, e.g. trained, generated, random, finetuned or from_random."""
    source = str(provenance.get("source", "trained"))
    if source == "trained" and "started_from" in provenance:  # older files of a fine-tuning
        return "from_random" if provenance["started_from"] == "random" else "finetuned"
    return source


@dataclass(frozen=True, eq=False, repr=False)
class Population:
    """M policies of one structure, stored as a float32 matrix (M, D) with their provenance.

    Attributes:
        structure: the task and the architecture of the policies.
        weights: (M, D), converted to float32 on the CPU.
        provenance: a JSON-serialisable dict that says how the policies were made. Among its keys are
            ``source`` (see `source_of`), ``training_structures`` (the fields of every
            structure that was trained on) and ``members`` (a dict for each policy).
    """

    structure: Structure
    weights: Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", self.weights.to("cpu", torch.float32))
        if self.weights.ndim != 2 or self.weights.shape[1] != self.layout.size:
            raise ValueError(
                f"expected weights of shape (M, {self.layout.size}), got {tuple(self.weights.shape)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields only, so that cached results are neither copied nor pickled."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_modules(
        cls, structure: Structure, modules: Sequence[nn.Module], provenance: Mapping[str, Any] | None = None
    ) -> Population:
        """Create a population from separate networks, e.g. torchgfn's ``MLP`` or an ``nn.Sequential``.

        Their linear layers and LayerNorms are those of the structure's network, in order, of any names.

        Args:
            structure: the task and the architecture of the policies.
            modules: a network for each policy.
            provenance: see the class; None means the source "imported".

        Raises:
            GenflowError: a network has other layers, or computes something else than the structure's.
        """
        return cls(structure, weights_of_modules(structure, modules), provenance or IMPORTED)

    @classmethod
    def from_files(cls, structure: Structure, files: Sequence[StrPath]) -> Self:
        """Create a population from state dicts in safetensors files, a policy each, of the source "imported".

        A file does not say the activation between its layers, which must be that of the structure's policy.

        Raises:
            GenflowError: a file was written by torch.save, cannot be read, or has other layers.
        """
        return cls(structure, weights_of_files(structure, files), IMPORTED)

    @classmethod
    def initialised(cls, structure: Structure, num: int, seed: int) -> Population:
        """Create `num` untrained policies.

        Their weights are those of the architecture's initialisation plus the environment's initial logits.
        """
        with seeded_cpu(seed):
            states = [structure.module().state_dict() for _ in range(num)]
        stacked = {name: torch.stack([state[name] for state in states]) for name in structure.layout.shapes}
        provenance = {"source": "random", "seed": seed, "training_structures": []}
        population = cls(structure, structure.layout.flatten(stacked), provenance)
        bias = structure.initial_bias
        return population if bias is None else replace(population, weights=population.weights + bias)

    @classmethod
    def load(cls, folder: StrPath) -> Self:
        """Read a population that `save` wrote, or the one in the folder of a command; see `find_population`.

        Raises:
            GenflowError: there are several, or a file is missing, truncated or of another format, or its
                tensors do not fit.
        """
        return cls(*read_policies(find_population(folder)))

    def save(self, folder: StrPath) -> None:
        """Write ``population.safetensors`` and ``population.json``, which name no file and hold no code.

        Raises:
            GenflowError: a file cannot be written.
        """
        write_policies(folder, self.structure, self.weights, self.provenance)

    @property
    def layout(self) -> WeightLayout:
        """The layout of the weights."""
        return self.structure.layout

    @property
    def source(self) -> str:
        """The name of the policies' source, for tables and reports."""
        return source_of(self.provenance)

    @property
    def seen(self) -> bool:
        """Whether the provenance says that this structure was trained on to make these policies."""
        # files of the first edition also hold the fields of other rewards
        own, trained_on = self.structure.filled(), self.provenance.get("training_structures", [])
        return any(own.items() <= self.structure.filled(other).items() for other in trained_on)

    def __repr__(self) -> str:
        policies = count_of(len(self), f"{self.source} policy", f"{self.source} policies")
        return (
            f"Population({policies} of {self.structure.env} {self.structure.name};"
            f" {self.layout.size:,} parameters each)"
        )

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: int | slice) -> Population:
        """Return a population of the policies at an index or slice, e.g. ``population[i].to_estimator()``."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"policy {index} of {len(self)}")
            index = slice(index, index + 1) if index != -1 else slice(index, None)
        members = self.provenance.get("members")
        provenance = (
            self.provenance if members is None else {**self.provenance, "members": list(members)[index]}
        )
        return replace(self, weights=self.weights[index], provenance=provenance)

    def __iter__(self) -> Iterator[Population]:
        return (self[i] for i in range(len(self)))

    @property
    def sound(self) -> list[int]:
        """The indices of the policies that did not diverge in training, as the provenance says."""
        members = self.provenance.get("members") or []
        diverged = {index for index, member in enumerate(members) if "diverged_at" in member}
        return [index for index in range(len(self)) if index not in diverged]

    def without_diverged(self) -> Population:
        """Return the policies that did not diverge in training, as the provenance says.

        Raises:
            GenflowError: all of them diverged.
        """
        sound = self.sound
        if len(sound) == len(self):
            return self
        if not sound:
            raise GenflowError(
                f"all policies of {self.structure.name} diverged in training; train them again with a lower"
                " zoo.lr, or leave the structure out"
            )
        members = self.provenance["members"]
        provenance = {**self.provenance, "members": [members[index] for index in sound]}
        return replace(self, weights=self.weights[sound], provenance=provenance)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters by their ``state_dict()`` names, as tensors (M, *shape)."""
        return self.layout.unflatten(self.weights)

    def weights_on(self, device: torch.device | str) -> Tensor:
        """Return the weights (M, D) on a device, which are moved there once for all who read a batch."""
        device = torch.device(device)
        if device == self.weights.device:
            return self.weights
        return _moved.get(self, str(device), lambda: self.weights.to(device))

    @cached_property
    def _module(self) -> nn.Module:
        return self.structure.module()

    def logits(self, inputs: Tensor) -> Tensor:
        """Return unmasked action logits (M, B, A) for inputs (B, s), shared by all policies, or (M, B, s)."""
        return self.structure.arch.forward(self._module, self.state_dict(), inputs)

    @cached_property
    def _logits_of(self) -> Trace:
        return self.structure.forward_with_cache(self._module, self.state_dict())

    def trace(self, states: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return action logits in torchgfn states (B, *state_shape) or (M, B, *state_shape).

        There is no autograd graph. This method has the signature that `rollouts.sample` needs.

        Returns:
            Logits (M, B, A), and an empty cache.
        """
        return self._logits_of(states)[0], ()

    def terminal_distribution(self, max_floats: int = MAX_FLOATS) -> Tensor:
        """Return the exact probability of each terminal state (M, S) in float64, which is cached.

        Args:
            max_floats: the most activations of a layer that are held at once.

        Raises:
            GenflowError: the task is too large to enumerate.
        """

        def compute() -> Tensor:
            return self.ends_in(self.structure.solution.graph, max_floats)

        return _cache.get(self, ("terminal_distribution", max_floats), compute)

    def ends_in(self, graph: exact.StateGraph, max_floats: int = MAX_FLOATS) -> Tensor:
        """Return the exact probability that each policy ends in each state of a graph, (M, S) in float64."""
        widest = max(max(shape) for shape in self.layout.shapes.values())
        rows = max(1, max_floats // (len(self) * widest))
        with threads(worth(len(graph.states) * self.weights.numel())):
            return exact.terminal_distribution(
                graph, lambda index: self.trace(graph.states[index])[0], len(self), rows
            )

    def parts(self) -> Iterator[Population]:
        """Yield slices of the population whose exact distributions fit in memory.

        If all of them fit together, the only slice is the population itself.
        """
        solution = self.structure.solution
        size = len(self)
        if solution.enumerable and solution.n_states:
            size = max(1, MAX_DISTRIBUTION // solution.n_states)
        if size >= len(self):
            yield self
        else:
            yield from (self[start : start + size] for start in range(0, len(self), size))

    def rollouts(self, num: int, seed: int = 0, epsilon: float = 0.0) -> Rollouts:
        """Sample `num` trajectories of each policy, which are cached.

        Args:
            num: number of trajectories of each policy.
            seed: seed of all random numbers.
            epsilon: probability that an action is uniformly random.
        """

        def draw() -> Rollouts:
            rng = torch.Generator().manual_seed(seed)
            return sample(self.structure.transitions(), self.trace, (len(self), num), epsilon, rng)

        return _cache.get(self, ("rollouts", num, seed, epsilon), draw)

    @cached_property
    def log_z(self) -> Tensor:
        """Log Z of the trajectory balance loss for each policy, (M,) float32, to train the policies further.

        It is exact, and the same for all policies, where the structure's solution has a closed form or can
        enumerate the states. Elsewhere it is an estimate: the mean of log(R P_B / P_F) over 256 trajectories
        of each policy, which is at most the true log Z in expectation.
        """
        solution = self.structure.solution
        if solution.knows_log_partition:
            return torch.full((len(self),), solution.log_partition(), dtype=torch.float32)
        return self.rollouts(LOG_Z_TRAJECTORIES).log_z()

    def module(self) -> nn.Module:
        """Return the network of a population with one policy.

        Raises:
            ValueError: the population does not have exactly one policy.
        """
        if len(self) != 1:
            raise ValueError(f"this population has {len(self)} policies; take one, e.g. population[0]")
        module = self.structure.module()
        module.load_state_dict({name: tensor[0] for name, tensor in self.state_dict().items()})
        return module

    def to_estimator(self) -> DiscretePolicyEstimator:
        """Return torchgfn's estimator of the forward policy, for a population with one policy.

        Use it with the environment of ``structure.environment.make()``.

        Raises:
            ValueError: the population does not have exactly one policy.
        """
        from gfn.estimators import DiscretePolicyEstimator

        transitions = self.structure.transitions()
        preprocessor = copy.copy(transitions.preprocessor)
        preprocessor.target_dtype = self.weights.dtype  # torchgfn's one-hots are integers
        return DiscretePolicyEstimator(
            self.module(), n_actions=transitions.n_actions, preprocessor=preprocessor
        )


load_population = Population.load
