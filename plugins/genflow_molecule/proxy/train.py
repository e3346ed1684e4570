"""Trains the proxy on docked molecules, and says how far off it is.

``python -m genflow_molecule.proxy.train``

Molecules are split by their Bemis-Murcko scaffold, so that no scaffold is in two parts: five sevenths to
learn from, one to choose the variant and when to stop by (then it is learnt from, too), and one for the
figures alone. The same is done five times more, with a fifth for the figures each time, so that every
molecule is among these once: few molecules make figures that chance moves, and these it moves less.

Shapes: B molecules, F features, K members.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from torch import Tensor

from genflow import GenflowError, Progress, read_json, write_json

from .dock_data import FOLDER, read_data
from .network import BITS, N_FEATURES, Proxy, features, save

Parts = tuple[list[int], list[int], list[int]]
#: of the figures over all molecules
FOLDS = 5
#: tried on the selection part; `share` of the molecules that must have a bit of the fingerprint for it to be
#: looked at
VARIANTS: tuple[dict[str, Any], ...] = (
    {"share": 1.0, "hidden": 64, "dropout": 0.0, "decay": 1e-4},
    {"share": 1.0, "hidden": 32, "dropout": 0.2, "decay": 1e-1},
    {"share": 0.1, "hidden": 32, "dropout": 0.2, "decay": 1e-1},
    {"share": 0.03, "hidden": 32, "dropout": 0.4, "decay": 1e-1},
)
#: members of the ensemble that ships, and of each variant that is tried
MEMBERS = 8
EPOCHS, PATIENCE, BATCH, RATE = 200, 30, 64, 5e-4


def folds(smiles: Sequence[str], seed: int, number: int) -> list[list[int]]:
    """So many parts of about equal size; a scaffold is in one of them only."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, each in enumerate(smiles):
        groups[MurckoScaffoldSmiles(each)].append(place)
    order = [groups[scaffold] for scaffold in sorted(groups)]
    random.Random(seed).shuffle(order)
    parts: list[list[int]] = [[] for _ in range(number)]
    for group in sorted(order, key=len, reverse=True):
        min(parts, key=len).extend(group)
    return parts


def split(smiles: Sequence[str], seed: int) -> Parts:
    """The molecules to learn from, to choose by and to measure on: five, one and one of seven folds."""
    *learn, choose, measure = folds(smiles, seed, 7)
    return sorted(chain.from_iterable(learn)), choose, measure


def figures(predicted: Tensor, measured: Tensor) -> dict[str, float]:
    """MAE and RMSE, kcal/mol, and the correlations of Pearson and Spearman, NaN of a constant."""
    error = predicted - measured
    return {
        "mae": float(error.abs().mean()),
        "rmse": float(error.square().mean().sqrt()),
        "pearson": correlation(predicted, measured),
        "spearman": correlation(ranks(predicted), ranks(measured)),
    }


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two rows of numbers."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def ranks(values: Tensor) -> Tensor:
    """The ranks of values (B,), from 1 on; equal values share their mean rank."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]


def linear(inputs: Tensor, affinities: Tensor, others: Tensor) -> Tensor:
    """Least squares with an intercept: (B, F), (B,), (C, F) -> (C,)."""
    ones = torch.ones(1, dtype=torch.float64)
    design = torch.cat([inputs.double(), ones.expand(len(inputs), 1)], dim=1)
    weights = torch.linalg.lstsq(design, affinities.double()[:, None], driver="gelsd").solution
    return (torch.cat([others.double(), ones.expand(len(others), 1)], dim=1) @ weights)[:, 0].float()


def _columns(rows: Tensor, variant: dict[str, Any]) -> Tensor:
    """The features that a variant looks at, (B, F) -> (I,): not what is the same for all molecules."""
    seen = (rows != 0).float().mean(0) >= variant["share"]
    seen[:BITS] &= variant["share"] < 1
    seen[BITS:] = True
    return (seen & (rows.std(0) > 0)).nonzero()[:, 0]


def _error(proxy: Proxy, rows: Tensor, affinities: Tensor) -> float:
    """The root mean square error of a proxy, kcal/mol."""
    return float((proxy.predict(rows) - affinities).square().mean().sqrt())


def fit(
    rows: Tensor, affinities: Tensor, learn: list[int], variant: dict[str, Any], seed: int
) -> Iterator[Proxy]:
    """The linear rule alone, then the same proxy after each epoch, ready to predict; the caller stops."""
    torch.default_generator.manual_seed(seed)
    target = affinities[learn]
    columns = _columns(rows[learn], variant)
    proxy = Proxy(MEMBERS, variant["hidden"], len(columns), variant["dropout"])
    own = rows[learn][:, columns]
    proxy.columns.copy_(columns)
    proxy.mean.copy_(own.mean(0))
    proxy.scale.copy_(own.std(0))
    proxy.affinity.copy_(torch.stack([target.mean(), target.std(), target.min(), target.max()]))
    inputs, wanted = proxy.standardise(rows[learn]), (target - target.mean()) / target.std()
    described = columns >= BITS
    proxy.rule[described] = torch.linalg.lstsq(
        inputs[:, described], wanted[:, None], driver="gelsd"
    ).solution[:, 0]
    optimiser = torch.optim.AdamW(proxy.parameters(), lr=RATE, weight_decay=variant["decay"])
    yield proxy.eval()
    while True:
        proxy.train()
        order = torch.stack([torch.randperm(len(learn)) for _ in range(MEMBERS)])
        for start in range(0, len(learn), BATCH):
            batch = order[:, start : start + BATCH]
            loss = (proxy(inputs[batch]) - wanted[batch]).square().mean(1).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield proxy.eval()


def epochs_of(
    rows: Tensor, affinities: Tensor, parts: Parts, variant: dict[str, Any], seed: int
) -> tuple[int, float]:
    """After how many epochs a variant's RMSE on the selection part, kcal/mol, is least, and that."""
    learn, choose, _ = parts
    best, since = (0, math.inf), 0
    for epoch, proxy in enumerate(islice(fit(rows, affinities, learn, variant, seed), EPOCHS + 1)):
        error = float((proxy.predict(rows[choose]) - affinities[choose]).square().mean().sqrt())
        best, since = ((epoch, error), 0) if error < best[1] else (best, since + 1)
        if since >= PATIENCE:
            break
    return best


