"""The hooks of a genflow plugin, a module that an entry point of group ``genflow`` names.

Each ``register_*`` hook calls ``register("name", "module:Class")``. The class is imported only when it is
used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

PROJECT = "genflow"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[[str, str], None]


@hookspec
def register_environments(register: Register) -> None:
    """Register subclasses of `genflow.Environment`, each of which is a GFlowNet task."""


@hookspec
def register_rewards(register: Callable[..., None]) -> None:
    """Register subclasses of `genflow.Reward` with ``register(name, target, environment=NAME)``."""


@hookspec
def register_policies(register: Register) -> None:
    """Register subclasses of `genflow.PolicyArch`, the network architectures of the forward policy."""


@hookspec
def register_encoders(register: Register) -> None:
    """Register subclasses of `genflow.Encoder`, the autoencoders of policy weights."""


@hookspec
def register_denoisers(register: Register) -> None:
    """Register subclasses of `genflow.Denoiser`, the networks of the conditional latent diffusion model."""


@hookspec
def register_metrics(register: Register) -> None:
    """Register subclasses of `genflow.Metric`, which compute a number for each policy."""


@hookspec
def register_trackers(register: Register) -> None:
    """Register subclasses of `genflow.Tracker`, to which figures go as they are measured."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add click commands to the `genflow` command line with ``cli.add_command`` or ``@cli.command``."""
