"""What the shell completes: names of what is installed, without torch except where a class must be asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from genflow.errors import GenflowError

#: what --baseline takes, which `EvaluationOptions` lists for the configuration
BASELINES = ("random", "uniform", "mean", "nearest", "perturbed", "none")
#: sections of the configuration, whose keys follow a dot, and the keys beside them
SECTIONS = ("zoo", "autoencoder", "diffusion", "generate", "evaluation", "finetune", "tracking")
KEYS = (
    "env", "policy", "seed", "device", "structures", "selection_structures", "test_structures", "coverage",
    "train_tests",
)  # fmt: skip

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def words(*names: str) -> Complete:
    """Complete some words."""
    return lambda context, option, incomplete: _matching(names, incomplete)


def registered(*kinds: str) -> Complete:
    """Complete the registered names of some kinds."""

    def complete(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from genflow.registry import registry

        return _matching([name for kind in kinds for name in registry().names(kind)], incomplete)

    return complete


def presets(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the presets of the environment that --env names, else of all."""
    from genflow.registry import registry

    env = context.params.get("env")
    names: dict[str, None] = {}
    for each in [env] if env else registry().names("environment"):
        with contextlib.suppress(GenflowError):  # an environment that cannot be used has none
            names |= dict.fromkeys(registry().load("environment", each).presets)
    return _matching(names, incomplete)


def overrides(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete sections of the configuration, and the keys of one after its dot."""
    section, dot, _ = incomplete.partition(".")
    if not dot:
        return _matching([*(f"{each}." for each in SECTIONS), *(f"{key}=" for key in KEYS)], incomplete)
    if section not in SECTIONS:
        return []
    from genflow.config import Config  # with torch

    model = Config.model_fields[section].annotation
    return _matching((f"{section}.{key}=" for key in getattr(model, "model_fields", ())), incomplete)
