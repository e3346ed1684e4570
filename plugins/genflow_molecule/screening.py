"""The best molecules that a population samples, docked and ranked anew: docking is another judge than reward.

Shapes: M policies, B trajectories each, N slots.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genflow import GenflowError, Population, Progress, RunDirectory, read_json, write_bytes, write_json

from .docking import Docked, Receptor
from .environment import Molecule
from .metrics import distinct

#: files of a run: what has been docked so far, and the table
DOCKED, TABLE = "docked.json", "table.csv"
COLUMNS = ("smiles", "score", "affinity")


def best_molecules(population: Population, top: int, draws: int, seed: int) -> dict[str, float]:
    """Different molecules with the highest scores, before `beta`: SMILES -> score, the best first.

    Args:
        population: of molecules.
        top: how many molecules.
        draws: trajectories of each policy.
        seed: of the trajectories.

    Raises:
        GenflowError: the population is not of molecules, or samples none.
    """
    environment = population.structure.environment
    if not isinstance(environment, Molecule):
        raise GenflowError(
            f"only molecules can be docked, and the population is of environment {population.structure.env!r}"
        )
    final = population.rollouts(draws, seed).final
    molecules = distinct(environment.catalogue.smiles(final.flatten(0, 1)))
    scores = dict(zip(molecules, environment.catalogue.score.scores(molecules), strict=True))
    if not scores:
        raise GenflowError("the policies sampled no molecule; give more --draws")
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:top])


def identity(population: Population, receptor: Receptor, **options: Any) -> dict[str, Any]:
    """What a run of docking depends on, apart from its seed."""
    weights = hashlib.sha256(population.weights.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
    protein = hashlib.sha256(receptor.file.read_bytes()).hexdigest()[:16]
    box = {"centre": list(receptor.centre), "size": list(receptor.size)}
    return {
        "population": {**population.structure.to_json(), "weights": weights},
        "receptor": {"file": protein, **box},
        **options,
    }


def screen(
    population: Population,
    receptor: Receptor,
    make_docker: Callable[[], Callable[[str], Docked]],
    options: dict[str, Any],
    seed: int,
    out: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Dock the best molecules and write them to `out`; what a run that was stopped has docked is kept.

    Args:
        population: of molecules.
        receptor: where they are docked.
        make_docker: called where something is left to dock.
        options: `top` molecules of `draws` trajectories a policy, and what else the result depends on.
        seed: of the trajectories.
        out: the folder.
        progress: shows the best affinity so far.

    Returns:
        A row a molecule, the best affinity first and those that could not be docked last: ``smiles``,
        ``score`` (the reward's, before `beta`), ``affinity`` (kcal/mol) and ``fault``, one of the last two
        None.

    Raises:
        GenflowError: see `best_molecules`; the folder holds another run or is malformed.
    """
    with RunDirectory.open(out, "dock", identity(population, receptor, **options), seed) as run:
        scores = best_molecules(population, options["top"], options["draws"], seed)
        done = _read(run.path / DOCKED, list(scores))
        if len(done) < len(scores):
            docker = make_docker()
            with progress.bar(f"docking to {receptor.name}", len(scores), start=len(done)) as bar:
                for smiles in list(scores)[len(done) :]:
                    done.append(docker(smiles))
                    write_json(run.path / DOCKED, {"docked": [asdict(each) for each in done]})
                    bar.advance(
                        best=min(
                            (each.affinity for each in done if each.affinity is not None),
                            default=float("nan"),
                        )
                    )
        rows = [
            {
                "smiles": each.smiles,
                "score": scores[each.smiles],
                "affinity": each.affinity,
                "fault": each.fault,
            }
            for each in done
        ]
        rows.sort(key=lambda row: (row["affinity"] is None, row["affinity"] or 0.0))
        write_bytes(run.path / TABLE, as_csv(rows).encode())
        run.update(complete=True, receptor=receptor.name)
    return rows


def _read(path: Path, molecules: Sequence[str]) -> list[Docked]:
    if not path.exists():
        return []
    rows = read_json(path).get("docked")
    try:
        done = [
            Docked(
                str(row["smiles"]), None if row["affinity"] is None else float(row["affinity"]), row["fault"]
            )
            for row in rows or []
        ]
    except (KeyError, TypeError, ValueError):
        done = []
    if not done or [each.smiles for each in done] != list(molecules[: len(done)]):
        raise GenflowError(f"{path} does not hold what this run docked; remove it, or choose another --out")
    return done


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """A line a molecule; no affinity: it could not be docked."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if row[name] is None else row[name] for name in COLUMNS] for row in rows)
    return text.getvalue()


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """The same for a person."""
    lines = ["affinity  score  smiles"]
    for row in rows:
        affinity = f"{row['affinity']:8.2f}" if row["affinity"] is not None else "       -"
        lines.append(
            f"{affinity}  {row['score']:5.3f}  {row['smiles']}"
            + (f"  ({row['fault']})" if row["fault"] else "")
        )
    return "\n".join(lines)
