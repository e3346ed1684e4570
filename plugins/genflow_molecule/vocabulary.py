"""The building blocks, each a small molecule and atoms by which it can be joined."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from genflow import GenflowError, Schema, brief

if TYPE_CHECKING:
    from rdkit.Chem import Mol

FORMAT = "genflow-vocabulary-1"
#: places of a block at which others can be joined to it
MAX_STEMS = 4
#: blocks of a vocabulary, and bytes of its file
MAX_BLOCKS, MAX_BYTES = 4096, 2**22


class Block(Schema):
    """One building block.

    `smiles`: the block as a molecule of its own.
    `stems`: atoms, numbered as in the SMILES, each once for every bond that it may get.
    `attachments`: those of the stems by which the block can be joined to others, one of each kind.
    `count`: molecules of the corpus that have it.
    """

    smiles: str = Field(min_length=1, max_length=200)
    stems: tuple[int, ...] = Field(min_length=1, max_length=MAX_STEMS)
    attachments: tuple[int, ...] = Field(min_length=1, max_length=MAX_STEMS)
    count: int = Field(default=0, ge=0)

    @cached_property
    def mol(self) -> Mol:
        """The block alone, its open stems filled with hydrogen."""
        from rdkit import Chem

        return Chem.MolFromSmiles(self.smiles)

    def fault(self) -> str | None:
        """What is wrong with this block; None: nothing."""
        from .block_check import joint_fault, molecule_fault

        return molecule_fault(self.smiles) or joint_fault(self.mol, self.stems, self.attachments)

    @property
    def canonical(self) -> str:
        """The molecule in RDKit's own spelling."""
        from rdkit import Chem

        return Chem.MolToSmiles(self.mol)

    def joints(self) -> list[str]:
        """What tells this block, joined by each of its attachments, from others however they are written."""
        from .block_check import joined_by

        return joined_by(self.mol, self.attachments)


class Blocks(Schema):
    """Building blocks from outside."""

    blocks: tuple[Block, ...] = Field(min_length=1, max_length=MAX_BLOCKS)


class File(Schema):
    """A vocabulary on disk.

    `format`: of the file.
    `source`: what it was made from.
    `blocks`: in order.
    """

    format: Literal["genflow-vocabulary-1"]
    source: str = Field(max_length=1000)
    blocks: tuple[Block, ...] = Field(min_length=1, max_length=MAX_BLOCKS)


@dataclass(frozen=True)
class Entry:
    """A block and the atom by which it is joined to what is there already.

    Attributes:
        block: the block.
        attachment: the atom.
        stems: atoms that are open then, in the order of the block's.
    """

    block: Block
    attachment: int
    stems: tuple[int, ...]

    @classmethod
    def of(cls, block: Block, attachment: int) -> Entry:
        """The entry of one attachment atom."""
        stems = list(block.stems)
        stems.remove(attachment)
        return cls(block, attachment, tuple(stems))


def as_text(vocabulary: dict[str, Any]) -> str:
    """JSON with a line for each block."""
    blocks = ",\n".join("  " + json.dumps(block) for block in vocabulary["blocks"])
    head = json.dumps({key: value for key, value in vocabulary.items() if key != "blocks"})
    return f'{head[:-1]}, "blocks": [\n{blocks}\n]}}\n'


def entries_of(blocks: tuple[Block, ...]) -> tuple[Entry, ...]:
    """Every way in which one of the blocks can be added, block after block."""
    return tuple(Entry.of(block, attachment) for block in blocks for attachment in block.attachments)


def is_shipped(vocabulary: str) -> bool:
    """Whether a text can be the name of a vocabulary that ships; other texts are paths."""
    return re.fullmatch(r"[\w-]+", vocabulary) is not None


@cache  # few ship
def shipped_vocabulary(name: str) -> tuple[Block, ...]:
    """The blocks of a vocabulary that ships; its file never changes.

    Raises:
        GenflowError: there is none of that name.
    """
    folder = resources.files(__package__) / "vocabularies"
    names = sorted(
        each.name.removesuffix(".json") for each in folder.iterdir() if each.name.endswith(".json")
    )
    if name not in names:
        raise _missing(name)
    # its blocks are checked by the tests, not each time
    return File.model_validate_json((folder / f"{name}.json").read_bytes()).blocks


def read_vocabulary(path: Path) -> tuple[Block, ...]:
    """The blocks of a user's JSON file.

    Raises:
        GenflowError: there is no such file, or it is malformed.
    """
    where = f"vocabulary {str(path)!r}"
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        size = None
    if size is None:
        raise _missing(str(path))
    if size > MAX_BYTES:
        raise GenflowError(f"{where} has {size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        # files of the kernel say that they are empty, and some never end
        return parse(path.read_bytes() if size else b"", where)
    except OSError as error:
        raise GenflowError(f"{where} cannot be read: {error.strerror}") from None


def _missing(name: str) -> GenflowError:
    folder = resources.files(__package__) / "vocabularies"
    names = sorted(
        each.name.removesuffix(".json") for each in folder.iterdir() if each.name.endswith(".json")
    )
    return GenflowError(
        f"there is no vocabulary {name!r}; name one that ships ({', '.join(names)})"
        " or the path of a JSON file"
    )


@lru_cache(maxsize=8)  # each at most `MAX_BYTES` of text and `MAX_BLOCKS` small molecules
def parse(content: bytes, where: str) -> tuple[Block, ...]:
    """The checked blocks of a vocabulary file.

    Args:
        content: of the file, at most `MAX_BYTES`.
        where: leads messages.

    Raises:
        GenflowError: it is malformed.
    """
    try:
        return checked(File.model_validate_json(content).blocks, where)
    except ValidationError as error:
        hint = "" if content.lstrip()[:1] == b"{" else "; `genflow vocabulary` makes one of SMILES"
        raise GenflowError(f"{where} is malformed: {_first(error)}{hint}") from None


def blocks_of(values: Sequence[Any], where: str) -> tuple[Block, ...]:
    """The checked blocks of a saved structure.

    Args:
        values: blocks, or their fields.
        where: leads messages.

    Raises:
        GenflowError: they are malformed.
    """
    try:
        return checked(Blocks.model_validate({"blocks": values}).blocks, where)
    except ValidationError as error:
        raise GenflowError(f"{where} is malformed: {_first(error)}") from None


def checked(blocks: tuple[Block, ...], where: str) -> tuple[Block, ...]:
    """The same blocks.

    Raises:
        GenflowError: one is no plain molecule that can be joined, or two are the same, joined by the same
            atom.
    """
    seen: dict[str, list[int]] = {}
    for number, block in enumerate(blocks):
        fault = block.fault()
        if not fault:
            same = seen.setdefault(block.canonical, [])
            fault = next((why for other in same if (why := _twice(block, other, blocks[other]))), None)
            same.append(number)
        if fault:
            raise GenflowError(f"{where} is malformed: block {number} ({block.smiles!r}) {fault}")
    return blocks


def _twice(block: Block, number: int, other: Block) -> str | None:
    """Why a block may not stand beside an earlier one of its molecule; None: it is joined elsewhere."""
    if block == other:
        return "is there twice"
    if set(block.joints()) & set(other.joints()):
        return (
            f"is block {number} ({other.smiles!r}) once more, joined by the same atom, and its molecules"
            " would count twice; leave one of them out"
        )
    return None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = brief(".".join(str(part) for part in first["loc"]))
    text = brief(str(first["msg"]).removeprefix("Value error, "))
    return f"{place}: {text}" if place else text
