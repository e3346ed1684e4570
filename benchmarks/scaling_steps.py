"""Data-parallel training steps: what they take on several workers, and what one of many workers takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from report import Result
from scaling_jobs import DIFFUSION, SHIPPED, TRAININGS, Bench, command, on, processes
from scaling_statistics import karp_flatt, line

from genflow import Zoo, load_config
from genflow.distributed.world import World
from genflow.progress import Progress
from genflow.stages.common import resolve_component
from genflow.storage.files import read_json
from genflow.training.autoencoder import AutoencoderTrainee
from genflow.training.diffusion import DiffusionTrainee
from genflow.training.loop import GraphTrainee, train

#: workers that a batch is dealt out to, in a process that takes the part of one of them
SPLITS = (1, 2, 4, 8, 16, 32)


def training(bench: Bench) -> Result:
    """Seconds a step of data-parallel training at 1 and 2 workers, and of one worker with 2 threads."""
    result = Result(
        "training",
        f"seconds a step of data-parallel training, {bench.steps} steps, "
        f"a zoo of {len(bench.structures)} structures",
    )
    sides = {"1 worker": (1, 1), "2 workers": (2, 1), "1 worker, 2 threads": (1, 2)}
    autoencoder = bench.work / "autoencoder-for-diffusion"
    command(*_words(bench, SHIPPED, autoencoder, steps=2))
    facts: dict[str, Any] = {}
    for name, (_, section, _) in TRAININGS.items():
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(bench.rounds):
            for side, (workers, threads) in sides.items():
                out = bench.work / f"{section}-{list(TRAININGS).index(name)}-{turn}-{workers}-{threads}"
                more = ["--autoencoder", autoencoder / "autoencoder"] if name == DIFFUSION else []
                command(*_words(bench, name, out, steps=bench.steps), *more, *on(workers), threads=threads)
                seconds[side].append(_spent(out, section) / bench.steps)
        result.add(name, "s a step", seconds)
        for side in list(sides)[1:]:
            result.compare(name, side, "1 worker", more=False)
        speedup = result.ratios[-2].values
        facts[name] = {"serial_fraction": [karp_flatt(value, 2) for value in speedup]}
        result.notes.append(
            f"serial fraction (Karp-Flatt), {name}: {median(facts[name]['serial_fraction']):.3f}"
        )
    result.facts = facts
    return result


def _words(bench: Bench, name: str, out: Path, steps: int) -> list[Any]:
    verb, section, config = TRAININGS[name]
    return [
        verb, *(["--config", config] if config else []), "--env", "hypergrid", *bench.named(),
        "-o", "selection_structures=[]", "-o", f"{section}.steps={steps}", "--zoo", bench.zoo, "--out", out,
    ]  # fmt: skip


def _spent(out: Path, section: str) -> float:
    if section == "autoencoder":
        return read_json(out / "autoencoder" / "autoencoder.json")["seconds"]
    return read_json(out / "generator" / "generator.json")["provenance"]["seconds"]


class OneOfMany(World):
    """A worker whose others are not there: it does its share, and what it would send is counted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.messages: list[int] = []

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count the bytes and leave the tensor as it is."""
        if self.size > 1:
            self.messages.append(tensor.numel() * tensor.element_size())
        return tensor


def one_of_many(kind: type[GraphTrainee]) -> type[GraphTrainee]:
    """A trainee class that takes its workers from an attribute `workers` instead of the process group."""
    return type(f"OneOfMany{kind.__name__}", (kind,), {"world": property(lambda self: self.workers)})


def trainees(bench: Bench) -> dict[str, Callable[[int], tuple[GraphTrainee, Any]]]:
    """For each training, by name, a function that makes trainee and schedule of the last of N workers."""
    populations = Zoo(bench.zoo).populations
    made = {}

    def prepared(name: str) -> tuple[Any, Any, Any]:
        _, section, file = TRAININGS[name]
        config = load_config(file, env="hypergrid", **{f"{section}.steps": bench.steps})
        torch.manual_seed(config.seed)
        encoder_class, encoder_options = resolve_component(config, "encoder")
        return config, encoder_class.for_zoo(encoder_options, populations), getattr(config, section)

    def autoencoder(name: str) -> tuple[GraphTrainee, Any]:
        _, encoder, options = prepared(name)
        return one_of_many(AutoencoderTrainee)(encoder, populations, options, seed=0, device="cpu"), options

    def diffusion(name: str) -> tuple[GraphTrainee, Any]:
        config, encoder, options = prepared(name)
        with torch.no_grad():
            latents = torch.cat([encoder.encode(p) for p in populations])
        conditions = torch.cat([p.structure.condition().expand(len(p), -1) for p in populations])
        denoiser_class, denoiser_options = resolve_component(config, "denoiser")
        denoiser = denoiser_class(
            denoiser_options, latent_size=latents.shape[1], condition_size=conditions.shape[1]
        )
        return one_of_many(DiffusionTrainee)(denoiser, latents, conditions, options, device="cpu"), options

    for name in TRAININGS:
        build = diffusion if name == DIFFUSION else autoencoder

        def make(workers: int, name: str = name, build: Callable = build) -> tuple[GraphTrainee, Any]:
            trainee, options = build(name)
            trainee.workers = OneOfMany(workers - 1, workers)
            return trainee, options

        made[name] = make
    return made


def share(bench: Bench) -> Result:
    """A worker's share of a step, alone on its core.

    What every worker does in full, what is dealt out, and the bytes that it sends.
    """
    result = Result(
        "share",
        f"seconds a step of one of several workers, alone on its core and without all-reduce, "
        f"{bench.steps} steps",
    )
    torch.set_num_threads(1)
    facts: dict[str, dict[str, Any]] = {}
    for name, make in trainees(bench).items():
        seconds: dict[int, list[float]] = {workers: [] for workers in SPLITS}
        messages: list[int] = []
        rows = 0
        for turn in range(-1, bench.rounds):  # the first turn makes what is made once
            for workers in SPLITS if turn >= 0 else SPLITS[:1]:
                trainee, options = make(workers)
                rows = options.batch_size
                folder = Path(tempfile.mkdtemp(dir=bench.work))
                trained = train(
                    trainee, options, folder=folder, seed=0, progress=Progress(quiet=True), label=name
                )
                if turn >= 0:
                    seconds[workers].append(trained.seconds / options.steps)
                if workers == 2:
                    messages = trainee.workers.messages
        result.add(name, "s a step", {f"one of {workers}": values for workers, values in seconds.items()})
        shares = [-(-rows // workers) / rows for workers in SPLITS]
        lines = [line(shares, [seconds[workers][turn] for workers in SPLITS]) for turn in range(bench.rounds)]
        fractions = [serial / (serial + parallel) for serial, parallel in lines]
        # the gradients of a step are one message; some trainings send another, small one
        facts[name] = {
            "rows": rows,
            "serial_seconds": median(serial for serial, _ in lines),
            "parallel_seconds": median(parallel for _, parallel in lines),
            "serial_fraction": fractions,
            "bytes": sum(messages) / bench.steps,
            "largest_message": max(messages),
            "messages": len(messages) / bench.steps,
            "speedup_at_most": 1 / median(fractions),
        }
        result.notes.append(
            f"{name}: serial fraction {median(fractions):.3f} "
            f"({min(fractions):.3f} to {max(fractions):.3f}), "
            f"{facts[name]['bytes']:,.0f} bytes in {facts[name]['messages']:.2f} messages a step"
        )
    reduced = all_reduce([int(entry["largest_message"]) for entry in facts.values()], bench.rounds)
    for (name, entry), values in zip(facts.items(), reduced, strict=True):
        entry["all_reduce_seconds"] = median(values)
        result.add(
            f"{name}: all-reduce of {entry['largest_message']:,} bytes, 2 gloo workers",
            "ms",
            {"all-reduce": [1e3 * v for v in values]},
        )
    result.facts = {"trainings": facts}
    return result


def all_reduce(sizes: Sequence[int], rounds: int) -> list[list[float]]:
    """Seconds of an all-reduce on two gloo workers, by size in bytes and round; each is a median of 20."""
    with tempfile.TemporaryDirectory() as folder:
        return processes(_reduce, 2, f"file://{folder}/meet", list(sizes), rounds)[0]


def _reduce(rank: int, count: int, meet: str, sizes: list[int], rounds: int) -> list[list[float]]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=count)
    found: list[list[float]] = [[] for _ in sizes]
    for turn in range(-1, rounds):  # the first one warms up
        for place, size in enumerate(sizes):
            tensor = torch.ones(size // 4)
            spent = []
            for _ in range(20):
                dist.barrier()
                began = time.perf_counter()
                dist.all_reduce(tensor)
                spent.append(time.perf_counter() - began)
            if turn >= 0:
                found[place].append(median(spent))
    dist.destroy_process_group()
    return found
