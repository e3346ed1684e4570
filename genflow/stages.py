"""The stages of the main job. Each owns a folder, resumes in it, and is skipped when the folder is complete.

Shapes: M policies, Z latent size, C conditions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from genflow import coverage
from genflow.config import Config
from genflow.coverage import Quality
from genflow.errors import GenflowError
from genflow.evaluation.findings import AUTOENCODER
from genflow.generator import CARD, FORMAT, Card, EncoderCard, Generator, shipped
from genflow.interfaces import Encoder
from genflow.launch import cores, world
from genflow.measure import figures_of, primary_metrics, values_of
from genflow.population import Population
from genflow.progress import Progress
from genflow.registry import registry
from genflow.runs import MANIFEST, RunDirectory, read_json, read_tensors, write_json, write_tensors
from genflow.schema import validate
from genflow.structure import Structure
from genflow.training.autoencoder import AutoencoderTrainee, reconstruct
from genflow.training.checkpoints import remove_checkpoints
from genflow.training.diffusion import DiffusionTrainee
from genflow.training.finetune import STARTS, finetune
from genflow.training.loop import UPKEEP, train
from genflow.training.policies import ZooOptions, train_members
from genflow.zoo import FACTS, Zoo, find_populations, inside, load_population, save_population

T = TypeVar("T")
AUTOENCODER_TENSORS = "autoencoder.safetensors"
#: reconstructions are measured up to this many states: a large zoo would take longer than the training
MEASURED_STATES = 70_000


def component(config: Config, kind: Literal["encoder", "denoiser"]) -> tuple[type[Any], Any]:
    """The class and the validated options of the encoder or the denoiser that is configured.

    Raises:
        GenflowError: the name or an option is wrong.
    """
    section, options = ("autoencoder", config.autoencoder) if kind == "encoder" else ("diffusion", config.diffusion)
    name = getattr(options, kind)
    cls = registry().load(kind, name)
    return cls, validate(cls.Config, options.options, f"{section}.options of {kind} {name!r}")


def check_components(config: Config) -> None:
    """Refuse a wrong encoder, denoiser or device before anything is trained.

    Raises:
        GenflowError: says which.
    """
    component(config, "encoder")
    component(config, "denoiser")
    config.torch_device()


def check_plan(config: Config, known: Sequence[Structure], unknown: Sequence[Structure] = ()) -> list[Structure]:
    """Refuse a plan for the stages after the zoo before anything is trained.

    Args:
        config: all options.
        known: the structures to train on.
        unknown: more structures that the generator will be asked for.

    Returns:
        The structures that recipes are chosen on.

    Raises:
        GenflowError: a component, a range or a structure is wrong.
    """
    check_components(config)
    selected = config.validation_structures(known)
    training = [structure.fields() for structure in known]
    for structure in [*known, *unknown, *selected]:
        coverage.check(structure, training, config.coverage)
    if config.autoencoder.behaviour and config.autoencoder.reference == "optimal":
        for structure in known:
            structure.environment.require_expert()
    return selected


def train_zoo(config: Config, structures: Sequence[Structure], options: ZooOptions, out: Path, progress: Progress) -> Zoo:
    """Train `options.num` policies for each structure, from scratch.

    Raises:
        GenflowError: `out` holds another run, or a training fails.
    """
    device = config.torch_device()
    for structure in structures:
        options.check(structure)
    identity = {"env": config.env, "policy": config.policy, "structures": [s.fields() for s in structures], "zoo": _dump(options)}
    with RunDirectory.open(out, "zoo", identity, config.seed) as run:
        if world().size == 1 and len(structures) > 1 and cores() > options.threads and torch.device(device).type == "cpu":
            progress.note(f"zoo: one worker for {len(structures)} structures on {cores()} cores; --nproc-per-node auto uses all of them")
        said = set()

        def collect(index: int) -> str | None:
            structure, folder = structures[index], out / structures[index].name
            if (folder / FACTS).exists():
                remove_checkpoints(folder)  # of a run that was killed before it could
                return None
            population = train_members(structure, options, seed=config.seed + index, folder=folder, progress=progress, device=device)
            save_population(population, folder)
            remove_checkpoints(folder)
            seconds = population.provenance["seconds"]
            line = f"zoo: {structure.name}: {len(population)} policies in {seconds:.1f} s{_quality(population)}"
            said.add(line)
            progress.note(line)
            return line

        lines = shared(range(len(structures)), collect, progress, "zoo", lambda index: expense(structures[index]))
        for line in lines:
            if world().main and line not in said and line is not None:  # another worker's
                progress.note(line)
        run.update(complete=True)
    return Zoo(out)


def shared(
    items: Sequence[T], work: Callable[[T], Any], progress: Progress, label: str, cost: Callable[[T], float] = lambda item: 0.0
) -> list[Any]:
    """`World.share` with a bar that counts the items."""
    with progress.bar(label, len(items)) as bar:
        return world().share(items, work, cost, bar.set)


def expense(structure: Structure) -> float:
    """What a structure costs relative to others, roughly: its parameters times its inputs, which trajectories grow with."""
    return structure.layout.size * len(structure.layout.coordinates["input"])


def train_autoencoder(config: Config, zoo: Zoo, out: Path, progress: Progress) -> Encoder:
    """Train the autoencoder of weights on a zoo, and measure what reconstruction does to its members.

    Raises:
        GenflowError: `out` holds another run, or the training fails.
    """
    options, device = config.autoencoder, config.torch_device()
    encoder_cls, encoder_config = component(config, "encoder")
    identity = {"env": config.env, "policy": config.policy, "zoo": zoo_digest(zoo), "autoencoder": _dump(options)}
    with RunDirectory.open(out, "autoencoder", identity, config.seed) as run:
        if run.complete:
            return load_autoencoder(out)[0]
        encoder = _seeded(config.seed, lambda: encoder_cls.for_zoo(encoder_config, zoo.populations))
        trainee = AutoencoderTrainee(encoder, zoo.populations, options, seed=config.seed, device=device)
        history, seconds = train(trainee, options, folder=out, seed=config.seed, progress=progress, label="autoencoder", device=device)
        encoder = trainee.result()
        figures = reconstruction_figures(encoder, zoo, progress)

        def write() -> None:
            write_tensors(out / AUTOENCODER_TENSORS, encoder.state_dict())
            card = EncoderCard.of(options.encoder, encoder).model_dump(mode="json")
            write_json(out / AUTOENCODER, {"encoder": card, "seconds": seconds, "history": history, "reconstruction": figures})
            remove_checkpoints(out)

        world().first(write)
        run.update(complete=True)
        progress.note(f"autoencoder: {options.steps} steps in {seconds:.1f} s")
        for entry in figures:
            for name, values in entry["metrics"].items():
                progress.note(f"  {entry['name']}: median {name} {values['member']:.4g} -> reconstructed {values['reconstructed']:.4g}")
        return encoder


def reconstruction_figures(encoder: Encoder, zoo: Zoo, progress: Progress) -> list[dict[str, Any]]:
    """For each structure of up to MEASURED_STATES states, the median primary metrics of the members and of their reconstructions."""

    def entry(population: Population) -> dict[str, Any]:
        rebuilt = reconstruct(encoder, population)
        own, made = values_of(population, primary_metrics()), values_of(rebuilt, primary_metrics())
        metrics = {name: {"member": float(own[name].median()), "reconstructed": float(made[name].median())} for name in own}
        return {"name": population.structure.name, "structure": population.structure.fields(), "metrics": metrics}

    measured = [p for p in zoo.populations if _measurable(p.structure)]
    return shared(measured, entry, progress, "measure reconstructions", lambda p: expense(p.structure))


def _measurable(structure: Structure) -> bool:
    return structure.environment.enumerable and (structure.environment.n_states or 0) <= MEASURED_STATES


def load_autoencoder(folder: Path) -> tuple[Encoder, EncoderCard]:
    """Load what `train_autoencoder` wrote.

    Raises:
        GenflowError: it is missing or unusable.
    """
    path = inside(folder, AUTOENCODER)
    card = validate(EncoderCard, read_json(path).get("encoder", {}), f"{path}: encoder")
    path = inside(folder, AUTOENCODER_TENSORS)
    tensors, _ = read_tensors(path)
    encoder = card.load(tensors, path)
    return encoder.eval(), card


def train_generator(config: Config, zoo: Zoo, autoencoder: Path, out: Path, progress: Progress) -> Generator:
    """Train the latent diffusion model on a zoo's latents, and join it with the autoencoder to a generator.

    Raises:
        GenflowError: `out` holds another run, the autoencoder is missing, or the training fails.
    """
    options, device = config.diffusion, config.torch_device()
    encoder, card = load_autoencoder(autoencoder)
    denoiser_cls, denoiser_config = component(config, "denoiser")
    fingerprint = zoo_digest(zoo)
    selected = check_plan(config, zoo.structures)
    trained_on = read_json(autoencoder / MANIFEST).get("config", {}).get("zoo")
    if trained_on != fingerprint:
        raise GenflowError(
            f"the autoencoder in {autoencoder} was trained on another zoo than {zoo.folder}; train one with `genflow train-ae`"
        )
    identity = {
        "env": config.env,
        "policy": config.policy,
        "zoo": fingerprint,
        "encoder": card.model_dump(mode="json"),
        "encoder_weights": digest(*encoder.state_dict().values()),
        "diffusion": _dump(options),
        "selection": [s.fields() for s in selected],
        "coverage": {key: list(ends) for key, ends in config.coverage.items()},
    }
    with RunDirectory.open(out, "generator", identity, config.seed) as run:
        if run.complete:
            return Generator.from_pretrained(out, device)
        encoder = encoder.to(device)
        with torch.no_grad():
            latents = torch.cat([encoder.encode(p) for p in zoo.populations])
        conditions = torch.cat([p.structure.condition().expand(len(p), -1) for p in zoo.populations])
        mean, std = latents.mean(0), latents.std(0, correction=0).clamp(min=1e-6)
        sizes: dict[str, Any] = {"latent_size": latents.shape[1], "condition_size": conditions.shape[1]}
        denoiser = _seeded(config.seed, lambda: denoiser_cls(denoiser_config, **sizes))
        trainee = DiffusionTrainee(denoiser, (latents - mean) / std, conditions, options, device=device)
        history, seconds = train(trainee, options, folder=out, seed=config.seed, progress=progress, label="diffusion", device=device)
        denoiser.load_state_dict(trainee.average.tensors)
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
                "seconds": seconds,
                "history": history,
                "versions": run.manifest["versions"],
            },
        )
        generator = Generator(full, encoder, denoiser.eval(), mean, std)
        world().first(lambda: generator.save_pretrained(out))  # before it is measured, which must not lose it
        quality = measure_quality(generator, selected, "selection", config.evaluation.num, config.seed, progress)
        generator.card = full.model_copy(update={"quality": quality})
        world().first(lambda: generator.save_pretrained(out))
        world().first(lambda: remove_checkpoints(out))
        run.update(complete=True)
        progress.note(f"diffusion: {options.steps} steps in {seconds:.1f} s")
        return generator


def measure_quality(
    generator: Generator, structures: Sequence[Structure], role: Literal["selection", "test"], num: int, seed: int, progress: Progress
) -> list[Quality]:
    """Mean primary metrics of generated policies on structures that can be enumerated, as entries of a model card's `quality`."""

    def entry(structure: Structure) -> dict[str, Any]:
        metrics: dict[str, float | None] = {**figures_of(generator.generate(structure, num, seed))}
        return Quality(structure=structure.fields(), name=structure.name, role=role, num=num, metrics=metrics).model_dump(mode="json")

    measured = [structure for structure in structures if structure.environment.enumerable]
    return [Quality(**facts) for facts in shared(measured, entry, progress, f"measure {role}", expense)]


