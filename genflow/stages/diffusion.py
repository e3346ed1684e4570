"""The stage that trains the latent diffusion model and writes the generator.

Shapes: M policies, Z latent size, C conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from genflow.config import Config
from genflow.coverage import Quality
from genflow.distributed.world import world
from genflow.errors import GenflowError, without_cautions
from genflow.generator import FORMAT, Generator
from genflow.measure import fits_primary, primary_figures
from genflow.model_card import Card, EncoderCard
from genflow.population import Population
from genflow.precision import float32_default
from genflow.progress import Progress
from genflow.stages.autoencoder import load_autoencoder
from genflow.stages.common import (
    check_plan,
    digest,
    dump,
    estimated_cost,
    map_with_progress,
    resolve_component,
    seeded,
    zoo_digest,
)
from genflow.storage.files import StrPath, read_json
from genflow.storage.runs import MANIFEST, RunDirectory
from genflow.storage.zoo import Zoo
from genflow.structure import Structure
from genflow.tracking import track, tracked
from genflow.training.checkpoints import remove_checkpoints
from genflow.training.diffusion import DiffusionTrainee
from genflow.training.loop import train


@float32_default()
def train_generator(
    config: Config, zoo: Zoo, autoencoder: StrPath, out: StrPath, progress: Progress
) -> Generator:
    """Train the latent diffusion model on the latents of a zoo, and return the generator.

    Raises:
        GenflowError: `out` holds another run, the autoencoder is missing, or the training fails.
    """
    autoencoder, out = Path(autoencoder), Path(out)
    options, device = config.diffusion, config.torch_device()
    zoo = zoo.without_diverged()  # which was said when the autoencoder was trained
    encoder, card = load_autoencoder(autoencoder)
    denoiser_cls, denoiser_config = resolve_component(config, "denoiser")
    fingerprint = zoo_digest(zoo)
    selected = check_plan(config, zoo.structures)
    trained_on = read_json(autoencoder / MANIFEST).get("config", {}).get("zoo")
    if trained_on != fingerprint:
        raise GenflowError(
            f"the autoencoder in {autoencoder} was trained on another zoo than {zoo.folder}; "
            "train one with `genflow train-ae`"
        )
    identity = {
        "env": config.env,
        "policy": config.policy,
        "zoo": fingerprint,
        "encoder": card.model_dump(mode="json"),
        "encoder_weights": digest(*encoder.state_dict().values()),
        "diffusion": dump(options),
        "selection": [s.fields() for s in selected],
        "coverage": {key: list(ends) for key, ends in config.coverage.items()},
    }
    with tracked(config.tracking), RunDirectory.open(out, "generator", identity, config.seed) as run:
        if run.complete:
            return Generator.from_pretrained(out, device)
        encoder = encoder.to(device)
        with torch.no_grad():
            latents = torch.cat([encoder.encode(p) for p in zoo.populations])
        conditions = torch.cat([p.structure.condition().expand(len(p), -1) for p in zoo.populations])
        mean, std = latents.mean(0), latents.std(0, correction=0).clamp(min=1e-6)
        sizes: dict[str, Any] = {"latent_size": latents.shape[1], "condition_size": conditions.shape[1]}
        denoiser = seeded(config.seed, lambda: denoiser_cls(denoiser_config, **sizes))
        trainee = DiffusionTrainee(denoiser, (latents - mean) / std, conditions, options, device=device)
        trained = train(
            trainee,
            options,
            folder=out,
            seed=config.seed,
            progress=progress,
            label="diffusion",
        )
        denoiser.load_state_dict(trainee.average.module.state_dict())
        structures = zoo.structures
        full = Card(
            format=FORMAT,
            env=structures[0].env,
            policy=structures[0].policy,
            training_structures=[s.fields() for s in structures],
            selection_structures=[s.fields() for s in selected],
            coverage=config.coverage,
            encoder=card,
            denoiser=options.denoiser,
            denoiser_options=denoiser_config.model_dump(mode="json"),
            **sizes,
            noise=options.noise,
            sampling=options.sampling,
            provenance={
                "seed": config.seed,
                "zoo": fingerprint,
                "seconds": trained.seconds,
                **trained.extent(),
                "history": trained.history,
                "versions": run.manifest["versions"],
            },
        )
        generator = Generator(full, encoder, denoiser.eval(), mean, std)
        # saved before it is measured, so that a failure there does not lose it
        world().on_rank_zero(lambda: generator.save_pretrained(out))
        quality = measure_quality(
            generator, selected, "selection", config.evaluation.num, config.seed, progress
        )
        generator.card = full.model_copy(update={"quality": quality})
        made = {
            f"generated/{entry.name}/{name}": value
            for entry in quality
            for name, value in entry.metrics.items()
            if value is not None
        }
        world().on_rank_zero(lambda: track(out, {}, made, trained.steps))
        world().on_rank_zero(lambda: generator.save_pretrained(out))
        world().on_rank_zero(lambda: remove_checkpoints(out))
        run.update(complete=True)
        progress.note(f"diffusion: {trained}")
        return generator


def measure_quality(
    generator: Generator,
    structures: Sequence[Structure],
    role: Literal["selection", "test"],
    num: int,
    seed: int,
    progress: Progress,
) -> list[Quality]:
    """Measure generated and untrained policies by the primary metrics, for a model card's `quality`.

    Structures that no primary metric fits are left out.
    """

    def entry(structure: Structure) -> dict[str, Any]:
        structure = generator.card.complete(structure)
        with without_cautions():  # it is measured to know
            made = primary_figures(generator.generate(structure, num, seed))
        untrained = primary_figures(Population.initialised(structure, num, seed))
        return Quality(
            structure=structure.fields(),
            name=structure.name,
            role=role,
            num=num,
            metrics={**made},
            untrained={**untrained},
        ).model_dump(mode="json")

    measured = [structure for structure in structures if fits_primary(structure)]
    return [
        Quality(**facts)
        for facts in map_with_progress(measured, entry, progress, f"measure {role}", estimated_cost)
    ]


@float32_default()
def export_generator(
    config: Config, folder: StrPath, out: Path, progress: Progress, license: str | None = None
) -> Generator:
    """Write a generator for distribution, in float16 and without its training history.

    `folder` may be a name too, as for `Generator.from_pretrained`, and `license` is what the model card
    states. It is measured on its selection structures and on the test structures. A coverage of the
    configuration takes the place of the card's.

    Raises:
        GenflowError: a test structure was trained on, was selected on or is not covered, or a file cannot be
            written.
    """
    generator = Generator.from_pretrained(folder).rounded()
    card = generator.card
    card = generator.card = card.model_copy(update={"coverage": config.coverage or card.coverage})
    selected = [Structure.build(card.env, fields, card.policy) for fields in card.selection_structures]
    tests = config.unseen_structures(generator.training_structures)
    for structure in tests:
        if structure in selected:
            raise GenflowError(
                f"test structure {structure.name} is also selected on; remove it from test_structures"
            )
        generator.check(structure)
    if (out / MANIFEST).exists():
        raise GenflowError(f"{out} holds a run, perhaps the generator itself; choose another --out")
    num, seed = config.evaluation.num, config.seed
    quality = measure_quality(generator, selected, "selection", num, seed, progress)
    quality += measure_quality(generator, tests, "test", num, seed, progress)
    kept = {key: value for key, value in card.provenance.items() if key != "history"}
    kept |= {} if license is None else {"license": license}
    described = EncoderCard.of(card.encoder.name, generator.encoder)
    generator.card = card.model_copy(update={"provenance": kept, "quality": quality, "encoder": described})
    world().on_rank_zero(lambda: generator.save_pretrained(out, half=True))
    return generator
