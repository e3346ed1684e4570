"""genflow: generate GFlowNet policies from the structure of their task instead of training them.

The public names below are imported on first use, so that ``import genflow`` stays cheap and free of torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from genflow.errors import GenflowError
from genflow.hookspecs import hookimpl

__version__ = "0.1.0"

_LAZY = {
    "Denoiser": "genflow.interfaces",
    "Encoder": "genflow.interfaces",
    "Environment": "genflow.interfaces",
    "Expert": "genflow.exact",
    "Gallery": "genflow.interfaces",
    "Generator": "genflow.generator",
    "Metric": "genflow.interfaces",
    "Noise": "genflow.interfaces",
    "PolicyArch": "genflow.interfaces",
    "Population": "genflow.population",
    "Progress": "genflow.progress",
    "RunDirectory": "genflow.runs",
    "Schema": "genflow.schema",
    "StateGraph": "genflow.exact",
    "Structure": "genflow.structure",
    "WeightLayout": "genflow.layout",
    "Zoo": "genflow.zoo",
    "did_you_mean": "genflow.errors",
    "evaluate": "genflow.evaluation.evaluate",
    "load_config": "genflow.config",
    "load_population": "genflow.zoo",
    "optimal_flows": "genflow.exact",
    "read_json": "genflow.runs",
    "read_tensors": "genflow.runs",
    "run": "genflow.pipeline",
    "smooth_basis": "genflow.training.initialisation",
    "smooth_scale": "genflow.training.initialisation",
    "smooth_start": "genflow.training.initialisation",
    "write_bytes": "genflow.runs",
    "write_json": "genflow.runs",
    "write_tensors": "genflow.runs",
}

__all__ = ["GenflowError", "__version__", "hookimpl", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'genflow' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