def export_generator(config: Config, folder: Path, out: Path, progress: Progress) -> Generator:
    """Write a generator as it ships: float16, without its training history, measured on its selection and on the test structures.

    Raises:
        GenflowError: a test structure was trained or selected on or is not covered, or a file cannot be written.
    """
    generator = Generator.from_pretrained(folder).rounded()
    card = generator.card
    selected = [Structure.build(card.env, fields, card.policy) for fields in card.selection_structures]
    tests = config.unseen_structures(generator.training_structures)
    for structure in tests:
        if structure in selected:
            raise GenflowError(f"test structure {structure.name} is also selected on; remove it from test_structures")
        generator.check(structure)
    if (out / MANIFEST).exists():
        raise GenflowError(f"{out} holds a run, perhaps the generator itself; choose another --out")
    num, seed = config.evaluation.num, config.seed
    quality = measure_quality(generator, selected, "selection", num, seed, progress)
    quality += measure_quality(generator, tests, "test", num, seed, progress)
    kept = {key: value for key, value in card.provenance.items() if key != "history"}
    described = EncoderCard.of(card.encoder.name, generator.encoder)
    generator.card = card.model_copy(update={"provenance": kept, "quality": quality, "encoder": described})
    world().first(lambda: generator.save_pretrained(out, half=True))
    return generator


