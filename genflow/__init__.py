"""genflow: generate GFlowNet policies from the structure of their task instead of training them.

The public names below are imported on first use, so that ``import genflow`` stays cheap and free of torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from genflow.errors import GenflowError
from genflow.hookspecs import hookimpl
from genflow.version import __version__

_LAZY = {
    "require_may_read": "genflow.schema",
    "reward_name": "genflow.schema",
    "fixed": "genflow.schema",
    "described": "genflow.schema",
    "size": "genflow.schema",
    "Units": "genflow.interfaces.environment",
    "UnitDescriptions": "genflow.layout",
    "PlainGallery": "genflow.interfaces.gallery",
    "Transitions": "genflow.interfaces.transitions",
    "Reward": "genflow.interfaces.reward",
    "ExactSolution": "genflow.interfaces.exact_solution",
    "AutoencoderObjective": "genflow.training.autoencoder",
    "Denoiser": "genflow.interfaces.denoiser",
    "Encoder": "genflow.interfaces.encoder",
    "Environment": "genflow.interfaces.environment",
    "Expert": "genflow.exact",
    "Gallery": "genflow.interfaces.gallery",
    "Generator": "genflow.generator",
    "Metric": "genflow.interfaces.metric",
    "Noise": "genflow.interfaces.encoder",
    "PolicyArch": "genflow.interfaces.policy",
    "Population": "genflow.population",
    "Progress": "genflow.progress",
    "RunDirectory": "genflow.storage.runs",
    "Schema": "genflow.schema",
    "StateGraph": "genflow.exact",
    "Starts": "genflow.interfaces.encoder",
    "Structure": "genflow.structure",
    "WeightLayout": "genflow.layout",
    "Zoo": "genflow.storage.zoo",
    "did_you_mean": "genflow.errors",
    "evaluate": "genflow.evaluation.evaluate",
    "load_config": "genflow.config",
    "load_population": "genflow.storage.populations",
    "optimal_flows": "genflow.exact",
    "read_json": "genflow.storage.files",
    "read_tensors": "genflow.storage.files",
    "run": "genflow.pipeline",
    "write_bytes": "genflow.storage.files",
    "write_json": "genflow.storage.files",
    "write_tensors": "genflow.storage.files",
}

__all__ = ["GenflowError", "__version__", "hookimpl", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'genflow' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
