"""The whole job, from training a zoo to evaluating the generated policies.

OUT/zoo/<structure>/        train_zoo           populations trained from scratch
OUT/autoencoder/            train_autoencoder   weights <-> latents
OUT/generator/              train_generator     condition -> latents -> weights
OUT/generated/<structure>/  generate            policies for known and unknown structures
OUT/pretrained/<structure>/ generate            by the generator that ships, to compare
OUT/trained/<structure>/    train_zoo           unknown structures trained from scratch, only to compare
OUT/evaluation.json         compare             every population and baseline, measured
OUT/report.html             write_report        tables and pictures
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genflow.config import Config
from genflow.distributed.world import world
from genflow.errors import GenflowError
from genflow.evaluation.baselines import baselines, comparable, reference
from genflow.evaluation.evaluate import choose_metrics, evaluate
from genflow.evaluation.report import write_report
from genflow.evaluation.report_data import EVALUATION
from genflow.population import Population
from genflow.precision import float32_default
from genflow.pretrained import shipped
from genflow.progress import Progress
from genflow.registry import registry
from genflow.stages.autoencoder import train_autoencoder
from genflow.stages.common import check_plan, digest, map_with_progress, resolve_component
from genflow.stages.diffusion import train_generator
from genflow.stages.generate import generate, load_pretrained
from genflow.stages.zoo import train_zoo
from genflow.storage.files import read_json, write_json
from genflow.storage.populations import find_populations, read_facts
from genflow.storage.runs import MANIFEST, RunDirectory, versions
from genflow.storage.zoo import Zoo
from genflow.structure import Structure
from genflow.tracking import track, tracked
from genflow.training.loop import NON_IDENTITY_FIELDS


@float32_default()
def run(config: Config, out: Path | str, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Run all stages: train, generate for known and unknown structures, evaluate and report.

    Args:
        config: all options, see `load_config`.
        out: the output folder.
        progress: the progress reporter.

    Returns:
        An entry for each population and baseline, see `evaluate`.

    Raises:
        GenflowError: the configuration is invalid, or `out` holds another run.
    """
    out, progress = Path(out), progress or Progress.current()
    with progress.as_current():
        known, unknown = check(config)
    identity = config.model_dump(
        mode="json",
        exclude={
            **dict.fromkeys(("zoo", "autoencoder", "diffusion", "finetune"), NON_IDENTITY_FIELDS),
            "tracking": True,
        },
    )
    opened = RunDirectory.open(out, "run", identity, config.seed)
    with tracked(config.tracking), opened as run, progress.as_current():
        zoo = train_zoo(config, known, config.zoo, out / "zoo", progress)
        train_autoencoder(config, zoo, out / "autoencoder", progress)
        generator = train_generator(config, zoo, out / "autoencoder", out / "generator", progress)
        everything = [*known, *unknown]
        generated = generate(config, [generator] * len(everything), everything, out / "generated", progress)
        if config.evaluation.pretrained:
            pretrained, covered, refusals = load_pretrained(config, everything)
            for refusal in refusals:
                progress.note(f"pretrained: {refusal}")
            if covered:
                generated += generate(config, pretrained, covered, out / "pretrained", progress, "pretrained")
        trained = list(zoo.populations)
        if unknown and config.train_tests:
            alike = config.zoo.model_copy(update={"num": config.evaluation.num})
            trained += train_zoo(config, unknown, alike, out / "trained", progress).populations
        trained.sort(key=lambda p: [*known, *unknown].index(p.structure))
        entries = compare(config, [*trained, *generated], zoo, progress)
        world().on_rank_zero(lambda: write_evaluation(out, entries, config))
        world().on_rank_zero(lambda: str(write_report(out)))
        run.update(complete=True)
    return entries


@float32_default()
def check(config: Config) -> tuple[list[Structure], list[Structure]]:
    """Raise an error for an invalid configuration before the first stage writes anything.

    Returns:
        The structures to train on, and those that are only generated.

    Raises:
        GenflowError: a structure, plugin, option, metric or device is invalid.
    """
    encoder_cls, encoder_config = resolve_component(config, "encoder")
    known = config.training_structures()
    unknown = config.unseen_structures(known)
    if config.evaluation.pretrained and not shipped(config.env):
        raise GenflowError(f"no generator ships for {config.env!r}; take evaluation.pretrained away")
    selected = check_plan(config, known, unknown)
    for structure in [*known, *unknown]:
        if structure in known or config.train_tests:
            config.zoo.check(structure)
        choose_metrics(structure, config.evaluation.metrics, reference=True)
    if unknown or selected:
        untrained = encoder_cls.for_zoo(
            encoder_config, [Population.initialised(structure, 2, config.seed) for structure in known]
        )
        for structure in [*unknown, *selected]:
            untrained.check(structure.layout)
    return known, unknown


