"""The building blocks, read from a file that is not trusted: each is a small molecule, and atoms by which it can be joined."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from genflow import GenflowError, Schema

if TYPE_CHECKING:
    from rdkit.Chem import Mol

FORMAT = "genflow-vocabulary-1"
#: places of a block at which others can be joined to it
MAX_STEMS = 4
#: blocks of a vocabulary, and bytes of its file
MAX_BLOCKS, MAX_BYTES = 4096, 2**22


class Block(Schema):
    """One building block.

    `stems`: atoms, numbered as in the SMILES, each once for every bond that it may get. `attachments`: those
        of them by which the
    block can be joined to others, one of each kind. `count`: molecules of the corpus that have it.
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
        from rdkit import rdBase

        with rdBase.BlockLogs():  # it explains itself on standard error
            mol = self.mol
        if mol is None:
            return "is no molecule"
        if "." in self.smiles:
            return "is more than one molecule"
        for stem, uses in Counter(self.stems).items():
            if not 0 <= stem < mol.GetNumAtoms():
                return f"has no atom {stem}"
            if uses > (hydrogens := mol.GetAtomWithIdx(stem).GetTotalNumHs()):
                return f"lists atom {stem} as a stem {uses} times, but it has {hydrogens} hydrogen atoms to replace"
        if len(set(self.attachments)) < len(self.attachments) or not set(self.attachments) <= set(self.stems):
            return f"has attachments {list(self.attachments)}, which must be different stems of {list(self.stems)}"
        return None


class File(Schema):
    """A vocabulary on disk; `source` says what it was made from."""

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


def entries_of(blocks: tuple[Block, ...]) -> tuple[Entry, ...]:
    """Every way in which one of the blocks can be added, block after block."""
    return tuple(Entry.of(block, attachment) for block in blocks for attachment in block.attachments)


def load_vocabulary(name: str) -> tuple[Block, ...]:
    """The blocks of a vocabulary: the name of one that ships, or the path of a JSON file.

    Raises:
        GenflowError: there is no such file, or it is malformed.
    """
    shipped = resources.files(__package__) / "vocabularies" / f"{name}.json"
    path = Path(str(shipped)) if re.fullmatch(r"[\w-]+", name) else Path(name)
    try:
        stat = path.stat() if path.is_file() else None
    except (OSError, ValueError):
        stat = None
    if stat is None:
        folder = resources.files(__package__) / "vocabularies"
        known = ", ".join(
            sorted(
                each.name.removesuffix(".json") for each in folder.iterdir() if each.name.endswith(".json")
            )
        )
        raise GenflowError(
            f"there is no vocabulary {name!r}; name one that ships ({known}) or the path of a JSON file"
        )
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, size: int) -> tuple[Block, ...]:
    if size > MAX_BYTES:
        raise GenflowError(f"vocabulary {str(path)!r} has {size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        # files of the kernel say that they are empty, and some never end
        blocks = File.model_validate_json(path.read_bytes() if size else b"").blocks
    except OSError as error:
        raise GenflowError(f"vocabulary {str(path)!r} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise GenflowError(
            f"vocabulary {str(path)!r} is malformed: {_first(error.errors(include_url=False))}"
        ) from None
    seen: set[str] = set()
    for number, block in enumerate(blocks):
        fault = "is there twice" if block.smiles in seen else block.fault()
        if fault:
            raise GenflowError(
                f"vocabulary {str(path)!r} is malformed: block {number} ({block.smiles!r}) {fault}"
            )
        seen.add(block.smiles)
    return blocks


def _first(errors: list[Any]) -> str:
    place = ".".join(str(part) for part in errors[0]["loc"])
    text = " ".join(str(errors[0]["msg"]).removeprefix("Value error, ").split())
    return f"{place}: {text}" if place else text
