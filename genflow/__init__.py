"""genflow: generate GFlowNet policies from the structure of their task instead of training them.

The public names below are imported on first use, so that ``import genflow`` stays cheap and free of torch.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from genflow.errors import GenflowError, GenflowWarning
from genflow.hookspecs import hookimpl
from genflow.version import __version__

# How often torch's threads look whether the others are done before they sleep. By default they go on looking
# for as long as another program has a core that one of them needs: with one of two cores taken a product took
# up to 40 times as long. It is read when torch is loaded: import genflow first (docs/performance.md)
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

#: public name -> its module, or module:name where the name is another there
_LAZY = {
    "require_may_read": "genflow.schema",
    "reward_name": "genflow.schema",
    "fixed": "genflow.schema",
    "described": "genflow.schema",
    "told": "genflow.schema",
    "brief": "genflow.schema",
    "size": "genflow.schema",
    "Rehearsal": "genflow.interfaces.environment",
    "csv_rows": "genflow.storage.tables",
    "title_column": "genflow.storage.tables",
    "Units": "genflow.interfaces.environment",
    "UnitDescriptions": "genflow.layout",
    "PlainGallery": "genflow.interfaces.gallery",
    "BackwardPolicy": "genflow.interfaces.transitions",
    "Transitions": "genflow.interfaces.transitions",
    "Reward": "genflow.interfaces.reward",
    "ByteCache": "genflow.caching",
    "ByteTable": "genflow.caching",
    "ExactSolution": "genflow.interfaces.exact_solution",
    "AutoencoderObjective": "genflow.training.autoencoder",
    "Denoiser": "genflow.interfaces.denoiser",
    "Encoder": "genflow.interfaces.encoder",
    "Environment": "genflow.interfaces.environment",
    "Expert": "genflow.exact",
    "GENERATOR_CARD": "genflow.pretrained:CARD",
    "GENERATOR_FORMAT": "genflow.pretrained:FORMAT",
    "GENERATOR_TENSORS": "genflow.pretrained:TENSORS",
    "OLD_GENERATOR_FORMAT": "genflow.pretrained:OLD_FORMAT",
    "Gallery": "genflow.interfaces.gallery",
    "Generator": "genflow.generator",
    "Metric": "genflow.interfaces.metric",
    "Named": "genflow.interfaces.gallery",
    "Noise": "genflow.interfaces.encoder",
    "PolicyArch": "genflow.interfaces.policy",
    "PolicyOptions": "genflow.training.options",
    "Population": "genflow.population",
    "Progress": "genflow.progress",
    "RewardCalls": "genflow.reward_calls",
    "RunDirectory": "genflow.storage.runs",
    "Schema": "genflow.schema",
    "StateGraph": "genflow.exact",
    "Starts": "genflow.interfaces.encoder",
    "Structure": "genflow.structure",
    "Tracker": "genflow.interfaces.tracker",
    "WeightLayout": "genflow.layout",
    "Zoo": "genflow.storage.zoo",
    "baselines": "genflow.evaluation.baselines",
    "bytes_of": "genflow.caching",
    "cached_on": "genflow.caching",
    "choose_metrics": "genflow.evaluation.evaluate",
    "code_digest": "genflow.plugin_files",
    "convert_populations": "genflow.storage.populations",
    "count_of": "genflow.value_text",
    "did_you_mean": "genflow.errors",
    "draw_curves": "genflow.evaluation.pictures:curves",
    "draw_marginals": "genflow.evaluation.pictures:marginals",
    "draw_matrices": "genflow.evaluation.pictures:matrices",
    "draw_png": "genflow.evaluation.pictures:png",
    "evaluate": "genflow.evaluation.evaluate",
    "finetune": "genflow.generation",
    "format_number": "genflow.evaluation.evaluate",
    "generate": "genflow.generation",
    "html_figure": "genflow.evaluation.page",
    "html_page": "genflow.evaluation.page",
    "interrupts_for_python": "genflow.interrupts",
    "js": "genflow.divergences",
    "kl": "genflow.divergences",
    "load_config": "genflow.config",
    "log_pf_of": "genflow.ancestry",
    "sample_backwards": "genflow.ancestry",
    "load_plugin": "genflow.plugin_files",
    "load_population": "genflow.population",
    "mean_l1": "genflow.divergences",
    "optimal_flows": "genflow.exact",
    "read_json": "genflow.storage.files",
    "read_tensors": "genflow.storage.files",
    "run": "genflow.pipeline",
    "sample_objects": "genflow.stages.sample",
    "score_objects": "genflow.stages.score",
    "tensor_difference": "genflow.layout",
    "total_variation": "genflow.divergences",
    "train_autoencoder": "genflow.stages.autoencoder",
    "train_generator": "genflow.stages.diffusion",
    "train_population": "genflow.training.policies",
    "train_zoo": "genflow.stages.zoo",
    "transfer": "genflow.training.finetune",
    "values_of": "genflow.measure",
    "write_bytes": "genflow.storage.files",
    "write_json": "genflow.storage.files",
    "write_tensors": "genflow.storage.files",
}

__all__ = ["GenflowError", "GenflowWarning", "__version__", "hookimpl", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'genflow' has no attribute {name!r}")
    module, _, own = _LAZY[name].partition(":")
    return getattr(importlib.import_module(module), own or name)


def __dir__() -> list[str]:
    return sorted(__all__)
