"""The stage that trains the autoencoder of weights on a zoo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from genflow.config import Config
from genflow.distributed.world import world
from genflow.errors import GenflowError
from genflow.evaluation.report_data import AUTOENCODER
from genflow.interfaces.encoder import Encoder
from genflow.measure import primary_metrics, values_of
from genflow.model_card import EncoderCard
from genflow.population import Population
from genflow.precision import float32_default
from genflow.progress import Progress
from genflow.schema import validate
from genflow.stages.common import (
    dump,
    estimated_cost,
    map_with_progress,
    resolve_component,
    seeded,
    zoo_digest,
)
from genflow.storage.files import StrPath, read_json, read_tensors, write_json, write_tensors
from genflow.storage.populations import inside
from genflow.storage.runs import MANIFEST, RunDirectory
from genflow.storage.zoo import Zoo
from genflow.structure import Structure
from genflow.tracking import track, tracked
from genflow.training.autoencoder import AutoencoderTrainee, reconstruct
from genflow.training.checkpoints import remove_checkpoints
from genflow.training.loop import train

AUTOENCODER_TENSORS = "autoencoder.safetensors"
#: the most states of a structure whose reconstructions are measured, which would take long for larger ones
MEASURED_STATES = 70_000
#: the most policies of a structure that are measured, evenly spaced
MEASURED_POLICIES = 32


@float32_default()
def train_autoencoder(config: Config, zoo: Zoo, out: StrPath, progress: Progress) -> Encoder:
    """Train the autoencoder of weights on a zoo, and measure the reconstructed policies.

    Policies that diverged in training are left out.

    Raises:
        GenflowError: `out` holds another run, or the training fails.
    """
    out, options, device = Path(out), config.autoencoder, config.torch_device()
    zoo = zoo.without_diverged(progress.note)
    encoder_cls, encoder_config = resolve_component(config, "encoder")
    identity = {
        "env": config.env,
        "policy": config.policy,
        "zoo": zoo_digest(zoo),
        "autoencoder": dump(options),
    }
    with tracked(config.tracking), RunDirectory.open(out, "autoencoder", identity, config.seed) as run:
        if run.complete:
            return load_autoencoder(out)[0]
        encoder = seeded(
            config.seed, lambda: encoder_cls.for_zoo(encoder_config, zoo.populations, zoo.starts)
        ).float()
        trainee = AutoencoderTrainee(encoder, zoo.populations, options, seed=config.seed, device=device)
        trained = train(
            trainee,
            options,
            folder=out,
            seed=config.seed,
            progress=progress,
            label="autoencoder",
        )
        encoder = trainee.result()
        figures = reconstruction_figures(encoder, zoo, progress)
        rebuilt = {
            f"reconstructed/{entry['name']}/{name}": values["reconstructed"]
            for entry in figures
            for name, values in entry["metrics"].items()
        }

        def write() -> None:
            write_tensors(out / AUTOENCODER_TENSORS, encoder.state_dict())
            card = EncoderCard.of(options.encoder, encoder).model_dump(mode="json")
            write_json(
                out / AUTOENCODER,
                {
                    "encoder": card,
                    "seconds": trained.seconds,
                    **trained.extent(),
                    "history": trained.history,
                    "reconstruction": figures,
                },
            )
            remove_checkpoints(out)

        world().on_rank_zero(write)
        world().on_rank_zero(lambda: track(out, {}, rebuilt, trained.steps))
        run.update(complete=True)
        progress.note(f"autoencoder: {trained}")
        for entry in figures:
            for name, values in entry["metrics"].items():
                progress.note(
                    f"  {entry['name']}: median {name} {values['member']:.4g} -> reconstructed"
                    f" {values['reconstructed']:.4g}"
                )
        return encoder


def reconstruction_figures(encoder: Encoder, zoo: Zoo, progress: Progress) -> list[dict[str, Any]]:
    """Return the median primary metrics of a zoo's policies and of their reconstructions.

    Only structures of up to `MEASURED_STATES` states are measured, by at most `MEASURED_POLICIES` policies.
    """

    def entry(population: Population) -> dict[str, Any]:
        population = population[:: -(-len(population) // MEASURED_POLICIES)]
        rebuilt = reconstruct(encoder, population)
        own, made = values_of(population, primary_metrics()), values_of(rebuilt, primary_metrics())
        metrics = {
            name: {"member": float(own[name].median()), "reconstructed": float(made[name].median())}
            for name in own
        }
        return {
            "name": population.structure.name,
            "structure": population.structure.fields(),
            "metrics": metrics,
        }

    measured = [p for p in zoo.populations if _measurable(p.structure)]
    return map_with_progress(
        measured, entry, progress, "measure reconstructions", lambda p: estimated_cost(p.structure)
    )


def _measurable(structure: Structure) -> bool:
    return structure.solution.enumerable and (structure.solution.n_states or 0) <= MEASURED_STATES


@float32_default()
def load_autoencoder(folder: Path) -> tuple[Encoder, EncoderCard]:
    """Load the encoder and the card that `train_autoencoder` wrote.

    Raises:
        GenflowError: a file is missing, invalid, or of the first edition.
    """
    manifest = folder / MANIFEST
    if os.path.isfile(manifest) and "format" not in read_json(manifest):
        raise GenflowError(
            f"{folder} holds an autoencoder of the first edition, which is not converted; train another with"
            " `genflow train-ae` (its zoo can be used; `genflow convert` takes whole generators)"
        )
    path = inside(folder, AUTOENCODER)
    card = validate(EncoderCard, read_json(path).get("encoder", {}), f"{path}: encoder")
    path = inside(folder, AUTOENCODER_TENSORS)
    tensors, _ = read_tensors(path)
    encoder = card.load(tensors, path)
    return encoder.eval(), card
