"""How the work scales with workers on this machine.

The parts are the collection of a zoo, steps of data-parallel training, their messages, the store, and a
restart. Whoever is compared takes turns in one run, and ratios are told with their spread. OUT/scaling.json
gets the parts that were measured and keeps the others. OUT/zoo_tasks.json gets the seconds of each structure
of the zoo, for `simulate.py`. Workers beyond the cores of the machine are measured too, but say nothing about
more cores. Nothing here can fail for being slow.

    python benchmarks/scaling.py --out benchmarks/results --part zoo --part store --rounds 3
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click
from fleet import bound, queued
from report import Result, elsewhere
from scaling_jobs import STRUCTURES, Bench
from scaling_statistics import karp_flatt, rank_correlation
from scaling_steps import share, training
from scaling_store import restart, store
from speed import QUIET, machine

from genflow import Structure
from genflow.distributed.launcher import cores
from genflow.stages.common import estimated_cost
from genflow.storage.files import read_json, write_json
from genflow.storage.populations import FACTS
from genflow.storage.runs import MANIFEST


def collecting(folder: Path) -> float:
    """Seconds from when a run took its lock, right before its first item, to when it was marked complete."""
    return (folder / MANIFEST).stat().st_mtime - (folder / ".lock").stat().st_mtime


def tasks(folder: Path) -> list[dict[str, Any]]:
    """The structures of a zoo that one worker collected, by name: what each cost, and what was expected.

    `seconds` are those of the training, `occupied` all from the end of the one before, with starting
    policies, metrics and writing.
    """
    entries, before = [], (folder / ".lock").stat().st_mtime
    for path in sorted(folder.glob(f"*/{FACTS}"), key=lambda path: path.stat().st_mtime):
        facts = read_json(path)
        structure = Structure.parse("hypergrid", path.parent.name)
        ended = path.stat().st_mtime
        entries.append(
            {
                "structure": structure.name,
                "parameters": structure.layout.size,
                "inputs": len(structure.layout.units["input"]),
                "states": structure.solution.n_states,
                "expense": estimated_cost(structure),
                "seconds": facts["provenance"]["seconds"],
                "occupied": ended - before,
            }
        )
        before = ended
    return sorted(entries, key=lambda entry: entry["structure"])


def zoo(bench: Bench) -> Result:
    """Zoo collection at 1, 2 and 4 workers."""
    result = Result(
        "zoo",
        f"a zoo of {len(bench.structures)} uneven structures, {bench.zoo_steps} steps each, "
        "one thread a worker",
    )
    sizes = {f"{n} worker{'s' * (n > 1)}": n for n in (1, 2, 4)}
    seconds: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in sizes} for kind in ("collecting", "whole command")
    }
    passes: list[list[dict[str, Any]]] = []
    for turn in range(bench.rounds):
        for name, workers in sizes.items():
            folder = bench.work / f"zoo-{turn}-{workers}"
            seconds["whole command"][name].append(bench.collect(folder.name, workers))
            seconds["collecting"][name].append(collecting(folder))
            if workers == 1:
                passes.append(tasks(folder))
    one, *others = sizes
    for kind, of_sizes in seconds.items():
        result.add(kind, "s", of_sizes)
        for name in others:
            result.compare(kind, name, one, more=False)
    outside = {
        name: [
            whole - inside
            for whole, inside in zip(seconds["whole command"][name], seconds["collecting"][name], strict=True)
        ]
        for name in sizes
    }
    result.add("outside of collecting", "s", outside)
    serial = {
        f"{kind}, {ratio.ours}": [karp_flatt(value, sizes[ratio.ours]) for value in ratio.values]
        for kind in seconds
        for ratio in result.ratios
        if ratio.setting == kind and sizes[ratio.ours] <= cores()
    }
    merged = [
        {**entry, **{key: [one_pass[i][key] for one_pass in passes] for key in ("seconds", "occupied")}}
        for i, entry in enumerate(passes[0])
    ]
    occupied = [median(entry["occupied"]) for entry in merged]
    costs = [entry["expense"] for entry in merged]
    correlation = rank_correlation(costs, occupied)
    bench.zoo_tasks = {"rank_correlation": correlation, "tasks": merged}
    schedule = {str(n): sum(occupied) / queued(costs, occupied, n).makespan for n in (2, 4)}
    result.facts = {
        "serial_fraction": serial,
        "rank_correlation": correlation,
        "speedup_by_schedule": schedule,
        "speedup_possible": {str(n): sum(occupied) / bound(occupied, n) for n in (2, 4)},
    }
    result.notes = [
        f"serial fraction (Karp-Flatt), {name}: {median(values):.3f}" for name, values in serial.items()
    ]
    result.notes += [
        f"rank correlation of the estimate with the seconds: {correlation:.3f}",
        *(
            f"{n} workers of these pieces could be {value:.2f} times as fast if none slowed another down"
            for n, value in schedule.items()
        ),
    ]
    if cores() < max(sizes.values()):
        result.notes.append(f"this machine has {cores()} cores; more workers than that share them")
    return result


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
        """Count the bytes."""
        if self.size > 1:
            self.messages.append(tensor.numel() * tensor.element_size())
        return tensor


def one_of_many(kind: type[GraphTrainee]) -> type[GraphTrainee]:
    """The trainee, told by its attribute `workers` which workers there are."""
    return type(f"OneOfMany{kind.__name__}", (kind,), {"world": property(lambda self: self.workers)})


def trainees(bench: Bench) -> dict[str, Callable[[int], tuple[GraphTrainee, Any]]]:
    """Name -> what makes the trainee and its schedule, for the last of so many workers."""
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
    """Seconds of an all-reduce of so many bytes on two gloo workers, a median each round."""
    with tempfile.TemporaryDirectory() as folder:
        return _processes(_reduce, 2, f"file://{folder}/meet", list(sizes), rounds)[0]


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


def store(bench: Bench) -> Result:
    """Calls of a TCPStore a second by 1, 2 and 8 processes that do nothing else.

    Its server has the same cores.
    """
    result = Result("store", "calls of a TCPStore a second")
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    sides = {n: f"{n} client{'s' * (n > 1)}" for n in CLIENTS}
    rates: dict[str, dict[str, list[float]]] = {
        kind: {side: [] for side in sides.values()} for kind in ("add", "check", "mixed")
    }
    for turn in range(bench.rounds):
        for n, side in sides.items():
            counts = _processes(_call, n, server.port, list(rates), f"{n}-{turn}")
            for place, of_sizes in enumerate(rates.values()):
                of_sizes[side].append(sum(of_client[place] for of_client in counts) / STORE_SECONDS)
    for kind, of_sizes in rates.items():
        result.add(kind, "calls/s", of_sizes)
    # "mixed" is what a waiting worker does: check whether all is done, and add 0 to learn how much is
    result.facts = {"mixed_calls_a_second": max(median(values) for values in rates["mixed"].values())}
    return result


def _call(rank: int, count: int, port: int, kinds: list[str], name: str) -> list[int]:
    client = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    client.set(f"{name}/there", "")
    calls = {
        "add": [lambda: client.add(f"{name}/sum", 1)],
        "check": [lambda: client.check([f"{name}/there"])],
        "mixed": [lambda: client.check([f"{name}/over"]), lambda: client.add(f"{name}/sum", 0)],
    }
    counts = []
    for kind in kinds:
        client.add(f"{name}/{kind}", 1)
        while client.add(f"{name}/{kind}", 0) < count:
            time.sleep(0.01)
        done, until = 0, time.perf_counter() + STORE_SECONDS
        while time.perf_counter() < until:
            for call in calls[kind]:
                call()
            done += len(calls[kind])
        counts.append(done)
    return counts


def _processes(work: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """What work(rank, count, ...) returns in so many processes of their own."""
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        return pool.starmap(work, [(rank, count, *arguments) for rank in range(count)], chunksize=1)


def restart(bench: Bench) -> Result:
    """Seconds from the death of one of two workers until both are at work again."""
    result = Result(
        "restart",
        "seconds until a zoo goes on after one of its 2 workers was killed, and until it begins at all",
    )
    seconds: dict[str, list[float]] = {"start": [], "restart": []}
    for turn in range(bench.rounds):
        out = bench.work / f"restart-{turn}"
        options = ["--env", "hypergrid", *bench.named(), "-o", "zoo.steps=5000", "--out", out, *on(2)]
        began = time.perf_counter()
        with stopped(start("train-zoo", *options)) as process:
            joined = _await(process, out, 0)
            seconds["start"].append(time.perf_counter() - began)
            time.sleep(2)
            began = time.perf_counter()
            os.kill(int(joined[1]), signal.SIGKILL)
            _await(process, out, 1)
            seconds["restart"].append(time.perf_counter() - began)
    result.add("2 workers", "s", seconds)
    return result


def _await(process: subprocess.Popen, out: Path, attempt: int) -> re.Match:
    """Wait until the second worker's log tells of an attempt."""
    until = time.perf_counter() + PATIENCE
    while time.perf_counter() < until and process.poll() is None:
        log = out / LOGS / "rank-1.log"
        if log.exists() and (found := re.search(rf"process (\d+), restart {attempt}", log.read_text())):
            return found
        time.sleep(0.02)
    raise RuntimeError(f"attempt {attempt} of the workers never began")


