"""Blocks of which an attachment point that is not used leaves a group that falls apart."""

from __future__ import annotations

from collections.abc import Sequence

from rdkit import Chem

from .assembly import join
from .descriptors import alerts
from .vocabulary import Block

METHANE = Chem.MolFromSmiles("C")


def fall_apart_unused(blocks: Sequence[Block]) -> list[Block]:
    """Blocks that the catalogue `unstable` names with some of their attachment points, but not with all.

    An attachment point to which nothing is joined is hydrogen; methyl stands for what is joined.
    """
    unstable, found = alerts("unstable"), []
    for block in blocks:
        if len(block.stems) < 2:
            continue
        whole = block.mol
        for atom in block.stems:
            whole = join(whole, atom, METHANE, 0)
        if not unstable(whole) and any(
            unstable(join(block.mol, atom, METHANE, 0)) for atom in block.attachments
        ):
            found.append(block)
    return found
