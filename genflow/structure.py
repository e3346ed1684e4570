"""`Structure`: the numbers that name one task and its policy, the paper's c = [s, h, n, d]."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from genflow.errors import GenflowError, did_you_mean
from genflow.interfaces.environment import Environment
from genflow.interfaces.exact_solution import ExactSolution
from genflow.interfaces.gallery import Gallery
from genflow.interfaces.policy import PolicyArch
from genflow.interfaces.transitions import Transitions
from genflow.layout import WeightLayout
from genflow.precision import float32_default
from genflow.registry import default_name, registry
from genflow.rollouts import Trace
from genflow.schema import MAX_NAME, Name, Role, Schema, brief, role_of, validate
from genflow.structure_fields import resolve_fields, reward_fields, split_fields
from genflow.value_text import to_text

#: characters of a field's value in a name; longer ones, e.g. the content of a file, are named by a digest
MAX_VALUE = 60
#: the same structure is the same object, so that what was computed for it is found again
_alive: WeakValueDictionary[Any, Structure] = WeakValueDictionary()
_named: WeakValueDictionary[tuple[str, str, str], Structure] = WeakValueDictionary()
#: those that were built last stay, although nobody holds them
_recent: deque[Structure] = deque(maxlen=16)


class _Saved(Schema):
    """How a structure is written to a file, beside whatever else is in it."""

    model_config = ConfigDict(extra="ignore")

    env: Name
    policy: Name
    structure: dict[str, Any]


class Structure:
    """An environment, its reward and a policy architecture, each with its configuration.

    Made by `build`, `parse` and `from_json`. Equal if the names and all of the configurations are equal.

    Attributes:
        env: registered name of the environment.
        policy: registered name of the policy architecture.
        environment, arch: the configured components.
    """

    env: str
    policy: str
    environment: Environment
    arch: PolicyArch
    _key: tuple[Any, ...]

    def __init__(self) -> None:
        """Refuse: a structure is made by `Structure.build`."""
        raise TypeError("make a structure with Structure.build(env, fields) or Structure.parse(env, text)")

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Structure) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Structure({self.env!r}, {self.name!r}, policy={self.policy!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by its configuration: torchgfn's environments cannot be."""
        return Structure._of_configs, self._key

    @classmethod
    def build(cls, env: str, fields: Mapping[str, Any], policy: str | None = None) -> Structure:
        """Build from the fields of environment, reward and policy, e.g. ``ndim=4, height=8, width=128``.

        Fields that stand for a file's content may name a file, which is read now.

        Raises:
            GenflowError: an unknown name or key, or an impossible value.
        """
        return cls._of_fields(env, policy, fields, read_files=True)

    @classmethod
    def restore(cls, env: str, fields: Mapping[str, Any], policy: str | None = None) -> Structure:
        """Build from what `fields` returned, e.g. what somebody else wrote: it names no file to read.

        Raises:
            GenflowError: as `build`.
        """
        return cls._of_fields(env, policy, fields, read_files=False)

    @classmethod
    def of(
        cls, environment: Environment, arch: PolicyArch, env: str = "own", policy: str = "own"
    ) -> Structure:
        """Build from components, registered or not, e.g. an environment that a notebook has just defined.

        Args:
            environment: the task.
            arch: the architecture of its policies.
            env: name of the environment; what is saved can only be loaded where a plugin registers it.
            policy: name of the architecture, likewise.
        """
        reward = environment.reward
        parts = (environment, reward, arch)
        configs = tuple(part.config if part is not None else None for part in parts)
        key = (env, policy, *(type(part) if part is not None else None for part in parts), *configs)
        found = _alive.get(key)
        if found is None:
            found = cls.__new__(cls)
            found.env, found.policy, found._key = env, policy, key
            found.environment, found.arch = environment, arch
            _alive[key] = found
        _recent.append(found)
        return found

    @classmethod
    def _of_fields(cls, env: str, policy: str | None, fields: Mapping[str, Any], **how: Any) -> Structure:
        policy = policy or default_name("policy")
        return cls._of_configs(env, policy, *resolve_fields(env, policy, fields, **how))

    @classmethod
    def _of_configs(cls, env: str, policy: str, *parts: Any) -> Structure:
        """From the classes and configurations of environment, reward and policy, as `_key` holds them."""
        found = _alive.get((env, policy, *parts))
        if found is not None:
            return found
        env_cls, reward_cls, arch_cls, env_config, reward_config, arch_config = parts
        reward = reward_cls(reward_config, env_config) if reward_cls is not None else None
        return cls.of(env_cls(env_config, reward), arch_cls(arch_config), env, policy)

    @classmethod
    def parse(cls, env: str, text: str, policy: str | None = None) -> Structure:
        """Parse ``PRESET``, ``key=value,...``, ``PRESET,key=value,...``, or the `name` of one in use.

        Lists are written ``a+b`` or ``[a,b]``, tables ``{key:value}``; see `genflow.value_text`.

        Raises:
            GenflowError: an unknown preset or key, or a value that does not fit.
        """
        known = _named.get((env, policy or default_name("policy"), text))
        if known is not None:
            return known
        fields: dict[str, Any] = {}
        preset: set[str] = set()
        for position, part in enumerate(split_fields(text)):
            key, equals, value = part.partition("=")
            if equals and key.strip() in fields and key.strip() not in preset:
                raise GenflowError(f"structure {text!r}: {key.strip()!r} is given twice")
            if equals:
                fields[key.strip()] = value.strip()
                preset.discard(key.strip())
            elif position == 0:
                presets = registry().load("environment", env).presets
                if part not in presets:
                    raise GenflowError(
                        f"environment {env!r} has no preset {part!r}{did_you_mean(part, presets)}"
                    )
                fields.update(presets[part])
                preset.update(presets[part])
            else:
                raise GenflowError(f"structure {text!r}: {part!r} is not key=value")
        return cls._of_fields(env, policy, fields, read_files=True, texts=fields.keys() - preset)

    @property
    def _configs(self) -> tuple[BaseModel, ...]:
        """The configurations of environment, reward and policy."""
        return tuple(config for config in self._key[-3:] if config is not None)

    def fields(self) -> dict[str, Any]:
        """All fields of all configurations, JSON-able."""
        return {
            key: value for config in self._configs for key, value in config.model_dump(mode="json").items()
        }

    def known_fields(self) -> set[str]:
        """The fields of this structure, and those that it would have with another reward."""
        own = set(self.fields())
        return own if self.environment.reward is None else own | reward_fields(self.env)

    def roles(self) -> dict[str, Role]:
        """The role of each field, see `genflow.size`, `genflow.described` and `genflow.fixed`."""
        return {
            key: role_of(type(config), key) for config in self._configs for key in type(config).model_fields
        }

    def fixed_fields(self) -> dict[str, Any]:
        """The fields that nothing expresses, e.g. the kind of reward: a generator cannot vary them."""
        roles = self.roles()
        return {key: value for key, value in self.fields().items() if roles[key] == "fixed"}

    @cached_property
    def name(self) -> str:
        """Short unique name, usable as a folder: the policy's size, and fields that are not at their default.

        Raises:
            GenflowError: another structure in use has the same name.
        """
        parts = []
        for config in self._configs:
            written = config.model_dump(mode="json")
            for key, info in type(config).model_fields.items():
                value = getattr(config, key)
                if info.is_required() or value != info.default or key in self.arch.condition():
                    text = to_text(written[key])
                    parts.append(f"{key}={text if len(text) <= MAX_VALUE else _digest(text)}")
        name = ",".join(parts)
        if len(name) > MAX_NAME:
            name = name[: MAX_NAME - 17] + "-" + _digest(name)[1:]
        other = _named.get((self.env, self.policy, name))
        # a class that a notebook has defined anew takes the name over
        if other is not None and other != self and other._key[2:5] == self._key[2:5]:
            raise GenflowError(
                f"two different structures have the name {name!r}: "
                f"{brief(other.fields())} and {brief(self.fields())}"
            )
        _named[self.env, self.policy, name] = self
        return name

    def transitions(self, device: torch.device | str = "cpu") -> Transitions:
        """How the task's states change on a device, built once for each."""
        device = torch.device(device)
        made: dict[torch.device, Transitions] = self.__dict__.setdefault("_transitions", {})
        if device not in made:
            made[device] = self.environment.transitions(device)
        return made[device]

    @cached_property
    def solution(self) -> ExactSolution:
        """What can be computed exactly."""
        return self.environment.exact_solution(self.transitions())

    @cached_property
    def gallery(self) -> Gallery:
        """How the task's objects are named, ranked and drawn."""
        return self.environment.gallery(self.transitions())

    @cached_property
    def layout(self) -> WeightLayout:
        """The layout of the policy's weights."""
        return self.arch.layout(self.environment)

    @cached_property
    def initial_bias(self) -> Tensor | None:
        """(D,) `Environment.initial_logits` at the biases of the outputs, 0 elsewhere.

        None: there are no such preferences.
        """
        logits = self.environment.initial_logits()
        if logits is None:
            return None
        bias = torch.zeros(self.layout.size)
        for name, place in self.layout.slices().items():
            if self.layout.axes[name] == ("action",):
                bias[place] = logits
        return bias

    def module(self) -> nn.Module:
        """A freshly initialised policy network, in float32."""
        with float32_default():
            return self.arch.build(len(self.layout.units["input"]), len(self.layout.units["action"]))

    def observe(self, states: Tensor) -> Tensor:
        """What `PolicyArch.forward_with_cache` reads in states (B, *state_shape) or (M, B, *state_shape).

        Returns:
            (..., s) inputs, or (..., k) indices of those that are 1 where task and architecture can.
        """
        transitions = self.transitions(states.device)
        indices = transitions.one_hot_indices(states) if self.arch.takes_one_hot_indices else None
        if indices is not None:
            return indices
        leading = states.shape[: states.ndim - transitions.initial_state.ndim]
        return transitions.inputs(states.flatten(0, len(leading) - 1)).unflatten(0, leading)

    def forward_with_cache(self, module: nn.Module, weights: Mapping[str, Tensor]) -> Trace:
        """`PolicyArch.forward_with_cache` of {name: (M, *shape)} weights, from states, for `rollouts`."""
        trace = self.arch.forward_with_cache(module, weights)
        return lambda states: trace(self.observe(states))

    def condition(self) -> Tensor:
        """(C,) float32: the environment's numbers, then the policy's.

        The paper's c = [s, h, n, d], and what else the task needs.
        """
        numbers = {**self.environment.condition(), **self.arch.condition()}
        return torch.tensor(list(numbers.values()), dtype=torch.float32)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"env": self.env, "policy": self.policy, "structure": self.fields()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Structure:
        """Rebuild a saved structure.

        Raises:
            GenflowError: the data is malformed or names something that is not installed.
        """
        saved = validate(_Saved, data, "a saved structure")
        return cls.restore(saved.env, saved.structure, saved.policy)


def _digest(text: str) -> str:
    return "~" + hashlib.sha256(text.encode()).hexdigest()[:16]