@contextmanager
def stopped(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Stop a command at the end."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


PARTS = {part.__name__: part for part in (zoo, training, share, store, restart)}


def merged(path: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a file of results, with new ones in the place of old ones."""
    known = json.loads(path.read_text())["parts"] if path.exists() else {}
    return {name: {**known, **parts}[name] for name in PARTS if name in {**known, **parts}}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Default: all.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each side.")
@click.option(
    "--zoo-steps", default=120, show_default=True, help="Training steps of each structure of the zoo."
)
@click.option("--steps", default=60, show_default=True, help="Steps of each autoencoder and diffusion model.")
@click.option("--structures", "count", default=len(STRUCTURES), show_default=True, help="The first so many.")
def main(out, parts, rounds, zoo_steps, steps, count):
    """Measure, print and write."""
    options = {"rounds": rounds, "zoo_steps": zoo_steps, "steps": steps, "structures": count}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), rounds, zoo_steps, steps, STRUCTURES[:count])
        for name in parts or PARTS:
            began, others = time.perf_counter(), elsewhere()
            result = PARTS[name](bench)
            seconds = time.perf_counter() - began
            busy = max(0.0, (elsewhere() - others) / seconds)
            if busy > QUIET:
                result.notes.append(
                    f"WARNING: other processes kept {busy:.2f} cores busy meanwhile; "
                    "measure again when they are done"
                )
            click.echo(result.text())
            took = {"seconds": round(seconds, 1), "cores_busy_elsewhere": round(busy, 3)}
            entry = {"machine": machine(), "options": options, **took, **result.to_json()}
            write_json(out / "scaling.json", {"parts": merged(out / "scaling.json", {name: entry})})
            if bench.zoo_tasks and name == "zoo":
                write_json(
                    out / "zoo_tasks.json", {"machine": machine(), "options": options, **bench.zoo_tasks}
                )


if __name__ == "__main__":
    main()
