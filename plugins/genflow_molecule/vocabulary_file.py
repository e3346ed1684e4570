"""A vocabulary made of a file or a list of SMILES, written with a picture and a table of what was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genflow import GenflowError, Progress, brief, count_of, did_you_mean, write_bytes

if TYPE_CHECKING:
    from .own_vocabulary import OwnVocabulary
    from .vocabulary import Block

#: blocks of the picture, and how many of them side by side
DRAWN, COLUMNS = 60, 6
#: what a source may be taken for
TAKEN_FOR = ("auto", "fragments", "molecules")
KEY = "orange: an atom by which the block is joined to others; blue: one that others can be joined to besides"
#: characters of a SMILES below its picture
LETTERS = 26
#: colours of atoms by which a block is joined, and of those that are open besides
ATTACHMENT, STEM = (1.0, 0.75, 0.4), (0.75, 0.87, 1.0)


def make_vocabulary(
    source: str | Path | Sequence[str],
    out: str | Path,
    taken_for: Literal["auto", "fragments", "molecules"] = "auto",
    *,
    cut: Literal["brics", "rings"] = "brics",
    max_blocks: int = 4096,
    min_count: int = 1,
    min_atoms: int | None = None,
    max_atoms: int = 50,
    picture: bool = True,
) -> OwnVocabulary:
    """Make a vocabulary of fragments or molecules, as ``genflow vocabulary`` does.

    Args:
        source: a file, or a list of SMILES.
        out: the JSON file that is written; a picture and the table of what was dropped stand beside it.
        taken_for: what the source has; "auto" takes it for fragments if half of it has attachment points.
        cut: where molecules are cut.
        max_blocks: blocks that are kept, the most frequent first.
        min_count: lines that a block must come from.
        min_atoms: atoms of a piece of a molecule, besides hydrogen; a smaller one stays with the smallest
            beside it. None is 3 for "brics" and 1 for "rings".
        max_atoms: atoms of a block, besides hydrogen.
        picture: whether the first blocks are drawn.

    Raises:
        GenflowError: the source cannot be read, makes no blocks or none that can be joined, or the output
            may not be written there.
    """
    from . import own_vocabulary
    from .cutting import LEAST
    from .molecule_lines import MoleculeLine, read_lines, titled
    from .vocabulary import FORMAT, as_text

    for what, value, known in (("cut", cut, LEAST), ("taken_for", taken_for, TAKEN_FOR)):
        if value not in known:
            raise GenflowError(f"{what}={value!r} is unknown{did_you_mean(str(value), known)}")
    out = Path(out)
    table, drawn = out.with_suffix(".dropped.csv"), out.with_suffix(".png")
    if isinstance(source, str | Path):
        where, name = f"file {str(source)!r}", Path(source).name[:200]
        _check_out(Path(source), out, table, drawn)
        lines = read_lines(Path(source))
    else:
        where, name = "the list of SMILES", "a list"
        _check_out(None, out, table, drawn)
        texts = list(source)
        if wrong := [each for each in texts if not isinstance(each, str)]:
            raise GenflowError(f"molecules are given as SMILES, not {brief(wrong[0])}; use Chem.MolToSmiles")
        lines = [MoleculeLine(number, *titled(text)) for number, text in enumerate(texts, 1)]
    if not lines:
        raise GenflowError(f"{where} has no molecules")
    kind = own_vocabulary.kind_of(smiles for _, smiles, _ in lines) if taken_for == "auto" else taken_for
    if kind == "fragments" and min_atoms is not None:
        raise GenflowError(f"min_atoms is for molecules that are cut, and {where} is taken for fragments")
    atoms = (LEAST[cut] if min_atoms is None else min_atoms, max_atoms)
    made = own_vocabulary.Maker(lines, kind, cut, atoms, Progress.current()).make(max_blocks, min_count)
    if made.dropped or made.left:
        write_bytes(table, _as_csv(made).encode())
    else:
        table.unlink(missing_ok=True)  # of the file that was made there before
    if not made.blocks:
        first = f"; the first: {made.dropped[0]}" if made.dropped else ""
        raise GenflowError(f"{where} makes no block; why, line by line, is in {table}{first}")
    own_vocabulary.require_joinable(made.blocks, where)
    content = {
        "format": FORMAT,
        "source": f"{name}, {how_read(kind, cut)}",
        "blocks": [block.model_dump() for block in made.blocks],
    }
    write_bytes(out, as_text(content).encode())
    if picture:
        write_bytes(drawn, _picture(made.blocks))
    return made


def how_read(kind: str, cut: str) -> str:
    """What a source was taken for, in words."""
    return f"molecules cut by {cut}" if kind == "molecules" else "fragments"


def _check_out(file: Path | None, *outputs: Path) -> None:
    """Refuse to write over what was given, and into the package."""
    out = outputs[0]
    package = Path(__file__).resolve().parent
    if out.suffix != ".json":
        raise GenflowError(f"--out {out} does not end in .json; name it so, as in --out mine.json")
    if package in out.resolve().parents:
        raise GenflowError(f"--out {out} is in the package itself; choose a folder of your own")
    if out.is_dir():
        raise GenflowError(f"--out {out} is a folder; name a file")
    for each in outputs:
        if file is not None and each.resolve() == file.resolve():
            raise GenflowError(f"{each} would be written over; choose another --out")


def _as_csv(made: OwnVocabulary) -> str:
    """A line for each line or piece that was dropped."""
    import csv
    import io
    from dataclasses import astuple, fields

    from .own_vocabulary import Dropped

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(each.name for each in fields(Dropped))
    rows = sorted([*made.dropped, *made.left], key=lambda each: each.line)
    writer.writerows(map(astuple, rows))
    return text.getvalue()


def _picture(blocks: Sequence[Block]) -> bytes:
    """The first blocks with their numbers and counts, the atoms by which they are joined marked."""
    from .drawing import Marks, sheet

    shown = blocks[:DRAWN]
    marks = [
        Marks(
            {atom: ATTACHMENT if atom in block.attachments else STEM for atom in block.stems},
            (f"{place}: {brief(block.smiles, LETTERS)}", f"in {count_of(block.count, 'line')}"),
        )
        for place, block in enumerate(shown)
    ]
    return sheet([block.mol for block in shown], marks, COLUMNS, KEY)
