"""Molecules as trees of building blocks (Bengio et al. 2021), and what is measured of them."""

import importlib
from typing import Any

import genflow

__all__ = ["make_vocabulary"]


def __getattr__(name: str) -> Any:
    if name not in __all__:  # what is imported here is imported with every command
        raise AttributeError(f"module 'genflow_molecule' has no attribute {name!r}")
    return getattr(importlib.import_module("genflow_molecule.vocabulary_file"), name)


@genflow.hookimpl
def register_environments(register):
    """Register `molecule`."""
    register("molecule", "genflow_molecule.environment:Molecule")


@genflow.hookimpl
def register_rewards(register):
    """Register what molecules are paid for."""
    for name, cls in {"qed_sa": "QedSa", "logp_window": "LogPWindow", "docking": "Docking"}.items():
        register(name, f"genflow_molecule.rewards:{cls}", environment="molecule")
    register("profile", "genflow_molecule.profile:Profile", environment="molecule")


@genflow.hookimpl
def register_metrics(register):
    """Register what is measured of sampled molecules, and exactly over molecules instead of states."""
    for name, cls in {
        "top_10": "Top10",
        "top_100": "Top100",
        "molecule_modes": "Modes",
        "molecule_diversity": "Diversity",
    }.items():
        register(name, f"genflow_molecule.metrics:{cls}")
    for name, cls in {"uniqueness": "Uniqueness", "validity": "Validity", "length": "Length"}.items():
        register(name, f"genflow_molecule.metrics:{cls}")
    for name, cls in {"molecule_js": "JS", "molecule_kl": "KL", "molecule_l1": "L1"}.items():
        register(name, f"genflow_molecule.exact:{cls}")


@genflow.hookimpl
def register_commands(cli):
    """Add `genflow dock` and `genflow vocabulary`."""
    from .cli import dock
    from .vocabulary_cli import vocabulary

    cli.add_command(dock)
    cli.add_command(vocabulary)
