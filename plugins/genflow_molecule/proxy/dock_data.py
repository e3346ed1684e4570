"""Docks random molecules of the environment, for a proxy to learn from.

``python -m genflow_molecule.proxy.dock_data``

Stopped and given again it goes on. Needs the extra ``genflownet[docking]``. Blocks are joined at random, two
to six of them in turn, so that the first molecules are like the last; those of more than 45 heavy atoms are
drawn again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem

from genflow import GenflowError, Progress, Structure, read_json, write_bytes, write_json

from ..docking import Docked, Docker, target
from ..transitions import MoleculeTransitions

SIZES = range(2, 7)
MAX_HEAVY = 45
#: molecules that are docked between two writes
CHUNK = 10
FOLDER = Path(__file__).parent


def random_molecules(number: int, seed: int, structure: str = "full") -> Iterator[str]:
    """Different molecules of a structure of the environment, the same ones for the same seed."""
    transitions = Structure.parse("molecule", structure).transitions()
    assert isinstance(transitions, MoleculeTransitions)
    rng, seen = torch.Generator().manual_seed(seed), {""}
    while len(seen) <= number:
        size = SIZES[(len(seen) - 1) % len(SIZES)]
        smiles = _draw(transitions, size, rng)
        if smiles not in seen and Chem.MolFromSmiles(smiles).GetNumHeavyAtoms() <= MAX_HEAVY:
            seen.add(smiles)
            yield smiles


def _draw(transitions: MoleculeTransitions, size: int, rng: torch.Generator) -> str:
    """A molecule of so many blocks; empty if no further block fits before that."""
    states = transitions.initial_state[None]
    for _ in range(size):
        allowed = transitions.forward_masks(states)[:, :-1].double()
        if not allowed.any():
            return ""
        states = transitions.step(states, torch.multinomial(allowed, 1, generator=rng)[:, 0])
    return transitions.catalogue.smiles(states)[0]


def read_data(path: Path) -> list[Docked]:
    """Molecules and affinities from a CSV file; no affinity: it could not be docked.

    Raises:
        GenflowError: the file cannot be read or is malformed.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise GenflowError(f"cannot read {path}: {error}") from None
    if not rows or rows[0] != ["smiles", "affinity"]:
        raise GenflowError(f"{path} is malformed: its first line must be smiles,affinity")
    try:
        return [Docked(smiles, float(affinity) if affinity else None) for smiles, affinity in rows[1:]]
    except ValueError:
        raise GenflowError(f"{path} is malformed: each line must be a SMILES and a number") from None


def write_data(path: Path, docked: Sequence[Docked]) -> None:
    """What `read_data` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["smiles", "affinity"])
    writer.writerows(
        [each.smiles, "" if each.affinity is None else f"{each.affinity:.3f}"] for each in docked
    )
    write_bytes(path, text.getvalue().encode())


def dock_all(
    molecules: Sequence[str],
    docker: Callable[[str], Docked],
    settings: dict[str, Any],
    out: Path,
    progress: Progress,
) -> list[Docked]:
    """Dock what `out` does not hold yet, and write it there; a JSON file beside it says how it was docked.

    Raises:
        GenflowError: `out` holds other molecules, or was docked in another way.
    """
    card, done = out.with_suffix(".json"), read_data(out) if out.exists() else []
    before = read_json(card) if card.exists() else {}
    if done and any(before.get(key) != value for key, value in settings.items()):
        raise GenflowError(f"{out} was docked with other settings, see {card}; choose another --out")
    if [each.smiles for each in done] != list(molecules[: len(done)]):
        raise GenflowError(f"{out} holds other molecules than these; choose another --out")
    started = time.process_time() - before.get("cpu_seconds", 0.0)
    versions = {}
    for name in ("vina", "meeko", "rdkit", "dockstring"):
        with contextlib.suppress(PackageNotFoundError):  # of another docker
            versions[name] = version(name)
    with progress.bar("docking", len(molecules), start=len(done)) as bar:
        for number in range(len(done), len(molecules)):
            done.append(docker(molecules[number]))
            bar.advance(
                best=min((each.affinity for each in done if each.affinity is not None), default=float("nan"))
            )
            if len(done) % CHUNK == 0 or len(done) == len(molecules):
                write_data(out, done)
                seconds = round(time.process_time() - started, 1)
                write_json(
                    card, {**settings, "molecules": len(done), "cpu_seconds": seconds, "versions": versions}
                )
    return done


def main() -> None:
    """Write the data."""
    parser = argparse.ArgumentParser(
        description="Dock random molecules of the environment, for a proxy to learn from."
    )
    parser.add_argument(
        "--target", default="DRD2", help="a receptor that dockstring ships (default: %(default)s)"
    )
    parser.add_argument("--number", type=int, default=2000, help="molecules (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the molecules and of docking (default: %(default)s)"
    )
    parser.add_argument(
        "--exhaustiveness", type=int, default=1, help="Monte Carlo runs a molecule (default: %(default)s)"
    )
    parser.add_argument(
        "--evaluations",
        type=int,
        default=200_000,
        help="evaluations of the energy a run, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=FOLDER / "drd2.csv",
        metavar="FILE.csv",
        help="default: the file that ships",
    )
    arguments = parser.parse_args()
    settings = {key: getattr(arguments, key) for key in ("target", "seed", "exhaustiveness", "evaluations")}
    try:
        where = target(arguments.target)
        docker = Docker(where, arguments.exhaustiveness, arguments.seed, arguments.evaluations)
        molecules = list(random_molecules(arguments.number, arguments.seed))
        settings |= {"structure": "full", "centre": list(where.centre), "size": list(where.size)}
        dock_all(molecules, docker, settings, arguments.out, Progress())
    except GenflowError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
