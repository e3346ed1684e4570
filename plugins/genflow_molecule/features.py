"""What networks that make weights are told about inputs and actions: the same chemistry in every vocabulary.

An input is "the block in this slot is this entry" or "it hangs from this stem of that slot"; an action is a
site and an entry, or exit.

Shapes: E entries, F features of an entry, s inputs, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from genflow import Expert, Progress

from .block_features import SLOTS, STEMS, describe_atom, outline_block
from .landscape import Landscape
from .regression import CALLS, ask, cut
from .rehearsals import Rehearsals
from .trees import Trees
from .vocabulary import MAX_STEMS, Entry

#: slots that a state may have
MAX_SLOTS = 8
#: stems that a slot opens beside the atom it is attached by
OPEN = MAX_STEMS - 1
#: of open stems it is not told what no block that is trained on has: a charge, and a third stem of sulphur
CHARGE = {"charge": 0.0}
UNKNOWN = {2: CHARGE | {"is_S": 0.0}}
#: what outlines an entry, in this order: its block,
OUTLINE = (
    "size", "weight", "rings", "aromatic_rings", "hetero", "halogens", "log_p", "surface", "donors",
    "acceptors", "charges", "rotatable", "strained",
)  # fmt: skip
#: and the atom by which it is attached
ATTACHED = ("carbon", "aromatic", "in_ring", "unsaturated", "polarity", "donation", "bulk", "open_stems")
#: of these, what tells how far apart two entries are
PLACED = (
    "size",
    "rings",
    "hetero",
    "log_p",
    "surface",
    "carbon",
    "aromatic",
    "unsaturated",
    "polarity",
    "donation",
    "bulk",
    "open_stems",
)
#: steps between slots, and between stems, as distances
STEP = 0.5


def outline(entries: Sequence[Entry]) -> dict[str, Tensor]:
    """What `OUTLINE` and `ATTACHED` name, of each entry: (E,) each."""
    rows = []
    for entry in entries:
        open_stems = {"open_stems": len(entry.stems) / STEMS}
        rows.append(outline_block(entry.block) | describe_atom(entry.block, entry.attachment) | open_stems)
    return {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in (*OUTLINE, *ATTACHED)
    }


def describe_entries(entries: Sequence[Entry]) -> Tensor:
    """What is told of each entry whatever the reward, (E, .)."""
    rows = []
    for entry in _counted(entries, "describe blocks"):
        block = entry.block
        attached = describe_atom(block, entry.attachment)
        row = [*outline_block(block).values(), *attached.values(), len(entry.stems) / STEMS]
        for number, stem in enumerate(entry.stems):
            row += [1.0, *(describe_atom(block, stem) | UNKNOWN.get(number, CHARGE)).values()]
        rows.append(row + [0.0] * (OPEN - len(entry.stems)) * (1 + len(attached)))
    return torch.tensor(rows, dtype=torch.float32)


def _counted(entries: Sequence[Entry], label: str) -> Iterator[Entry]:
    """The entries, with a bar that counts them."""
    with Progress.current().bar(label, len(entries)) as bar:
        for entry in entries:
            yield entry
            bar.advance()


class Descriptions:
    """Tables of what every input and action means, for one set of entries."""

    def __init__(
        self,
        entries: Sequence[Entry],
        trees: Trees,
        log_reward: Callable[[Tensor], Tensor],
        counted: Callable[[Tensor], Tensor] | None,
    ) -> None:
        """Describe entries; nothing is asked before `entries` are read.

        Args:
            entries: of the vocabulary.
            trees: over them.
            log_reward: beta times the log score of states, (B, 3N) -> (B,).
            counted: how many states are the molecule of each, (B, 3N) -> (B,), by which its reward is
                divided; None: it is not.
        """
        self._trees, self._log_reward, self._counted = trees, log_reward, counted
        self._make = partial(Landscape, entries, trees)
        self._entries = entries
        self.outline = outline(entries)
        self.placed = torch.stack([self.outline[name] for name in PLACED], dim=1)

    @cached_property
    def landscape(self) -> Landscape:
        """Trees that stand for all of the vocabulary."""
        return self._make()

    @cached_property
    def _known(self) -> Tensor:
        """What is told whatever the reward, (E, .)."""
        return torch.cat([describe_entries(self._entries), self.landscape.told()], dim=1)

    @cached_property
    def _log_counts(self) -> Tensor:
        states = self.landscape.states
        return torch.zeros(len(states)) if self._counted is None else self._counted(states).float().log()

    def told(self, log_rewards: Tensor, at_parts: Tensor) -> Tensor:
        """Everything that is told of each entry, (E, F).

        Args:
            log_rewards: of the landscape's trees, (B,).
            at_parts: of its parts, (E J,).
        """
        paid = log_rewards - self._log_counts
        best = paid.max()
        return torch.cat([self._known, self.landscape.tell(paid - best, at_parts - log_rewards.max())], dim=1)

    @cached_property
    def entries(self) -> Tensor:
        """Everything that is told of each entry, (E, F); the reward is asked `CALLS` times at most."""
        land, rng = self.landscape, torch.Generator().manual_seed(0)
        with Progress.current().bar("scores for the description", min(CALLS, len(land.x))) as bar:

            def log_reward(chosen: Tensor) -> Tensor:
                scored = self._log_reward(land.states[chosen])
                bar.set(bar.done + len(chosen))
                return scored

            found = ask(land, log_reward, rng)
        return self.told(found(land.x), found(land.parts))

    def made_up(self, rng: torch.Generator) -> tuple[Tensor, Expert] | None:
        """A made-up reward: what is told of each entry (E, F), and its expert.

        None where trees are too many to be listed, or too much alike.
        """
        land = self.landscape
        drawn = self._rehearsals.draw(rng) if land.listed else None
        if drawn is None:
            return None
        log_rewards, at_parts = drawn
        return self.told(log_rewards, at_parts), land.expert(cut(log_rewards) - self._log_counts)

    @cached_property
    def _rehearsals(self) -> Rehearsals:
        return Rehearsals(self.landscape)

    def inputs(self, entries: Tensor) -> Tensor:
        """The amounts of inputs (s, .): slot, what it is about, parent slot and stem, entry (E, F)."""
        return torch.cat([self._input(slot, about, entries, True) for slot, about in self._digits()])

    def input_coordinates(self) -> Tensor:
        """The coordinates of inputs (s, .): the same in fewer numbers."""
        return torch.cat([self._input(slot, about, self.placed, False) for slot, about in self._digits()])

    def actions(self, entries: Tensor) -> Tensor:
        """The amounts of actions (A, .): is exit, is the root's site, parent slot and stem, entry (E, F)."""
        return self._actions(entries, True)

    def action_coordinates(self) -> Tensor:
        """The coordinates of actions (A, .): the same in fewer numbers."""
        return self._actions(self.placed, False)

    def _digits(self) -> list[tuple[int, str]]:
        digits = [(0, "entry"), (1, "entry")]
        for slot in range(2, self._trees.n_slots):
            digits += [(slot, "entry"), (slot, "place")]
        return digits

    def _input(self, slot: int, about: str, table: Tensor, one_of: bool) -> Tensor:
        """The rows of one digit; the first says that the slot is empty."""
        if about == "entry":
            rows = torch.cat([torch.zeros_like(table[:1]), table])
            where = torch.zeros(len(rows), self._site(0, 0, one_of).shape[0])
        else:
            sites = self._sites(slot, one_of)
            where = torch.cat([torch.zeros_like(sites[:1]), sites])
            rows = torch.zeros(len(where), table.shape[1])
        empty = torch.zeros(len(rows), 1)
        empty[0] = 1.0
        kind = torch.tensor([[float(about == "entry"), float(about == "place")]]).expand(len(rows), -1)
        return torch.cat([self._slot(slot, one_of).expand(len(rows), -1), empty, kind, where, rows], dim=1)

    def _actions(self, table: Tensor, one_of: bool) -> Tensor:
        sites = torch.cat(
            [torch.zeros(1, self._site(0, 0, one_of).shape[0]), self._sites(self._trees.n_slots - 1, one_of)]
        )
        root = torch.zeros(len(sites), 1)
        root[0] = 1.0
        where = torch.cat([root, sites], dim=1).repeat_interleave(len(table), dim=0)
        rows = torch.cat([torch.zeros(len(where), 1), where, table.repeat(len(sites), 1)], dim=1)
        leave = torch.zeros_like(rows[:1])
        leave[0, 0] = 1.0
        return torch.cat([rows, leave])

    def _sites(self, before: int, one_of: bool) -> Tensor:
        """The stems of slots 1 to `before` - 1, a row each."""
        stems = [
            self._site(slot, stem, one_of) for slot in range(1, before) for stem in range(self._trees.n_stems)
        ]
        return torch.stack(stems) if stems else torch.zeros(0, self._site(0, 0, one_of).shape[0])

    def _site(self, slot: int, stem: int, one_of: bool) -> Tensor:
        return torch.cat(
            [self._slot(slot, one_of), torch.eye(OPEN)[stem] if one_of else torch.tensor([stem * STEP])]
        )

    def _slot(self, slot: int, one_of: bool) -> Tensor:
        """A slot as one of several and as an amount, or as a distance from the first."""
        return (
            torch.cat([torch.eye(MAX_SLOTS)[slot], torch.tensor([slot / SLOTS])])
            if one_of
            else torch.tensor([slot * STEP])
        )
