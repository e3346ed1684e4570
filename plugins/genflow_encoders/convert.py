"""Generators of the first edition in today's format: what they generate stays the same.

The first edition described a unit by one table, in which a column of whole numbers was a category, and drew
the smooth family anew whenever a generator was loaded.

Shapes: U units of an axis, G amounts of a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genflow import (
    GENERATOR_CARD,
    GENERATOR_FORMAT,
    GENERATOR_TENSORS,
    OLD_GENERATOR_FORMAT,
    Generator,
    GenflowError,
    Structure,
    UnitDescriptions,
    WeightLayout,
    convert_populations,
    count_of,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

from .parts import Parts
from .smooth_family import SmoothFamily

#: old name -> new name of an option and of a part of a network
OPTIONS = {"style_share": "style_variance"}
PARTS = {".each.": ".phi.", ".all.": ".rho.", ".named.": ".categories."}
#: columns that vary by less than this over all rows count as constant
TOLERANCE = 1e-6


def convert_folder(folder: Path, out: Path, describe: bool = True) -> str:
    """Write what the first edition left in a folder in today's format: a generator, populations, or both.

    Args:
        folder: of a generator, a population, a zoo or a run.
        out: another folder.
        describe: as for `convert_generator`.

    Returns:
        What was converted.

    Raises:
        GenflowError: there is neither, or one cannot be converted.
    """
    if (folder / GENERATOR_CARD).exists():
        convert_generator(folder, out, describe)
        return "a generator"
    has_generator = (folder / "generator" / GENERATOR_CARD).exists()
    count = convert_populations(folder, out)
    if has_generator:
        convert_generator(folder / "generator", out / "generator", describe)
    if not count and not has_generator:
        raise GenflowError(f"{folder} holds neither a generator nor populations")
    return " and ".join([count_of(count, "population")] * bool(count) + ["a generator"] * has_generator)


def convert_generator(folder: Path, out: Path, describe: bool = True) -> Generator:
    """Write a generator of the first edition in today's format.

    Args:
        folder: of the generator.
        out: another folder.
        describe: whether to describe the units of all training structures again, which tells what never
            varied among them; else all that the file leaves out counts as such.

    Raises:
        GenflowError: it is no such generator, or cannot be converted.
    """
    card = read_json(folder / GENERATOR_CARD)
    if card.get("format") != OLD_GENERATOR_FORMAT:
        raise GenflowError(
            f"{folder / GENERATOR_CARD} is not of the first edition, so there is nothing to convert"
        )
    if out.resolve() == folder.resolve() or (out / GENERATOR_CARD).exists():
        raise GenflowError(f"{out} holds a generator already; choose another --out")
    tensors, _ = read_tensors(folder / GENERATOR_TENSORS)
    try:
        card = {**card, "format": GENERATOR_FORMAT, **_restored(card)}
        if card["encoder"]["name"] == "coordinate":
            layouts = [
                Structure.restore(card["env"], fields, card["policy"], read_files=True).layout
                for fields in card["training_structures"]
            ]
            card["encoder"], tensors = _coordinate(card["encoder"], tensors, layouts, describe)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise GenflowError(
            f"{folder} is damaged and cannot be converted: {type(error).__name__}: {error}"
        ) from error
    write_tensors(out / GENERATOR_TENSORS, tensors, {"format": GENERATOR_FORMAT})
    write_json(out / GENERATOR_CARD, card)
    return Generator.from_pretrained(out)


def _restored(card: dict[str, Any]) -> dict[str, Any]:
    """The structures of a card by the fields that they have today."""

    def restored(fields: dict[str, Any]) -> Structure:
        return Structure.restore(card["env"], fields, card["policy"], read_files=True)

    lists = {
        key: [restored(fields).fields() for fields in card.get(key, [])]
        for key in ("training_structures", "selection_structures")
    }
    quality = []
    for entry in card.get("quality", []):
        structure = restored(entry["structure"])
        quality.append({**entry, "structure": structure.fields(), "name": structure.name})
    return {**lists, "quality": quality}


def _coordinate(
    card: dict[str, Any], tensors: dict[str, Tensor], layouts: Sequence[WeightLayout], describe: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options and spec of a coordinate encoder, and the tensors of its generator."""
    options = {OPTIONS.get(key, key): value for key, value in card["options"].items()}
    spec = dict(card["spec"])
    tensors = {_renamed(name): tensor for name, tensor in tensors.items()}
    described = {
        label: _described(label, facts, tensors, layouts, options["features"], describe)
        for label, facts in spec["described"].items()
    }
    coordinates = {label: facts["coordinates"] for label, facts in described.items()}
    family = SmoothFamily(Parts(spec["axes"], {}), spec["widest"], coordinates, options["latent_size"])
    family.draw()
    if spec.pop("family", _checksum()) != _checksum():
        raise GenflowError(
            "this version of torch draws other random numbers than the one this generator was trained with;"
            " convert"
            " it with that one"
        )
    tensors |= {f"encoder.family.{name}": tensor for name, tensor in family.state_dict().items()}
    return {**card, "options": options, "spec": {**spec, "described": described}}, tensors


