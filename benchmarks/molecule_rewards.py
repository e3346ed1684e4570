"""Exact JS for rewards and vocabularies never seen: as generated, and after so many reward calls.

Vocabularies of ten blocks, N = 3, of known blocks and of the blocks that only tests have; rewards that no
recipe was trained or chosen on, three of GuacaMol's among them. Generated and untrained policies are
fine-tuned alike, by `FINETUNE`, which was chosen on the recipe's selection structures; the calls that
describe a vocabulary come on top. Writes OUT/rewards.json, and adds what is missing there.

    python benchmarks/molecule_rewards.py --out runs/rewards
"""

from __future__ import annotations

import itertools
import random
import statistics
from pathlib import Path
from typing import Any

import click
import torch
from genflow_molecule import build_recipe
from genflow_molecule.regression import CALLS
from genflow_molecule.vocabulary import shipped_vocabulary

import genflow
from genflow import Population, Structure
from genflow.measure import figures_of
from genflow.storage.files import read_json, write_json

HERE = Path(__file__).parent
#: of vocabularies and profiles, which no recipe uses
SEED = build_recipe.SEED + 3
GOALS = ("osimertinib", "fexofenadine", "ranolazine")
#: trajectory balance, half of it on molecules that were found before
FINETUNE = {"steps": 1000, "lr": 3e-3, "replay_ratio": 0.5, "replay_sampling": "uniform"}


def tasks(each: int) -> dict[str, Structure]:
    """So many vocabularies of known and of new blocks for every reward, by what they are."""
    known, _, new = build_recipe.split(len(shipped_vocabulary("default")))
    rng = random.Random(SEED)
    found = {}
    for kind, blocks in (("known", known), ("new", new)):
        hands = build_recipe.readable(rng, blocks)
        rewards = [
            *build_recipe.TESTED,
            *(f"profile,{build_recipe.profile(rng)}" for _ in range(2)),
            *(f"guacamol,goal={goal}" for goal in GOALS),
        ]
        for reward in rewards:
            for number, hand in enumerate(itertools.islice(hands, each)):
                text = build_recipe.text(hand, 3, reward=reward)
                found[f"{kind} {reward} {number}"] = Structure.parse("molecule", text)
    return found


def measured(structure: Structure, calls: int) -> dict[str, Any]:
    """The JS of uniform and generated policies, and of both starts after fine-tuning."""
    generated = genflow.generate("molecule", structure.fields(), num=2)
    untrained = Population.initialised(structure, 2, 0)
    uniform = Population(structure, torch.zeros_like(untrained.weights))
    js = {}
    described = len(structure.layout.reward_calls)  # which come on top here
    for name, start, before in (("generated", generated, described), ("random", untrained, 0)):
        trained = genflow.finetune(start, reward_calls=calls + before, **FINETUNE)
        asked = trained.provenance["budget"]["reward_calls"] - before
        js[name] = {"start": figures_of(start)["js"], "trained": figures_of(trained)["js"], "calls": asked}
    return {"structure": structure.fields(), "uniform": figures_of(uniform)["js"], "js": js}


def table(entries: dict[str, dict[str, Any]]) -> str:
    """Median and worst JS by kind of blocks and by reward."""
    lines = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, entry in entries.items():
        kind, reward = name.rsplit(" ", 1)[0].split(" ", 1)
        for group in (kind, f"{kind} {reward.split(',profile=')[0]}"):
            groups.setdefault(group, []).append(entry)
    for group, own in groups.items():
        figures = [f"uniform {statistics.median(each['uniform'] for each in own):.3f}"]
        for start, when in itertools.product(("generated", "random"), ("start", "trained")):
            values = [each["js"][start][when] for each in own]
            figures.append(f"{start} {when} {statistics.median(values):.3f} ({max(values):.3f})")
        lines.append(f"{group} ({len(own)}), median (worst): " + ", ".join(figures))
    return "\n".join(lines)


@click.command()
@click.option("--each", default=2, show_default=True, help="Vocabularies of each kind for every reward.")
@click.option("--calls", default=3200, show_default=True, help="The reward calls of fine-tuning.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(each: int, calls: int, out: Path) -> None:
    """Measure every task."""
    torch.set_num_threads(1)
    genflow.load_plugin(HERE / "guacamol.py")
    path = out / "rewards.json"
    known = {"described_by": CALLS, "calls": calls, "finetune": FINETUNE}
    found = read_json(path) if path.exists() else {**known, "tasks": {}}
    entries: dict[str, Any] = found.pop("tasks")
    if found != known:
        raise click.ClickException(f"{path} was measured with other calls or options; take another --out")
    for name, structure in tasks(each).items():
        if name not in entries:
            entries[name] = measured(structure, calls)
            write_json(path, {**known, "tasks": entries})
            click.echo(f"{name}: {entries[name]['js']}")
    click.echo(table(entries))


if __name__ == "__main__":
    main()
