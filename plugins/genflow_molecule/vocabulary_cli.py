"""``genflow vocabulary``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli import number

if TYPE_CHECKING:
    from .own_vocabulary import OwnVocabulary

#: lines of the report on standard error, but for one that says how many more there are
SHOWN = 15
#: blocks beyond which the command that is named next takes the most frequent ones alone
MANY, FEWER = 72, 20


@click.command("vocabulary", short_help="Make building blocks of fragments or molecules of your own.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="FILE.json", help="Where it is written."
)
@click.option(
    "--as",
    "taken_for",
    type=click.Choice(["auto", "fragments", "molecules"]),
    default="auto",
    show_default=True,
    help="What FILE has: fragments with attachment points, or molecules to cut.",
)
@click.option(
    "--cut",
    type=click.Choice(["brics", "rings"]),
    default="brics",
    show_default=True,
    help="Where molecules are cut: by BRICS, or at the single bonds of rings.",
)
@number("--max-blocks", 1, 4096, 4096, "N", "Blocks to keep, the most frequent first.")
@number("--min-count", 1, None, 1, "N", "Lines of FILE that a block must come from.")
@number(
    "--min-atoms", 1, 50, None, "N", "Atoms of a cut piece, besides hydrogen (default: 3 by brics, or 1)."
)
@number("--max-atoms", 1, 50, 50, "N", "Atoms of a block, besides hydrogen.")
@click.option("--picture/--no-picture", default=True, help="Whether to draw the blocks beside it, as a PNG.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output and nothing else.")
def vocabulary(file, out, taken_for, cut, max_blocks, min_count, min_atoms, max_atoms, picture, as_json):
    """Make a vocabulary of the fragments or molecules of FILE (.smi, .txt, .csv or .sdf).

    \b
    Example:
      genflow vocabulary examples/fragments.smi --out mine.json
    """
    import json

    from genflow import Progress

    from .vocabulary_file import how_read, make_vocabulary

    with Progress(quiet=as_json).as_current():
        made = make_vocabulary(
            file,
            out,
            taken_for,
            cut=cut,
            max_blocks=max_blocks,
            min_count=min_count,
            min_atoms=min_atoms,
            max_atoms=max_atoms,
            picture=picture,
        )
    table, drawn = out.with_suffix(".dropped.csv"), out.with_suffix(".png")
    how = how_read(made.kind, cut)
    facts = _facts(made, taken_for, how)
    if as_json:
        result = {
            "vocabulary": str(out),
            "blocks": len(made.blocks),
            **facts,
            "dropped": [vars(each) for each in made.dropped],
            "picture": str(drawn) if picture else None,
            "next": _next(out, len(made.blocks)),
        }
        click.echo(json.dumps(result, indent=1))
        return
    _report(made, table)
    click.echo(_as_text(made, facts, out, drawn if picture else None))


def _facts(made: OwnVocabulary, asked: str, how: str) -> dict[str, Any]:
    """What was read and done, as JSON."""
    from .unused import fall_apart_unused

    return {
        "taken_for": made.kind,
        "how": how,
        "asked": asked,
        "lines": made.lines,
        "taken": made.taken,
        "merged": made.merged,
        "left_out": {"min_count": made.rare, "max_blocks": len(made.left) - made.rare},
        "entries": sum(len(block.attachments) for block in made.blocks),
        "unsound_unused": [block.smiles for block in fall_apart_unused(made.blocks)],
        "changed": dict(made.changed.most_common()),
    }


def _report(made: OwnVocabulary, table: Path) -> None:
    """What was dropped, on standard error, at most a screen of it."""
    for each in made.dropped[:SHOWN]:
        click.echo(f"dropped: {each}", err=True)
    if (more := len(made.dropped) - SHOWN) > 0:
        click.echo(f"dropped: {more} more, which are in {table}", err=True)


def _as_text(made: OwnVocabulary, facts: dict[str, Any], out: Path, drawn: Path | None) -> str:
    """The result for a person."""
    from genflow import brief, count_of

    from .vocabulary_file import DRAWN

    lines = [
        f"{count_of(made.lines, 'line')}, taken for {facts['how']}:"
        f" {count_of(made.taken, 'gives blocks', 'give blocks')}"
        + "".join(f"; {times} with {what}" for what, times in facts["changed"].items()),
        f"{count_of(len(made.blocks), 'block')}, joined in {count_of(facts['entries'], 'way')}, in {out}",
    ]
    if made.merged:
        one, many = "fragment is another attachment", "fragments are other attachments"
        lines[-1] += f"; {count_of(made.merged, one, many)} of the same molecules"
    if any(len(block.stems) > 1 for block in made.blocks):
        lines.append("attachment points to which nothing is joined become hydrogen")
        if unsound := facts["unsound_unused"]:
            some = ", ".join(brief(smiles, 30) for smiles in unsound[:3])
            more = ", ..." if len(unsound) > 3 else ""
            lines[-1] += (
                f"; {count_of(len(unsound), 'block then falls', 'blocks then fall')} apart ({some}{more}):"
                " to keep such molecules out, add exclude=unstable"
            )
    table = out.with_suffix(".dropped.csv")
    if left := len(made.left):
        lines.append(
            f"{count_of(left, 'more block')} left out, the least frequent: {made.rare} by --min-count,"
            f" {left - made.rare} by --max-blocks; in {table}"
        )
    if made.dropped:
        lines.append(f"{len(made.dropped):,} dropped, in {table}")
    if drawn is not None:
        part = f" (the first {DRAWN})" if len(made.blocks) > DRAWN else ""
        lines.append(f"drawn in {drawn}{part}")
    return "\n".join([*lines, f"next: {_next(out, len(made.blocks))}"])


def _next(out: Path, n_blocks: int) -> str:
    """The command to type next."""
    from urllib.parse import quote

    path = quote(str(out), safe="/.-_")
    some = f"blocks={FEWER}," if n_blocks > MANY else ""
    return f'genflow generate --env molecule --structure "vocabulary={path},{some}max_blocks=5"'
