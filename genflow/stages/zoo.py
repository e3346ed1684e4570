"""The stage that trains a zoo, a population of each structure from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genflow.config import Config
from genflow.distributed.launcher import cores
from genflow.distributed.world import world
from genflow.interfaces.encoder import Encoder, Starts
from genflow.measure import primary_metrics
from genflow.population import Population
from genflow.precision import float32_default
from genflow.progress import Progress
from genflow.stages.common import dump, estimated_cost, map_with_progress, resolve_component
from genflow.storage.files import StrPath, write_tensors
from genflow.storage.populations import FACTS
from genflow.storage.runs import RunDirectory
from genflow.storage.zoo import STARTS, Zoo, read_starts
from genflow.structure import Structure
from genflow.tracking import tracked
from genflow.training.checkpoints import remove_checkpoints
from genflow.training.options import ZooOptions
from genflow.training.policies import train_members
from genflow.value_text import count_of


@float32_default()
def train_zoo(
    config: Config, structures: Sequence[Structure], options: ZooOptions, out: StrPath, progress: Progress
) -> Zoo:
    """Train `options.num` policies for each structure from scratch.

    Raises:
        GenflowError: `out` holds another run, or a training fails.
    """
    out, device = Path(out), config.torch_device()
    encoder_cls, encoder_config = resolve_component(config, "encoder")
    for structure in structures:
        options.check(structure)
    identity = {
        "env": config.env,
        "policy": config.policy,
        "structures": [s.fields() for s in structures],
        "zoo": dump(options),
        "starts": {
            "encoder": config.autoencoder.encoder,
            **encoder_cls.starts(encoder_config, structures).facts(),
        },
    }
    opened = RunDirectory.open(out, "zoo", identity, config.seed, prepared=[STARTS])
    with tracked(config.tracking), opened as run:
        if (
            progress.takes_workers
            and world().size == 1
            and len(structures) > 1
            and cores() > options.threads
            and torch.device(device).type == "cpu"
        ):
            progress.note(
                f"zoo: one worker for {len(structures)} structures on {cores()} cores;"
                " --nproc-per-node auto uses all of them"
            )
        starts = _stored_starts(encoder_cls, encoder_config, structures, out)
        said = set()

        def collect(index: int) -> str | None:
            structure, folder = structures[index], out / structures[index].name
            if (folder / FACTS).exists():
                remove_checkpoints(folder)  # left over from a run that was killed
                return None
            population = train_members(
                structure,
                options,
                starts,
                seed=config.seed + index,
                folder=folder,
                progress=progress,
                device=device,
            )
            population.save(folder)
            remove_checkpoints(folder)
            facts = population.provenance
            policies = count_of(len(population), "policy", "policies")
            line = f"zoo: {structure.name}: {policies} in {facts['seconds']:.1f} s"
            if "ended_after_seconds" in facts["budget"]:
                line += f", ended by the budget after {facts['budget']['steps']} of {options.steps} steps"
            line += _quality(population)
            said.add(line)
            progress.note(line)
            return line

        lines = map_with_progress(
            range(len(structures)), collect, progress, "zoo", lambda index: estimated_cost(structures[index])
        )
        for line in lines:
            if world().is_rank_zero and line not in said and line is not None:  # trained by another worker
                progress.note(line)
        run.update(complete=True)
    return Zoo(out)


def _stored_starts(
    encoder_cls: type[Encoder], encoder_config: Any, structures: Sequence[Structure], out: Path
) -> Starts:
    """Return the initial weights of the zoo, whose random tensors rank 0 draws and all workers read."""

    def write() -> None:
        tensors = encoder_cls.starts(encoder_config, structures).tensors()
        if tensors and not (out / STARTS).exists():
            write_tensors(out / STARTS, tensors)

    world().on_rank_zero(write)
    return encoder_cls.starts(encoder_config, structures, read_starts(out))


def _quality(population: Population) -> str:
    members = [m["metrics"] for m in population.provenance.get("members", []) if "metrics" in m]
    figures = [
        f"{name} {sum(m[name] for m in members) / len(members):.4g}" for name in primary_metrics() if members
    ]
    return f", mean {', '.join(figures)}" if figures else ""