def _renamed(name: str) -> str:
    if name.startswith("encoder."):
        for old, new in PARTS.items():
            name = name.replace(old, new)
    return name


def _described(
    label: str, facts: dict[str, Any], tensors: dict[str, Tensor], layouts: Sequence[WeightLayout],
    features: bool, describe: bool,
) -> dict[str, Any]:  # fmt: skip
    """How the units of an axis are described today; the tensors that read them are changed in place."""
    units = [layout.units[label] for layout in layouts]
    old = {int(column): low for column, (low, _) in facts["names"].items()}
    names = list(units[0].categories)
    if len(old) != len(names):
        raise GenflowError(
            f"its {label} units were told by {len(old)} names, and are now by {len(names)} categories;"
            " train it anew"
        )
    categories = {}
    for number, (name, low) in enumerate(zip(names, old.values(), strict=True)):
        categories[name] = torch.cat([each.categories[name] for each in units]).unique().tolist()
        key = f"encoder.units.{label}.categories.{number}.weight"
        tensors[key] = tensors[key][torch.tensor(categories[name]) - low]
    kept = [column for column in range(facts["features"]) if column not in old]
    prefix = f"encoder.units.{label}."
    for key in ("standardise.mean", "standardise.scale", "first.weight"):
        tensors[prefix + key] = tensors[prefix + key][..., kept].clone()
    mean, scale, weight = (
        tensors[prefix + key] for key in ("standardise.mean", "standardise.scale", "first.weight")
    )
    if describe:
        ignored = scale == 0
        tables = [each.amounts if features else each.coordinates for each in units]
        first = tables[0][0]
        varied = torch.stack([((rows - first).abs() > TOLERANCE).any(0) for rows in tables]).any(0)
        tensors[prefix + "standardise.mean"] = torch.where(ignored & ~varied, first, mean.float())
        # what varied, but was left out, is read with weights of zero
        scale[ignored & varied] = 1.0
        weight[:, ignored & varied] = 0.0
    places = units[0].coordinates.shape[1]
    return {"amounts": len(kept), "coordinates": places, "categories": categories}


def _checksum() -> float:
    """A number of the smooth family that differs where torch's random numbers do."""
    family = SmoothFamily(Parts({"w": ("hidden", "input")}, {}), 3, {"input": 1}, 2)
    family.draw()
    place = torch.tensor([[0.0], [1.0]])
    layout = WeightLayout(
        {"w": (3, 2)}, {"w": ("hidden", "input")}, {"input": UnitDescriptions(place, coordinates=place)}
    )
    return round(float(family.basis(layout).double().abs().sum()), 4)