def load_generators(config: Config, folder: Path | None, structures: Sequence[Structure]) -> list[Generator]:
    """The generator for each structure: that in `folder`, else the first that covers it of those that ship with the environment and
    that of the default run folder.

    Raises:
        GenflowError: there is none, or none covers a structure.
    """
    device = config.torch_device()
    places = [folder] if folder is not None else shipped(config.env)
    default = Path("runs") / config.env / "generator"
    if folder is None and (default / CARD).exists():
        places.append(default)
    if not places:
        raise GenflowError(
            f"no generator ships for {config.env!r} and {default} holds none; give --generator DIR, or train one with `genflow train-ldm`"
        )
    loaded = [Generator.from_pretrained(place, device) for place in places]
    return [_covering(loaded, structure) for structure in structures]


def _covering(generators: Sequence[Generator], structure: Structure) -> Generator:
    refusals = []
    for generator in generators:
        try:
            generator.check(structure)
        except GenflowError as error:
            refusals.append(str(error))
        else:
            return generator
    raise GenflowError("; ".join(dict.fromkeys(refusals)))


def generate(
    config: Config, generators: Sequence[Generator], structures: Sequence[Structure], out: Path, progress: Progress
) -> list[Population]:
    """Generate a population for each structure with its generator: in `out` itself for one structure, else in a folder each.

    Raises:
        GenflowError: `out` holds another run, or a generator does not cover its structure.
    """
    for generator, structure in zip(generators, structures, strict=True):
        generator.check(structure)
    options = config.generate
    overrides: dict[str, Any] = {
        k: v for k, v in (("sampler", options.sampler), ("steps", options.steps), ("guidance", options.guidance)) if v is not None
    }
    used = list(dict.fromkeys(generators))
    identity = {
        "structures": [s.to_json() for s in structures],
        "generate": _dump(options),
        "generators": [g.card.model_dump(mode="json", exclude={"provenance"}) for g in used],
        "latents": digest(*(t for g in used for t in (g.latent_mean, g.latent_std))),
    }
    folders = [out if len(structures) == 1 else out / structure.name for structure in structures]
    made: dict[int, Population] = {}

    def make(index: int) -> None:
        population = generators[index].generate(structures[index], options.num, config.seed, **overrides)
        world().first(lambda: save_population(population, folders[index]))
        made[index] = population

    with RunDirectory.open(out, "generate", identity, config.seed) as run:
        if not run.complete:
            for generator, structure in zip(generators, structures, strict=True):
                if warning := generator.caution(structure):
                    progress.warn(warning)
            if len(structures) < world().size:  # each is made by all workers together
                for index in range(len(structures)):
                    make(index)
            else:
                shared(range(len(structures)), make, progress, "generate", lambda index: expense(structures[index]))
        populations = [made.get(index) or load_population(folder) for index, folder in enumerate(folders)]
        if not run.complete:
            for p in populations:
                progress.note(f"generated: {p.structure.name}: {len(p)} policies in {p.provenance['seconds']:.3f} s")
        run.update(complete=True)
    return populations