def choose_variant(
    rows: Tensor, affinities: Tensor, parts: Parts, seed: int
) -> tuple[Proxy, list[dict[str, Any]]]:
    """The best proxy, and every variant with its RMSE on the selection part.

    The best variant there is trained again, on it as well.
    """
    tried = []
    for variant in VARIANTS:
        epochs, error = epochs_of(rows, affinities, parts, variant, seed)
        tried.append({**variant, "epochs": epochs, "rmse": error})
    best = min(tried, key=lambda each: each["rmse"])
    learn, choose, _ = parts
    return next(islice(fit(rows, affinities, [*learn, *choose], best, seed), best["epochs"], None)), tried


def predictions(proxy: Proxy, rows: Tensor, affinities: Tensor, parts: Parts) -> dict[str, Tensor]:
    """Affinities of the last part by the proxy, and by simpler rules that learn from the same."""
    learn, choose, measure = parts
    known = [*learn, *choose]
    own, heavy, described = affinities[known], slice(BITS, BITS + 1), slice(BITS, N_FEATURES)
    return {
        "proxy": proxy.predict(rows[measure]),
        "mean": own.mean().expand(len(measure)),
        "heavy atoms, linear": linear(rows[known][:, heavy], own, rows[measure][:, heavy]),
        "descriptors, linear": linear(rows[known][:, described], own, rows[measure][:, described]),
    }


def train(data: Path, out: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Choose a variant, write the best proxy and a card with its figures on new molecules; returns the card.

    Raises:
        GenflowError: the data cannot be read, or is too little to split.
    """
    docked = [each for each in read_data(data) if each.affinity is not None]
    smiles = [Chem.CanonSmiles(each.smiles) for each in docked]
    if len(set(smiles)) < len(smiles):
        raise GenflowError(f"{data} holds a molecule twice")
    parts = split(smiles, seed)
    if min(map(len, parts)) < 10:
        raise GenflowError(f"{data} holds {len(docked)} docked molecules, too few to learn from; dock more")
    rows = features([Chem.MolFromSmiles(each) for each in smiles])
    affinities = torch.tensor([each.affinity for each in docked])
    pooled: dict[str, list[Tensor]] = defaultdict(list)
    order: list[int] = []
    with progress.bar("proxy", FOLDS + 1) as bar:
        proxy, tried = choose_variant(rows, affinities, parts, seed)
        bar.advance(rmse=min(each["rmse"] for each in tried))
        outer = folds(smiles, seed + 1, FOLDS)
        for number, measure in enumerate(outer):
            choose = outer[(number + 1) % FOLDS]
            learn = sorted(set(range(len(smiles))) - {*measure, *choose})
            other, figures_there = choose_variant(rows, affinities, (learn, choose, measure), seed)
            for name, values in predictions(other, rows, affinities, (learn, choose, measure)).items():
                pooled[name].append(values)
            order += measure
            bar.advance(rmse=min(each["rmse"] for each in figures_there))
    facts = data.with_suffix(".json")
    card = {
        "format": "genflow-docking-proxy-card-1",
        "data": {**(read_json(facts) if facts.exists() else {}), "docked": len(docked)},
        "split": {
            "by": "Bemis-Murcko scaffold",
            **dict(zip(("learn", "choose", "measure"), map(len, parts), strict=True)),
        },
        "seed": seed,
        "variants": tried,
        "chosen": min(tried, key=lambda each: each["rmse"]),
        "members": MEMBERS,
        "test": {
            name: figures(values, affinities[parts[2]])
            for name, values in predictions(proxy, rows, affinities, parts).items()
        },
        "folds": {name: figures(torch.cat(values), affinities[order]) for name, values in pooled.items()},
    }
    save(proxy, out)
    write_json(out.with_suffix(".card.json"), card)
    return card


def main() -> None:
    """Write the weights and the card."""
    parser = argparse.ArgumentParser(description="Train the proxy on docked molecules.")
    parser.add_argument(
        "--data",
        type=Path,
        default=FOLDER / "drd2.csv",
        metavar="FILE.csv",
        help="default: the data that ship",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split and of training (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=FOLDER / "drd2.safetensors",
        metavar="FILE.safetensors",
        help="default: what ships",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order
    try:
        card = train(arguments.data, arguments.out, arguments.seed, Progress())
    except GenflowError as error:
        parser.exit(2, f"{error}\n")
    for part in ("test", "folds"):
        for name, values in card[part].items():
            print(f"{part}: {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))


if __name__ == "__main__":
    main()
