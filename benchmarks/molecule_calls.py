"""Molecules under a budget of reward calls: what is found of five rewards that no generator was trained on.

All contenders build the same trees of blocks and ask through one counter of different molecules:

    generated  policies of a molecule generator, then genflow's trajectory balance
    random     untrained policies, then the same
    torchgfn   torchgfn's own sampler and trajectory balance on the same environment
    genetic    a genetic algorithm on the trees (block_genetic.py)

Modes score at least what one random molecule in a thousand reaches, and are less similar than .7 to better
ones; top-100 and its diversity are of all molecules that a run asked for. Stopped and given again, the
command goes on with the runs that are missing.

    python benchmarks/molecule_calls.py --out runs/calls
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
import torch
from block_genetic import GeneticOptions, evolve
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.samplers import Sampler
from guided import first_trees
from reward_budget import Ledger, figures, ledger

import genflow
from genflow import GenflowError, Population, Structure, load_config
from genflow.config import parse_override
from genflow.progress import Progress
from genflow.schema import validate
from genflow.stages.generate import load_generators
from genflow.storage.files import read_json, write_json
from genflow.training.finetune import FinetuneOptions, finetune

HERE = Path(__file__).parent
#: what is paid, beside the task
REWARDS = {
    "docking": {"reward": "docking"},
    "profile": {
        "reward": "profile",
        "profile": "mw:300..400; logp:1..3; tpsa:60..90; rotb:<=5; qed:>0.6; !alerts:unstable",
    },
    "osimertinib": {"reward": "guacamol", "goal": "osimertinib"},
    "fexofenadine": {"reward": "guacamol", "goal": "fexofenadine"},
    "ranolazine": {"reward": "guacamol", "goal": "ranolazine"},
}
#: others, on which settings may be chosen
OTHER = {"celecoxib": {"reward": "guacamol", "goal": "celecoxib"}, "qed_sa": {"reward": "qed_sa"}}
#: random molecules by which modes are told, and the share of them that counts
RANDOM, RARE = 10_000, 0.001
#: seed of the random molecules, which no run has
RANDOM_SEED = 10**6
#: no training of so few calls has more steps
MAX_STEPS = 10_000
#: of all that train by trajectory balance, chosen on `OTHER`
BETA, BATCH_SIZE = 32, 16

Contender = Callable[[Structure, Ledger, int, FinetuneOptions, Path], dict[str, Any]]


def generated_start(structure: Structure, seed: int) -> Population:
    """One policy of the generator that ships; what describing the vocabulary asks is on the account."""
    (generator,) = load_generators(load_config(None, env="molecule"), None, [structure])
    return generator.generate(structure, 1, seed)


def _train(start: Population, calls: Ledger, seed: int, options: FinetuneOptions, folder: Path) -> dict:
    # which ends with the ledger's last call, as it has no calls of its own
    trained = finetune(start, "finetuned", options, seed=seed, folder=folder, progress=Progress())
    return {"steps": trained.provenance["budget"]["steps"]}


def run_generated(structure, calls, seed, options, folder):
    """Train a generated policy."""
    start = generated_start(structure, seed)
    described = len(calls)
    return {"described": described, **_train(start, calls, seed, options, folder)}


def run_random(structure, calls, seed, options, folder):
    """Train an untrained policy."""
    return _train(Population.initialised(structure, 1, seed), calls, seed, options, folder)


def run_torchgfn(structure, calls, seed, options, folder):
    """Train with torchgfn alone, at the rates of its examples."""
    torch.manual_seed(seed)
    env, preprocessor = structure.environment.make()
    module = structure.module()
    forward = DiscretePolicyEstimator(module, n_actions=env.n_actions, preprocessor=preprocessor)
    backward = DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=preprocessor)
    gflownet, sampler = TBGFlowNet(forward, backward), Sampler(forward)
    groups = [
        {"params": module.parameters(), "lr": 1e-3},
        {"params": [gflownet.logZ], "lr": 1e-1},
    ]
    optimizer = torch.optim.Adam(groups)
    steps = 0
    while calls.left > 0 and steps < options.steps:
        trajectories = sampler.sample_trajectories(
            env, n=options.batch_size, save_logprobs=False, epsilon=options.epsilon
        )
        loss = gflownet.loss_from_trajectories(env, trajectories, recalculate_all_logprobs=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return {"steps": steps}


def run_genetic(structure, calls, seed, options, folder):
    """Evolve trees that the untrained policy begins with."""
    start = Population.initialised(structure, 1, seed)
    generations = evolve(structure, calls, GeneticOptions(), lambda n: first_trees(start, n, seed), seed)
    return {"generations": sum(1 for _ in generations)}


CONTENDERS: dict[str, Contender] = {
    "generated": run_generated,
    "random": run_random,
    "torchgfn": run_torchgfn,
    "genetic": run_genetic,
}


def modes_from(structure: Structure) -> float:
    """The score that one random molecule in a thousand reaches; asked off every run's account."""
    final = Population.initialised(structure, 1, RANDOM_SEED).rollouts(RANDOM, RANDOM_SEED).final[0]
    return float(structure.environment.catalogue.scores(final).quantile(1 - RARE))