def finetune_both(config: Config, population: Population, out: Path, progress: Progress) -> list[dict[str, Any]]:
    """Fine-tune a population, and the same budget from a random start; both are written under `out`.

    Returns:
        One entry each: ``{"name", "figures", "history"}``.

    Raises:
        GenflowError: `out` holds another run, or the training fails.
    """
    identity = {"finetune": _dump(config.finetune), "structure": population.structure.to_json(), "start": digest(population.weights)}
    with RunDirectory.open(out, "finetune", identity, config.seed) as run:
        if not run.complete:
            device, options = config.torch_device(), config.finetune

            def train_from(name: str) -> None:
                if not (out / name / FACTS).exists():
                    result = finetune(population, name, options, seed=config.seed, folder=out / name, progress=progress, device=device)
                    save_population(result, out / name)
                remove_checkpoints(out / name)

            shared(list(STARTS) if options.compare else ["finetuned"], train_from, progress, "finetune")
            run.update(complete=True)
        entries = []
        for path in find_populations(out):
            history = load_population(path).provenance["history"]
            entries.append({"name": path.name, "figures": {k: points[-1][1] for k, points in history.items()}, "history": history})
    return entries


def zoo_digest(zoo: Zoo) -> str:
    """A fingerprint of a zoo's structures and weights."""
    names = json.dumps([structure.to_json() for structure in zoo.structures], sort_keys=True)
    return hashlib.sha256((names + digest(*(p.weights for p in zoo.populations))).encode()).hexdigest()[:16]


def digest(*tensors: torch.Tensor) -> str:
    """A fingerprint of some tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def _seeded(seed: int, build: Callable[[], Any]) -> Any:
    """Build a module whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _dump(options: Any) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude=UPKEEP)


def _quality(population: Population) -> str:
    members = [m["metrics"] for m in population.provenance.get("members", []) if "metrics" in m]
    figures = [f"{name} {sum(m[name] for m in members) / len(members):.4g}" for name in primary_metrics() if members]
    return f", mean {', '.join(figures)}" if figures else ""
