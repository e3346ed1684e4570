"""Plans and runs items: what is missing, what it would take, and one after the other."""

from __future__ import annotations

import shlex
import shutil
import time
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from genflow import GenflowError, GenflowWarning, Progress, RunDirectory, did_you_mean, read_json

from .items import ITEMS, Item
from .page import write_page
from .parts import Lab, Part, Width, ZooPart, with_requirements
from .result import RESULT, save
from .scale import ITEM_SECONDS, OTHER_SECONDS, Scale

#: bytes of a policy of each of the training structures, and of one of the paper's two networks, roughly
WEIGHTS: dict[Width, float] = {"paper": 16e3, "useful": 0.5e6}
NETWORKS: dict[Width, float] = {"paper": 8e6, "useful": 65e6}


def run(folder: Path, scale: Scale, seed: int, names: Sequence[str], budget: float | None) -> dict[str, Any]:
    """Measure items, all of them if none is named, and write the page.

    Args:
        folder: the output folder.
        scale: how much is trained.
        seed: of everything random.
        names: of items.
        budget: seconds that the work may take.

    Returns:
        What each item's ``result.json`` holds.

    Raises:
        GenflowError: an item is unknown or needs an extra, the work would not fit, or `folder` holds another.
    """
    chosen = _chosen(names)
    lab, progress = Lab(folder, scale, seed), Progress.current()
    missing = [name for name in chosen if not _is_measured(folder, name)]
    parts = [part for part in _parts(scale, missing) if not lab.is_made(part)]
    _require_fits(folder, scale, parts, missing, budget)
    for name, item in ITEMS.items():
        if not names and item.missing:
            progress.note(f"{name} is left out: it needs {item.missing}")
    with (
        RunDirectory.open(folder, "reproduce", {"scale": scale.name}, seed),
        progress.bar("reproduce", len(parts) + len(missing), timed=False) as bar,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", GenflowWarning)  # that quality is uncertain is what is measured here
        for part in parts:
            part.make(lab)
            bar.advance()
        for name in missing:
            _measure(lab, name, ITEMS[name])
            write_page(folder)
            bar.advance()
        if not missing:
            write_page(folder)
    return {name: read_json(folder / "items" / name / RESULT) for name in chosen}


def _chosen(names: Sequence[str]) -> dict[str, Item]:
    for name in names:
        if name not in ITEMS:
            raise GenflowError(
                f"the paper has no item {name!r}{did_you_mean(name, ITEMS)}; `genflow reproduce --list` shows"
                " them"
            )
        if need := ITEMS[name].missing:
            raise GenflowError(f"{name} needs what is not installed: {need}")
    if names:
        return {name: item for name, item in ITEMS.items() if name in names}
    return {name: item for name, item in ITEMS.items() if not item.missing}


def _measure(lab: Lab, name: str, item: Item) -> None:
    folder = lab.folder / "items" / name
    with RunDirectory.open(folder, "item", {"item": name, "scale": lab.scale.name}, lab.seed) as directory:
        began = time.perf_counter()
        with Progress.current().bar(name, 1):
            result = item.measure(lab)
        command = ["genflow", "reproduce", name, "--scale", lab.scale.name, "--seed", str(lab.seed)]
        facts = {
            "item": name,
            "title": item.title,
            "scale": lab.scale.name,
            "seed": lab.seed,
            "command": shlex.join(command),
            "seconds": time.perf_counter() - began,
            "versions": directory.manifest["versions"],
        }
        save(folder, result, facts)
        directory.update(complete=True)


def _is_measured(folder: Path, name: str) -> bool:
    manifest = folder / "items" / name / "run.json"
    return manifest.exists() and bool(read_json(manifest).get("complete"))


def _parts(scale: Scale, names: Iterable[str]) -> list[Part]:
    return with_requirements([part for name in names for part in ITEMS[name].parts(scale)])


def listing(folder: Path, scale: Scale) -> list[dict[str, Any]]:
    """Return what each item is, what it would take now by itself, and what it needs to have installed."""
    lab = Lab(folder, scale, 0)
    rows = []
    for name, item in ITEMS.items():
        names = [] if _is_measured(folder, name) else [name]
        parts = [part for part in _parts(scale, names) if not lab.is_made(part)]
        seconds = seconds_of(scale, parts, names)
        rows.append({"item": name, "title": item.title, "seconds": seconds, "missing": item.missing})
    return rows


def seconds_of(scale: Scale, parts: Sequence[Part], names: Sequence[str]) -> float:
    """Return roughly how long parts and items take on one core, from what they took here."""
    made = sum(scale.part_seconds[f"{part.kind}, {part.width}"] for part in parts)
    return made + scale.item_factor * sum(ITEM_SECONDS.get(name, OTHER_SECONDS) for name in names)


def bytes_of(scale: Scale, parts: Sequence[Part]) -> float:
    """Return roughly how many bytes parts take on disk."""
    zoos = sum(WEIGHTS[part.width] * max(scale.members) for part in parts if isinstance(part, ZooPart))
    networks = [NETWORKS[part.width] for part in parts if not isinstance(part, ZooPart)]
    # the checkpoints of the one in training hold what Adam keeps beside the parameters
    return zoos + sum(networks) + 6 * max(networks, default=0)


def _require_fits(
    folder: Path, scale: Scale, parts: Sequence[Part], names: Sequence[str], budget: float | None
) -> None:
    needed = bytes_of(scale, parts)
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise GenflowError(
            f"the scale {scale.name!r} takes some {needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB"
            " free; name fewer items, or choose another --out or --scale"
        )
    seconds = seconds_of(scale, parts, names)
    if budget is not None and seconds > budget:
        raise GenflowError(
            f"this takes some {duration(seconds)} at the scale {scale.name!r}, more than --budget {budget:g}"
            f" ({duration(budget)}); name fewer items, or a smaller --scale"
        )


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
