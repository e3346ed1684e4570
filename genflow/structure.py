"""`Structure`: the numbers that name one task and its policy, the paper's c = [s, h, n, d]."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from genflow.errors import GenflowError, did_you_mean
from genflow.interfaces.environment import Environment
from genflow.interfaces.policy import PolicyArch
from genflow.layout import WeightLayout
from genflow.registry import default_name, registry
from genflow.rollouts import Trace
from genflow.schema import MAX_NAME, Name, Schema, brief, validate


class _Saved(Schema):
    """How a structure is written to a file, beside whatever else is in it."""

    model_config = ConfigDict(extra="ignore")

    env: Name
    policy: Name
    structure: dict[str, Any]


@dataclass(frozen=True)
class Structure:
    """An environment and a policy architecture, each with its configuration. Equal if all of these are equal.

    Attributes:
        env: registered name of the environment.
        policy: registered name of the policy architecture.
        environment, arch: the configured components.
    """

    env: str
    policy: str
    environment: Environment = field(compare=False, repr=False)
    arch: PolicyArch = field(compare=False, repr=False)
    _key: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by its configuration: torchgfn's environments cannot be."""
        configs = self.environment.config, self.arch.config
        return _cached, (type(self), self.env, self.policy, type(self.environment), type(self.arch), *configs)

    @classmethod
    def build(cls, env: str, fields: Mapping[str, Any], policy: str | None = None) -> Structure:
        """Build from the fields of the environment and of the policy together, e.g.

        ``ndim=4, height=8, width=128``.

        Raises:
            GenflowError: an unknown name or key, or an impossible value.
        """
        policy = policy or default_name("policy")
        env_cls, arch_cls = registry().load("environment", env), registry().load("policy", policy)
        env_keys, arch_keys = set(env_cls.Config.model_fields), set(arch_cls.Config.model_fields)
        if env_keys & arch_keys:
            raise GenflowError(
                f"environment {env!r} and policy {policy!r} share the key {min(env_keys & arch_keys)!r}"
            )
        for key in fields:
            if key not in env_keys | arch_keys:
                key = brief(key)
                raise GenflowError(
                    f"structure of {env!r}: unknown key {key!r}{did_you_mean(key, env_keys | arch_keys)}"
                )
        where = f"structure of {env!r}"
        env_config = validate(env_cls.Config, {k: v for k, v in fields.items() if k in env_keys}, where)
        arch_config = validate(arch_cls.Config, {k: v for k, v in fields.items() if k in arch_keys}, where)
        identity: tuple[Any, ...] = (cls, env, policy, env_cls, arch_cls, env_config, arch_config)
        return _cached(*identity)

    @classmethod
    def parse(cls, env: str, text: str, policy: str | None = None) -> Structure:
        """Parse ``PRESET``, ``key=value,...`` or ``PRESET,key=value,...``.

        Raises:
            GenflowError: an unknown preset or key, or a value that does not fit.
        """
        fields: dict[str, Any] = {}
        preset: set[str] = set()
        for position, part in enumerate(_split(text)):
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
        return cls.build(env, fields, policy)

    def fields(self) -> dict[str, Any]:
        """All fields of both configurations, JSON-able."""
        return self.environment.config.model_dump(mode="json") | self.arch.config.model_dump(mode="json")

    def varying_fields(self) -> dict[str, Any]:
        """The fields that the condition or the description of units expresses, e.g.

        ndim, height and width.
        """
        named = {*self.environment.condition(), *self.arch.condition(), *self.environment.described}
        return {key: value for key, value in self.fields().items() if key in named}

    def fixed_fields(self) -> dict[str, Any]:
        """The fields that nothing expresses, e.g. the kind of reward: a generator cannot vary them."""
        varying = self.varying_fields()
        return {key: value for key, value in self.fields().items() if key not in varying}

    @cached_property
    def name(self) -> str:
        """Short unique name, usable as a folder: the policy's size, required fields and those that differ from their default."""
        parts = []
        for config in (self.environment.config, self.arch.config):
            for key, info in type(config).model_fields.items():
                value = getattr(config, key)
                if info.is_required() or value != info.default or key in self.arch.condition():
                    parts.append(f"{key}={_plain(value)}")
        # a field may hold any text, which must neither leave the folder nor outgrow a file name
        name = quote(",".join(parts), safe="=,+ ", errors="surrogatepass")
        if len(name) <= MAX_NAME:
            return name
        return name[: MAX_NAME - 17] + "-" + hashlib.sha256(name.encode()).hexdigest()[:16]

    @cached_property
    def layout(self) -> WeightLayout:
        """The layout of the policy's weights."""
        return self.arch.layout(self.environment)

    @cached_property
    def initial_bias(self) -> Tensor | None:
        """(D,) `Environment.initial_logits` at the biases of the outputs, 0 elsewhere; None: there are no such preferences."""
        logits = self.environment.initial_logits()
        if logits is None:
            return None
        bias = torch.zeros(self.layout.size)
        for name, place in self.layout.slices().items():
            if self.layout.axes[name] == ("action",):
                bias[place] = logits
        return bias

    def module(self) -> nn.Module:
        """A freshly initialised policy network."""
        return self.arch.build(len(self.layout.coordinates["input"]), len(self.layout.coordinates["action"]))

    def observe(self, states: Tensor) -> Tensor:
        """What `PolicyArch.forward_with_cache` reads in states (B, *state_shape) or (M, B, *state_shape): (..., s) inputs or (..., k) active ones."""
        active = self.environment.active(states) if self.arch.takes_one_hot_indices else None
        if active is not None:
            return active
        leading = states.shape[: states.ndim - self.environment.start(states.device).ndim]
        return self.environment.inputs(states.flatten(0, len(leading) - 1)).unflatten(0, leading)

    def tracer(self, module: nn.Module, weights: Mapping[str, Tensor]) -> Trace:
        """`PolicyArch.forward_with_cache` of {name: (M, *shape)} weights that starts from states, as `rollouts.sample` takes it."""
        trace = self.arch.forward_with_cache(module, weights)
        return lambda states: trace(self.observe(states))

    def condition(self) -> Tensor:
        """(C,) float32: the environment's numbers, then the policy's; the paper's c = [s, h, n, d] and what else the task needs."""
        return torch.tensor(
            list({**self.environment.condition(), **self.arch.condition()}.values()), dtype=torch.float32
        )

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
        return cls.build(saved.env, saved.structure, saved.policy)


def _plain(value: Any) -> str:
    return "+".join(map(_plain, value)) if isinstance(value, tuple | list) else str(value)


def _split(text: str) -> list[str]:
    """Split at commas that are not inside brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[(") - (char in "])")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


# the enumerated graph of a large task takes 100 MB, so few are kept
@lru_cache(maxsize=8)
def _cached(
    cls: Any, env: str, policy: str, env_cls: Any, arch_cls: Any, env_config: Any, arch_config: Any
) -> Structure:
    return cls(env, policy, env_cls(env_config), arch_cls(arch_config), (env_config, arch_config))
