"""The stages that generate populations and fine-tune them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from genflow.config import Config
from genflow.distributed.world import world
from genflow.errors import GenflowError, without_cautions
from genflow.generator import CARD, Generator
from genflow.population import Population
from genflow.precision import float32_default
from genflow.pretrained import load_card, shipped
from genflow.progress import Progress
from genflow.reward_calls import RewardCalls
from genflow.stages.common import digest, dump, estimated_cost, map_with_progress
from genflow.storage.files import StrPath
from genflow.storage.populations import FACTS, find_populations
from genflow.storage.runs import RunDirectory
from genflow.storage.score_files import Row, described_in
from genflow.structure import Structure
from genflow.tracking import tracked
from genflow.training.checkpoints import remove_checkpoints
from genflow.training.finetune import finetune
from genflow.value_text import count_of


@float32_default()
def load_generators(
    config: Config, name: StrPath | None, structures: Sequence[Structure], made_in: Sequence[Path] = ()
) -> list[Generator]:
    """Load the generator for each structure.

    It is the one of `name`, which may be its folder, if given. Otherwise it is the first that covers the
    structure, among the pretrained ones of the environment and the one in the default run folder. The reward
    calls that describing a structure takes are kept in the folder that its policies will be `made_in`, if
    those are given.

    Raises:
        GenflowError: no generator is found, or none covers a structure.
    """
    device = config.torch_device()
    places: list[str | Path] = [os.fspath(name)] if name is not None else [*shipped(config.env)]
    default = Path("runs") / config.env / "generator"
    if name is None and (default / CARD).exists():
        places.append(default)
    if not places:
        raise GenflowError(
            f"no generator ships for {config.env!r} and {default} holds none; "
            "give --generator DIR, or train one with `genflow train-ldm`"
        )
    covering = _finder(places, device)
    if not made_in:
        return [covering(structure) for structure in structures]
    found = []
    for structure, own in zip(structures, made_in, strict=True):
        with RewardCalls(described_in(own)).as_current():
            found.append(covering(structure))
    return found


def folders_of(out: Path, structures: Sequence[Structure]) -> list[Path]:
    """Where populations of some structures are written: a single one to `out`, several to a folder each."""
    return [out] if len(structures) == 1 else [out / structure.name for structure in structures]


@float32_default()
def load_pretrained(
    config: Config, structures: Sequence[Structure]
) -> tuple[list[Generator], list[Structure], list[str]]:
    """Load the generators that ship with the environment, for those of some structures that they cover.

    Returns:
        A generator each for the structures that are covered, these structures, and why others are not.
    """
    covering = _finder(shipped(config.env), config.torch_device())
    generators, covered, refusals = [], [], []
    for structure in structures:
        try:
            generators.append(covering(structure))
        except GenflowError as error:
            refusals.append(str(error))
        else:
            covered.append(structure)
    return generators, covered, refusals


def _finder(places: Sequence[str | Path], device: str) -> Callable[[Structure], Generator]:
    """Return a function that finds the first generator that covers a structure, and loads no other.

    It raises an error if none does; the message says why for each generator.
    """
    card = cache(load_card)

    @cache
    def load(place: str | Path) -> Generator:
        return Generator.from_card(*card(place), device)

    def covering(structure: Structure) -> Generator:
        refusals = {}
        for place in places:
            _, facts = card(place)
            try:
                facts.check(structure)
            except GenflowError as error:
                refusals[place] = str(error)
                continue
            generator = load(place)
            try:
                generator.check(structure)
            except GenflowError as error:
                refusals[place] = str(error)
            else:
                return generator
        if len(refusals) == 1:
            raise GenflowError(next(iter(refusals.values())))
        said = "; ".join(f"{Path(place).name}: {why}" for place, why in refusals.items())
        raise GenflowError(f"no generator covers {structure.name}: {said}")

    return covering


@float32_default()
def generate(
    config: Config,
    generators: Sequence[Generator],
    structures: Sequence[Structure],
    out: Path,
    progress: Progress,
    source: str = "generated",
) -> list[Population]:
    """Generate a population for each structure with its generator.

    A single population is written to `out` itself, and several to a folder each. `source` is what tables and
    the report call them.

    Raises:
        GenflowError: `out` holds another run, or a generator does not cover its structure.
    """
    for generator, structure in zip(generators, structures, strict=True):
        generator.check(structure)
    options = config.generate
    overrides: dict[str, Any] = {
        k: v
        for k, v in (("sampler", options.sampler), ("steps", options.steps), ("guidance", options.guidance))
        if v is not None
    }
    used = list(dict.fromkeys(generators))
    identity = {
        "structures": [s.to_json() for s in structures],
        "generate": dump(options),
        "generators": [g.card.model_dump(mode="json", exclude={"provenance"}) for g in used],
        "latents": digest(*(t for g in used for t in (g.latent_mean, g.latent_std))),
    }
    folders = folders_of(out, structures)
    made: dict[int, Population] = {}

    def make(index: int) -> None:
        calls = RewardCalls(described_in(folders[index]))
        with without_cautions(), calls.as_current():  # said above, by rank 0
            population = generators[index].generate(structures[index], options.num, config.seed, **overrides)
        provenance = {**population.provenance, "source": source}
        if len(calls):
            provenance["reward_calls"] = len(calls)
        population = replace(population, provenance=provenance)
        world().on_rank_zero(lambda: population.save(folders[index]))
        made[index] = population

    with RunDirectory.open(out, "generate", identity, config.seed) as run:
        if not run.complete:
            for generator, structure in zip(generators, structures, strict=True):
                if warning := generator.caution(structure):
                    progress.warn(warning)
            if len(structures) < world().size:  # all workers generate each population together
                for index in range(len(structures)):
                    make(index)
            else:
                map_with_progress(
                    range(len(structures)),
                    make,
                    progress,
                    "generate",
                    lambda index: estimated_cost(structures[index]),
                )
        populations = [made.get(index) or Population.load(folder) for index, folder in enumerate(folders)]
        if not run.complete:
            for p in populations:
                calls = p.provenance.get("reward_calls", 0)
                paid = f", {count_of(calls, 'reward call')} to describe the structure" if calls else ""
                made_now = count_of(len(p), "policy", "policies")
                progress.note(
                    f"{source}: {p.structure.name}: {made_now} in {p.provenance['seconds']:.3f} s" + paid
                )
        run.update(complete=True)
    return populations


@float32_default()
def finetune_both(
    config: Config,
    population: Population,
    out: Path,
    progress: Progress,
    described: Path | Sequence[Row] = (),
    paid: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Fine-tune a population, and train policies from a random start with the same budget.

    Both populations are written under `out`. `described` and `paid` are as for `finetune`.

    Returns:
        An entry ``{"name", "figures", "history"}`` for each.

    Raises:
        GenflowError: `out` holds another run, or the training fails.
    """
    identity = {
        "finetune": dump(config.finetune),
        "structure": population.structure.to_json(),
        "start": digest(population.weights),
    }
    with tracked(config.tracking), RunDirectory.open(out, "finetune", identity, config.seed) as run:
        if not run.complete:
            device, options = config.torch_device(), config.finetune

            def train_from(name: str) -> None:
                own, workers = out / name, world()
                if not workers.on_rank_zero(lambda: (own / FACTS).exists()):
                    result = finetune(
                        population,
                        name,
                        options,
                        seed=config.seed,
                        folder=own,
                        progress=progress,
                        device=device,
                        described=described,
                        paid=paid,
                    )
                    workers.on_rank_zero(lambda: result.save(own))
                workers.on_rank_zero(lambda: remove_checkpoints(own))

            if options.reward_calls is None:
                map_with_progress(options.trainings(), train_from, progress, "finetune")
            else:  # all workers make the calls of one training after the other
                for name in options.trainings():
                    train_from(name)
            run.update(complete=True)
        else:
            progress.note(f"{out} is complete: nothing is trained; for another budget give another --out")
        entries = []
        for path in find_populations(out):
            history = Population.load(path).provenance["history"]
            entries.append(
                {
                    "name": path.name,
                    "figures": {k: points[-1][1] for k, points in history.items()},
                    "history": history,
                }
            )
    return entries