def compare(
    config: Config,
    populations: Sequence[Population],
    zoo: Zoo | None,
    progress: Progress,
    folders: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Evaluate populations and the baselines of their structures.

    The entries are grouped by structure. ``folder`` is where a population is, from `folders`. ``seen`` is the
    same in all entries of a structure: that of its generated population, or without one, whether the zoo
    contains the structure.
    """
    options = config.evaluation
    structures = list(dict.fromkeys(population.structure for population in populations))
    place = dict(zip(map(id, populations), folders, strict=True)) if folders is not None else {}

    def measured(structure: Structure) -> list[dict[str, Any]]:
        checkpoints = reference(structure, zoo)
        rivals = baselines(structure, zoo, options.baselines, options.num, config.seed, options.noise)
        own = [p for p in populations if p.structure == structure]
        judge = next((p for p in own if p.source == "generated"), None)
        entries = []
        for population in [*own, *rivals]:
            seen = judge.seen if judge else structure in zoo.structures if zoo else population.seen
            seen = population.seen if population.source == "pretrained" else seen
            entry = evaluate(population, options.metrics, checkpoints)
            entries.append({**entry, "seen": seen, "folder": place.get(id(population))})
        return entries

    groups = map_with_progress(
        structures,
        measured,
        progress,
        "evaluate",
        lambda structure: structure.solution.n_states or math.inf,
    )
    return [entry for group in groups for entry in group]


def load_for_evaluation(
    folder: Path, zoo_folder: Path | None, env: str | None, structures: Sequence[str]
) -> tuple[list[Population], Zoo | None, list[str]]:
    """Load the populations in a folder, the zoo of their baselines, and their places in the folder.

    Args:
        folder: a population, a zoo or a run.
        zoo_folder: the zoo; None means the zoo in `folder`, if there is one.
        env: load only populations of this environment, if given.
        structures: load only populations of these structures, if given.

    Raises:
        GenflowError: no population matches, or one cannot be loaded.
    """
    if env is not None:
        registry().load("environment", env)
    found = [(path, read_facts(path)[0]) for path in find_populations(folder)]
    chosen = [(path, s) for path, s in found if env in (None, s.env)]
    wanted = {s for text in structures for s in _asked_for(text, [s for _, s in chosen])}
    chosen = [(path, s) for path, s in chosen if s in wanted or not structures]
    if not chosen:
        raise GenflowError(
            f"{folder} holds no population"
            f"{' of these structures' if found else '; make some with `genflow generate`'}"
        )
    populations = [Population.load(path) for path, _ in chosen]
    places = [os.path.relpath(path, folder) for path, _ in chosen]
    if zoo_folder is not None:
        return populations, Zoo(zoo_folder), places
    inside = folder / "zoo" if (folder / "zoo").is_dir() else folder
    is_zoo = (inside / MANIFEST).exists() and read_json(inside / MANIFEST).get("stage") == "zoo"
    return populations, Zoo(inside) if is_zoo else None, places


def _asked_for(text: str, structures: Sequence[Structure]) -> list[Structure]:
    """Those of some structures that a text names, else what it means for each of their tasks."""
    named = [structure for structure in structures if structure.name == text]
    return named or [Structure.parse(*task) for task in {(s.env, text, s.policy) for s in structures}]


@float32_default()
def evaluate_folder(
    config: Config,
    populations: Sequence[Population],
    zoo: Zoo | None,
    out: Path | None,
    progress: Progress,
    folders: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Evaluate populations as `compare` does, and write ``OUT/evaluation.json`` if a folder is given.

    Raises:
        GenflowError: a named metric does not apply, or `out` holds another run.
    """
    zoo = zoo and zoo.without_diverged(progress.note)
    for structure in {population.structure for population in populations}:
        choose_metrics(structure, config.evaluation.metrics, bool(comparable(structure, zoo)))
    if out is None:
        if config.tracking.trackers:
            raise GenflowError("figures of an evaluation are logged in its folder; name one with --out")
        return compare(config, populations, zoo, progress, folders)
    identity = {
        "evaluation": config.evaluation.model_dump(mode="json"),
        "populations": [digest(p.weights) for p in populations],
    }
    with tracked(config.tracking), RunDirectory.open(out, "evaluate", identity, config.seed) as run:
        entries = compare(config, populations, zoo, progress, folders)
        world().on_rank_zero(lambda: write_evaluation(out, entries, config))
        run.update(complete=True)
    return entries


def write_evaluation(out: Path, entries: list[dict[str, Any]], config: Config) -> None:
    """Write the entries, the configuration and the versions to ``evaluation.json``, and log the means."""
    write_json(
        out / EVALUATION,
        {"entries": entries, "config": config.model_dump(mode="json"), "versions": versions()},
    )
    figures: dict[str, float] = {}
    for entry in entries:
        whose = f"{entry['source']}/{entry['name']}"
        if any(name.startswith(f"{whose}/") for name in figures):  # several of one structure
            whose += f"/{entry['folder']}"
        figures |= {f"{whose}/{name}": values["mean"] for name, values in entry["metrics"].items()}
    track(out, {"label": "evaluation"}, figures)
