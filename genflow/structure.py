"""`Structure`: one task and its policy architecture, with all options of both."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from genflow.errors import GenflowError
from genflow.interfaces import validation
from genflow.interfaces.behaviour import validated_transitions
from genflow.interfaces.environment import Environment, Units
from genflow.interfaces.exact_solution import ExactSolution
from genflow.interfaces.gallery import Gallery
from genflow.interfaces.policy import PolicyArch
from genflow.interfaces.transitions import Transitions
from genflow.layout import WeightLayout
from genflow.precision import float32_default
from genflow.registry import default_name
from genflow.rollouts import Trace
from genflow.schema import Name, Role, Schema, brief, is_reward_only, reward_field, role_of, validate
from genflow.structure_fields import (
    CUT_SHORT,
    added_defaults,
    content,
    name_of,
    parse_fields,
    resolve_fields,
    reward_fields,
    written,
)
from genflow.value_text import require_text

#: equal structures are the same object, so that they share cached results
_alive: WeakValueDictionary[Any, Structure] = WeakValueDictionary()
_named: WeakValueDictionary[tuple[str, str, str], Structure] = WeakValueDictionary()
#: keeps the structures that were used last alive
_recent: deque[Structure] = deque(maxlen=16)


class _Saved(Schema):
    """The part of a file that describes a structure."""

    model_config = ConfigDict(extra="ignore")

    env: Name
    policy: Name
    structure: dict[str, Any]


class Structure:
    """An environment, its reward and a policy architecture, each with its options.

    Structures are created by `build`, `parse` and `from_json`. They are equal if their names and all options
    are equal.

    Attributes:
        env: registered name of the environment.
        policy: registered name of the policy architecture.
        environment, arch: the configured components.
    """

    env: str
    policy: str
    environment: Environment
    arch: PolicyArch
    _parts: tuple[Any, ...]
    _key: tuple[Any, ...]

    def __init__(self) -> None:
        """Raise an error, because structures are created by `Structure.build`."""
        raise TypeError("make a structure with Structure.build(env, fields) or Structure.parse(env, text)")

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Structure) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Structure({self.env} {self.name}; policy {self.policy})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the options, because torchgfn's environments cannot be pickled."""
        return Structure._of_configs, self._parts

    @classmethod
    def build(cls, env: str, fields: Mapping[str, Any], policy: str | None = None) -> Structure:
        """Create a structure from the fields of environment, reward and policy, e.g. ``{"ndim": 4}``.

        A field that stands for a file's content may name a file, which is read now.

        Args:
            env: registered name of the environment.
            fields: field -> value.
            policy: registered name of the architecture; None means the default.

        Raises:
            GenflowError: a name or key is unknown, or a value is invalid.
        """
        return cls._of_fields(env, policy, fields, read_files=True)

    @classmethod
    def restore(
        cls, env: str, fields: Mapping[str, Any], policy: str | None = None, read_files: bool = False
    ) -> Structure:
        """Create a structure from saved `fields`.

        Args:
            env, fields, policy: as for `build`.
            read_files: whether a field may name a file to read, as in files of the first edition. Only a
                user who says so may allow it.

        Raises:
            GenflowError: as for `build`.
        """
        return cls._of_fields(env, policy, fields, read_files=read_files, saved=True)

    @classmethod
    def of(
        cls, environment: Environment, arch: PolicyArch, env: str = "own", policy: str = "own"
    ) -> Structure:
        """Create a structure from components that need not be registered, e.g. in a notebook.

        Args:
            environment: the task.
            arch: the architecture of its policies.
            env: name of the environment. Saved files can only be loaded where a plugin registers the name.
            policy: name of the architecture, likewise.
        """
        components = (environment, environment.reward, arch)
        classes = (type(each) if each is not None else None for each in components)
        configs = (each.config if each is not None else None for each in components)
        parts = (env, policy, *classes, *configs)
        key = _key_of(parts)
        found = _alive.get(key)
        if found is None:
            found = cls.__new__(cls)
            found.env, found.policy, found._parts, found._key = env, policy, parts, key
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
        """Create from the classes and options of environment, reward and policy, as in `_parts`."""
        found = _alive.get(_key_of((env, policy, *parts)))
        if found is not None:
            return found
        env_cls, reward_cls, arch_cls, env_config, reward_config, arch_config = parts
        reward = reward_cls(reward_config, env_config) if reward_cls is not None else None
        return cls.of(env_cls(env_config, reward), arch_cls(arch_config), env, policy)

    @classmethod
    def parse(cls, env: str, text: str, policy: str | None = None) -> Structure:
        """Parse ``PRESET``, ``key=value,...`` or ``PRESET,key=value,...``.

        Lists are ``a+b`` or ``[a,b]``, tables ``{key:value}``. It may be the `name` of a structure in use.

        Raises:
            GenflowError: a preset or key is unknown, or a value is invalid.
        """
        known = cls.in_use(env, policy or default_name("policy"), require_text(text))
        if known is not None:
            return known
        fields, texts = parse_fields(env, text)
        return cls._of_fields(env, policy, fields, read_files=True, texts=texts)

    @classmethod
    def in_use(cls, env: str, policy: str, text: str) -> Structure | None:
        """Return the structure in use that has a name, even if its `name` has never been read."""
        found = _named.get((env, policy, text))
        if found is None and ("~" in text or CUT_SHORT.fullmatch(text)):
            alike = [each for each in list(_alive.values()) if (each.env, each.policy) == (env, policy)]
            found = next((each for each in reversed(alike) if each.name == text), None)
        return found

    def varied(self, given: str | Mapping[str, Any]) -> Structure:
        """Create a structure with the same fields except those given, as ``key=value,...`` or a mapping.

        The options of a reward are left out with it.

        Raises:
            GenflowError: as for `parse` and `build`.
        """
        fields, texts = parse_fields(self.env, given) if isinstance(given, str) else (dict(given), set())
        own, environment = self.fields(), self.environment
        key = reward_field(type(environment.config))
        if environment.reward is not None and key is not None and fields.get(key, own[key]) != own[key]:
            for each in type(environment.reward.config).model_fields:
                own.pop(each, None)
        return self._of_fields(self.env, self.policy, {**own, **fields}, read_files=True, texts=texts)

    @property
    def _configs(self) -> tuple[BaseModel, ...]:
        """The options of environment, reward and policy."""
        return tuple(config for config in self._parts[-3:] if config is not None)

    def fields(self) -> dict[str, Any]:
        """Return the fields of environment, reward and policy, JSON-serialisable."""
        return {key: value for config in self._configs for key, value in written(config).items()}

    def filled(self, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return `fields`, or those of another structure, with the defaults that are not written."""
        return {**added_defaults(map(type, self._configs)), **(self.fields() if fields is None else fields)}

    def known_fields(self) -> set[str]:
        """Return the names of all fields, including those of the environment's other rewards."""
        own = set(self.filled())
        return own if self.environment.reward is None else own | reward_fields(self.env)

    def roles(self) -> dict[str, Role]:
        """Return the role of each field, see `genflow.size`, `genflow.described` and `genflow.fixed`."""
        models = [type(config) for config in self._configs]
        roles = {key: role_of(model, key) for model in models for key in model.model_fields}
        reward, named = self.environment.reward, reward_field(type(self.environment.config))
        if reward is not None and named and roles[named] == "told":
            told = not self.environment.untold()
            roles |= dict.fromkeys(type(reward.config).model_fields, "told") if told else {named: "fixed"}
        return roles

    def paid_fields(self) -> set[str]:
        """Return the fields that change the reward and nothing else, such as its name."""
        environment, reward = self.environment.config, self.environment.reward
        own = {key for key in type(environment).model_fields if is_reward_only(type(environment), key)}
        return own if reward is None else own | set(type(reward.config).model_fields)

    def fixed_fields(self) -> dict[str, Any]:
        """Return the fields whose role is "fixed", which a generator cannot vary."""
        roles = self.roles()
        return {key: value for key, value in self.filled().items() if roles[key] == "fixed"}

    @cached_property
    def name(self) -> str:
        """A short unique name that is a valid folder name.

        It consists of the policy's size and of the fields that differ from their default.
        If there are none, it is the first field, or `DEFAULT` without fields.

        Raises:
            GenflowError: another structure in use has the same name.
        """
        name = name_of(self._configs, validation.numbers_of(self.arch))
        other = _named.get((self.env, self.policy, name))
        # a class that a notebook has redefined takes over the name
        if other is not None and other != self and other._key[2:5] == self._key[2:5]:
            raise GenflowError(
                f"two different structures have the name {name!r}: "
                f"{brief(other.fields())} and {brief(self.fields())}"
            )
        _named[self.env, self.policy, name] = self
        return name

    def transitions(self, device: torch.device | str = "cpu") -> Transitions:
        """Return the task's transitions on a device, built once for each device and checked."""
        device = torch.device(device)
        made: dict[torch.device, Transitions] = self.__dict__.setdefault("_transitions", {})
        if device not in made:
            made[device] = validated_transitions(self, device)
        return made[device]

    @cached_property
    def solution(self) -> ExactSolution:
        """The exact solution of the task."""
        return self.environment.exact_solution(self.transitions())

    @cached_property
    def gallery(self) -> Gallery:
        """The gallery that names, ranks and draws the task's objects."""
        return self.environment.gallery(self.transitions())

    @cached_property
    def layout(self) -> WeightLayout:
        """The layout of the policy's weights."""
        return validation.checked_layout(self.environment, self.arch)

    @cached_property
    def initial_bias(self) -> Tensor | None:
        """`Environment.initial_logits` at the output biases and 0 elsewhere, (D,); None if it has none."""
        logits = validation.checked_initial_logits(self.environment, len(self.layout.units["action"]))
        if logits is None:
            return None
        bias = torch.zeros(self.layout.size)
        for name, place in self.layout.slices().items():
            if self.layout.axes[name] == ("action",):
                bias[place] = logits
        return bias

    def module(self) -> nn.Module:
        """Build a freshly initialised policy network in float32."""
        with float32_default():
            return self.arch.build_for(Units(self.layout.units["input"], self.layout.units["action"]))

    def observe(self, states: Tensor) -> Tensor:
        """Convert states (B, *state_shape) or (M, B, *state_shape) for `PolicyArch.forward_with_cache`.

        Returns:
            The indices (..., k) of the inputs that are 1 if task and architecture support them, or else the
            inputs (..., s).
        """
        transitions = self.transitions(states.device)
        indices = transitions.one_hot_indices(states) if self.arch.takes_one_hot_indices else None
        if indices is not None:
            return indices
        leading = states.shape[: states.ndim - transitions.initial_state.ndim]
        return transitions.inputs(states.flatten(0, len(leading) - 1)).unflatten(0, leading)

    def forward_with_cache(self, module: nn.Module, weights: Mapping[str, Tensor]) -> Trace:
        """Return `PolicyArch.forward_with_cache` as a function of states, as `rollouts.sample` needs it."""
        trace = self.arch.forward_with_cache(module, weights)
        return lambda states: trace(self.observe(states))

    def condition(self) -> Tensor:
        """Return the condition (C,) in float32, the environment's numbers followed by the policy's.

        It extends the paper's c = [s, h, n, d] by further numbers of the task.
        """
        numbers = validation.checked_condition(self.environment, self.arch)
        return torch.tensor(list(numbers.values()), dtype=torch.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-serialisable form that `from_json` reads."""
        return {"env": self.env, "policy": self.policy, "structure": self.fields()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], read_files: bool = False) -> Structure:
        """Rebuild a saved structure, with `read_files` as for `restore`.

        Raises:
            GenflowError: the data is invalid or names something that is not installed.
        """
        saved = validate(_Saved, data, "a saved structure")
        return cls.restore(saved.env, saved.structure, saved.policy, read_files)


def _key_of(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what tells structures apart: names, classes, and the content of the options."""
    return *parts[:5], *(None if config is None else content(written(config)) for config in parts[5:])