def run(
    name: str,
    fields: dict[str, Any],
    limit: int,
    seed: int,
    options: FinetuneOptions,
    folder: Path,
    mode: float,
) -> dict[str, Any]:
    """One run of a contender, with its figures.

    In a process of its own: what another run described would cost nothing here.
    """
    torch.set_num_threads(1)
    genflow.load_plugin(HERE / "guacamol.py")
    structure = Structure.build("molecule", fields)
    began = time.process_time()
    with ledger(limit) as calls:
        facts = CONTENDERS[name](structure, calls, seed, options, folder)
        asked = calls.within()
    seconds = time.process_time() - began
    return {
        "contender": name,
        "seed": seed,
        "limit": limit,
        "seconds": round(seconds, 1),
        **facts,
        **figures(asked, mode),
    }


def kept(path: Path, *job: Any) -> None:
    """Write a run's figures as soon as it has ended."""
    write_json(path, run(*job))


def finished(folder: Path) -> list[dict[str, Any]]:
    """The runs of a reward that are done."""
    runs = [read_json(path) for path in folder.glob("*-*-*.json")]
    order = list(CONTENDERS)
    return sorted(runs, key=lambda run: (run["limit"], order.index(run["contender"]), run["seed"]))


def table(results: dict[str, Any]) -> str:
    """Mean and standard deviation over the seeds, a line for each reward, budget and contender."""
    lines = []
    for reward in results["rewards"]:
        lines.append(f"{reward['name']}: modes score at least {reward['modes_from']:.3f}")
        for limit in sorted({run["limit"] for run in reward["runs"]}):
            for name in CONTENDERS:
                runs = [r for r in reward["runs"] if (r["limit"], r["contender"]) == (limit, name)]
                if not runs:
                    continue
                parts = []
                for figure, digits in (("modes", 0), ("top_100", 3), ("top_10", 3), ("diversity", 3)):
                    values = [run[figure] for run in runs]
                    mean, spread = statistics.mean(values), statistics.pstdev(values)
                    parts.append(f"{figure} {mean:.{digits}f} ({spread:.{digits}f})")
                seconds = statistics.mean(run["seconds"] for run in runs)
                lines.append(f"  {limit:>6,} {name:>9}  {'  '.join(parts)}  {seconds:.0f} s")
    return "\n".join(lines)


@click.command()
@click.option("--structure", default="medium", show_default=True, metavar="NAME|key=value,...")
@click.option("--beta", default=BETA, show_default=True, help="Of what trains by trajectory balance.")
@click.option(
    "--reward", "rewards", multiple=True, type=click.Choice([*REWARDS, *OTHER]), help="Default: five."
)
@click.option(
    "--contender", "names", multiple=True, type=click.Choice(list(CONTENDERS)), help="Default: all."
)
@click.option("--calls", "limits", multiple=True, type=int, help="Default: 2000 and 10000.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Runs at the same time.")
@click.option("-o", "overrides", multiple=True, metavar="finetune.KEY=VALUE", help="Of both genflow's.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--results", type=click.Path(path_type=Path), help="Default: OUT/molecule_calls.json.")
def main(structure, beta, rewards, names, limits, seeds, workers, overrides, out, results):
    """Run every contender on every reward; finished runs are kept."""
    torch.set_num_threads(1)
    genflow.load_plugin(HERE / "guacamol.py")
    given = dict(parse_override(text) for text in overrides)
    given = {key.removeprefix("finetune."): value for key, value in given.items()}
    defaults = {"steps": MAX_STEPS, "batch_size": BATCH_SIZE}
    if "reward_calls" in given:
        raise GenflowError("finetune.reward_calls: the calls are those of --calls")
    options = validate(FinetuneOptions, {**defaults, **given}, "the options")
    task = {**Structure.parse("molecule", structure).fields(), "beta": beta}
    paid = {
        reward: Structure.build("molecule", {**task, **{**REWARDS, **OTHER}[reward]})
        for reward in rewards or REWARDS
    }
    modes = {}
    for reward, structure_ in paid.items():
        path = out / reward / "modes.json"
        if not path.exists():
            write_json(path, {"modes_from": modes_from(structure_)})
        modes[reward] = read_json(path)["modes_from"]
    # a seed of everything before the next, so that what was stopped says something of each
    jobs = itertools.product(limits or (2000, 10000), range(seeds), paid, names or CONTENDERS)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=fresh, max_tasks_per_child=1) as pool:
        running = []
        for limit, seed, reward, name in jobs:
            path = out / reward / f"{name}-{limit}-{seed}.json"
            if not path.exists():
                scratch = out / "training" / f"{os.getpid()}-{reward}-{path.stem}"
                job = (name, paid[reward].fields(), limit, seed, options, scratch, modes[reward])
                running.append(pool.submit(kept, path, *job))
        for done in as_completed(running):
            done.result()
    report = {
        "command": "python benchmarks/molecule_calls.py --out runs/calls"
        + "".join(f" -o {text}" for text in overrides),
        "structure": structure,
        "beta": beta,
        "options": options.model_dump(mode="json", exclude_defaults=True),
        "rewards": [
            {"name": reward, "modes_from": modes[reward], "runs": finished(out / reward)} for reward in paid
        ],
    }
    click.echo(table(report))
    write_json(results or out / "molecule_calls.json", report)


if __name__ == "__main__":
    main()
