"""Trees of blocks as torchgfn states: which blocks can be added where, by a few tensor operations.

Knows nothing of chemistry.

A state is a row of N slots, (entry + 1, parent slot, parent stem) each, 0 where a slot is empty. Slots are in
preorder, children in the order of their stems, so a tree is one state in whatever order it was built. The
root is a leaf: it opens only the atom that it would be attached by, which halves the number of states a
molecule.

An action is a site and an entry, site * E + entry. Site 0 places the root, then the block that is joined to
it; site 1 + (p - 1) T + t joins a block to stem t of the block in slot p. The last action is exit, allowed
from two blocks on, or from as many as are asked for; then no block is joined after which they would be out of
reach. The action that removes a leaf has the same number as the one that adds it.

Shapes: N slots, E entries, T stems of a slot, A = (1 + (N-2) T) E + 1 actions, P = 2N - 2 digits of a
state, s inputs.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from genflow import StateGraph

from .counting import Counts

ENTRY, PARENT, STEM = range(3)


class Trees:
    """All trees of two to N blocks whose joints fit.

    Attributes:
        n_slots: N.
        min_blocks: the least blocks of a finished tree, 2 to N.
        fits: (E, T, E) bool: whether an entry can be joined to a stem of another; False for stems that an
            entry lacks.
        fits_root: (E, E) bool: whether an entry can be joined to the attachment atom of another.
    """

    def __init__(self, n_slots: int, fits: Tensor, fits_root: Tensor, min_blocks: int = 2) -> None:
        self.n_slots, self.min_blocks = n_slots, min_blocks
        self.n_entries, self.n_stems = fits.shape[:2]
        self.n_sites = 1 + (n_slots - 2) * self.n_stems
        self.n_actions = self.n_sites * self.n_entries + 1
        self.fits, self.fits_root = fits, fits_root
        # what an entry + 1 allows: a row of nothing for an empty slot
        self._joins = torch.cat([torch.zeros_like(fits[:1]), fits]).reshape(self.n_entries + 1, -1)
        self._grown, self._open = self._growth()
        # by the same rule for site 0: the root of an empty tree, if something fits it, then what fits the
        # root; both only if they can grow to enough blocks
        enough = fits_root & (1 + self._grown >= min_blocks)
        self._first = torch.cat([enough.any(1)[None], enough])
        self.radices = self._radices()

    def _growth(self) -> tuple[Tensor, Tensor]:
        """How many blocks can hang together, up to `min_blocks`.

        Returns:
            (E,) an entry with all that its stems can bear; (E + 1, T) what a stem can bear, by entry + 1.
        """
        sets, which = self.fits.flatten(0, 1).unique(dim=0, return_inverse=True)
        grown = torch.ones(self.n_entries, dtype=torch.long, device=self.fits.device)
        for _ in range(self.min_blocks):
            bears = (sets * grown).amax(1)[which].unflatten(0, (self.n_entries, self.n_stems))
            grown = (1 + bears.sum(1)).clamp(max=self.min_blocks)
        return grown, torch.cat([torch.zeros_like(bears[:1]), bears])

    @property
    def possible(self) -> bool:
        """Whether there is a finished tree."""
        return bool(self._first[0].any())

    def _radices(self) -> tuple[int, ...]:
        """How many values each digit has: entries of two slots, then entry and place of each further one."""
        radices = [self.n_entries + 1] * 2
        for slot in range(2, self.n_slots):
            radices += [self.n_entries + 1, 1 + (slot - 1) * self.n_stems]
        return tuple(radices)

    def to(self, device: torch.device) -> Trees:
        """The same on a device."""
        return (
            self
            if self.fits.device == device
            else Trees(self.n_slots, self.fits.to(device), self.fits_root.to(device), self.min_blocks)
        )

    @cached_property
    def start(self) -> Tensor:
        """The state without a block, (3N,)."""
        return torch.zeros(3 * self.n_slots, dtype=torch.long, device=self.fits.device)

    def slots(self, states: Tensor) -> Tensor:
        """The slots of states, (..., 3N) -> (..., N, 3); torchgfn's sink is the empty tree."""
        return states.clamp(min=0).unflatten(-1, (self.n_slots, 3))

    def _used(self, slots: Tensor) -> Tensor:
        """Which stems of slots 1 to N-2 bear a block: (..., N, 3) -> (..., N-2, T) bool."""
        later = slots[..., 2:, :]
        # an empty slot claims an extra place, which is dropped
        place = torch.where(
            later[..., ENTRY] > 0,
            (later[..., PARENT] - 1) * self.n_stems + later[..., STEM],
            self.n_sites - 1,
        )
        used = torch.zeros(*place.shape[:-1], self.n_sites, dtype=torch.bool, device=slots.device)
        return used.scatter_(-1, place, True)[..., :-1].unflatten(-1, (self.n_slots - 2, self.n_stems))

    def forward_masks(self, states: Tensor) -> Tensor:
        """Which actions are allowed: (..., 3N) -> (..., A) bool."""
        slots = self.slots(states)
        count = (slots[..., ENTRY] > 0).sum(-1)
        masks = torch.zeros(*count.shape, self.n_actions, dtype=torch.bool, device=states.device)
        early, growing = (count < 2)[..., None], ((count >= 2) & (count < self.n_slots))[..., None]
        sites = masks[..., :-1].unflatten(-1, (self.n_sites, self.n_entries))
        sites[..., 0, :] = self._first[slots[..., 0, ENTRY]] & early
        if self.n_slots > 2:
            joins = self._joins[slots[..., 1:-1, ENTRY]].unflatten(-1, (self.n_stems, self.n_entries))
            used = self._used(slots)
            allowed = joins & (~used & growing[..., None])[..., None]
            if self.min_blocks > 2:
                # a block takes the room of its stem, and brings its own
                room = self._open[slots[..., 1:-1, ENTRY]].masked_fill(used, 0)
                needed = self.min_blocks - count - room.sum((-2, -1))
                allowed &= self._grown >= (needed[..., None, None] + room)[..., None]
            sites[..., 1:, :] = allowed.flatten(-3, -2)
        masks[..., -1] = count >= self.min_blocks
        return masks

    def _leaves(self, slots: Tensor) -> Tensor:
        """Which blocks can be removed: (..., N, 3) -> (..., N) bool; the root only when it is alone."""
        leaves = slots[..., ENTRY] > 0
        alone = leaves.sum(-1) == 1
        leaves[..., 0] &= alone
        if self.n_slots > 2:
            leaves[..., 1:-1] &= ~self._used(slots).any(-1)
        return leaves

    def n_parents(self, states: Tensor) -> Tensor:
        """How many blocks can be removed: (..., 3N) -> (...)."""
        return self._leaves(self.slots(states)).sum(-1)

    def backward_masks(self, states: Tensor) -> Tensor:
        """Which actions can have been the last: (..., 3N) -> (..., A-1) bool."""
        slots = self.slots(states)
        entry, parent, stem = slots.unbind(-1)
        site = torch.where(parent > 0, 1 + (parent - 1) * self.n_stems + stem, 0)
        actions = torch.where(self._leaves(slots), site * self.n_entries + entry - 1, self.n_actions - 1)
        masks = torch.zeros(*states.shape[:-1], self.n_actions, dtype=torch.bool, device=states.device)
        return masks.scatter_(-1, actions, True)[..., :-1]

    def _place(self, slots: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What an action adds: entry + 1, parent slot, stem, and the slot that it gets; (...) each."""
        site, entry = actions // self.n_entries, actions % self.n_entries + 1
        parent = torch.where(site > 0, 1 + (site - 1) // self.n_stems, 0)
        stem = torch.where(site > 0, (site - 1) % self.n_stems, 0)
        own = slots[..., PARENT] - parent[..., None]
        # the first slot behind the parent that is not of its subtree, or hangs from it by the same or a later
        # stem
        behind = torch.arange(self.n_slots, device=slots.device) > parent[..., None]
        ends = (slots[..., ENTRY] == 0) | (own < 0) | ((own == 0) & (slots[..., STEM] >= stem[..., None]))
        # only the empty tree has room before slot 1
        slot = torch.where(slots[..., 0, ENTRY] > 0, (behind & ends).byte().argmax(-1), 0)
        return entry, parent, stem, slot

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """States (..., 3N) after allowed actions (...); exit leaves a state as it is."""
        slots = self.slots(states)
        entry, parent, stem, slot = self._place(slots, actions)
        place = torch.arange(self.n_slots, device=states.device).expand(slots.shape[:-1])
        added = place == slot[..., None]
        # a slot from here on moves on by one, and its children know it by its new number
        moved = slots.gather(-2, (place - (place > slot[..., None]).long())[..., None].expand_as(slots))
        moved[..., PARENT] += moved[..., PARENT] >= slot[..., None].clamp(min=1)
        block = torch.stack([entry, parent, stem], dim=-1)[..., None, :]
        stepped = torch.where(added[..., None], block, moved).flatten(-2)
        return torch.where((actions == self.n_actions - 1)[..., None], states, stepped)

    def backward_step(self, states: Tensor, actions: Tensor) -> Tensor:
        """States (..., 3N) before allowed actions (...) other than exit."""
        slots = self.slots(states)
        slot = self._place(slots, actions)[-1]
        slot = torch.where((slots[..., ENTRY] > 0).sum(-1) > 1, slot, 0)[..., None]
        rest = torch.cat([slots, torch.zeros_like(slots[..., :1, :])], dim=-2)
        place = torch.arange(self.n_slots, device=states.device).expand(slots.shape[:-1])
        moved = rest.gather(-2, (place + (place >= slot).long())[..., None].expand_as(slots))
        moved[..., PARENT] -= (moved[..., PARENT] > slot).long()
        return moved.flatten(-2)

    def digits(self, states: Tensor) -> Tensor:
        """The digits of states, (..., 3N) -> (..., P), each below its radix; ordered as states are."""
        slots = self.slots(states)
        entry, parent, stem = slots[..., 2:, :].unbind(-1)
        place = torch.where(entry > 0, 1 + (parent - 1) * self.n_stems + stem, 0)
        return torch.cat([slots[..., :2, ENTRY], torch.stack([entry, place], dim=-1).flatten(-2)], dim=-1)

    @cached_property
    def places(self) -> Tensor | None:
        """What each digit counts in the number of a state, (P,); None: the numbers do not fit 64 bits."""
        if math.prod(self.radices) >= 2**63:
            return None
        return torch.tensor(
            [math.prod(self.radices[i + 1 :]) for i in range(len(self.radices))], device=self.fits.device
        )

    @cached_property
    def offsets(self) -> Tensor:
        """The first one-hot input of each digit, (P,)."""
        return torch.tensor(
            [sum(self.radices[:i]) for i in range(len(self.radices))], device=self.fits.device
        )

    def one_hot_indices(self, states: Tensor) -> Tensor:
        """The one-hot input of each digit that is 1: (..., 3N) -> (..., P) int64."""
        return self.digits(states) + self.offsets

    def one_hot(self, states: Tensor, dtype: torch.dtype) -> Tensor:
        """The one-hot inputs of states: (..., 3N) -> (..., s)."""
        indices = self.one_hot_indices(states)
        zeros = torch.zeros(*indices.shape[:-1], sum(self.radices), dtype=dtype, device=states.device)
        return zeros.scatter_(-1, indices, 1.0)

    def indices(self, states: Tensor) -> Tensor | None:
        """The numbers of states, (..., 3N) -> (...) int64, where all fit 64 bits."""
        return None if self.places is None else (self.digits(states) * self.places).sum(-1)

    @cached_property
    def _counts(self) -> Counts:
        return Counts(
            self.fits.cpu(), self.fits_root.cpu(), self._open[1:].cpu(), self.min_blocks, self.n_slots
        )

    def count_states(self) -> int:
        """How many states there are, exactly: the empty tree, roots, and trees of two blocks and more."""
        return 1 + int(self._first[0].sum()) + self._counts.trees()

    def mean_choices(self) -> float:
        """How many blocks can be joined to a tree of `min_blocks` blocks, on average."""
        return self._counts.mean_choices(self.min_blocks)

    def graph(self) -> StateGraph:
        """Every state, level by level; torchgfn's order, in which the states of a level are sorted as rows.

        Only for trees whose numbers fit 64 bits.
        """
        level = self.start[None]
        states, children, can_exit, levels = [], [], [], []
        first = 0
        while len(level):
            masks = self.forward_masks(level)
            table = torch.full((len(level), self.n_actions - 1), -1, dtype=torch.int32)
            rows, actions = masks[:, :-1].nonzero(as_tuple=True)
            following = self.step(level[rows], actions)
            keys = self.indices(following)
            assert keys is not None
            unique, inverse = keys.unique(return_inverse=True)
            states.append(level)
            can_exit.append(masks[:, -1])
            levels.append(torch.arange(first, first + len(level)))
            first += len(level)
            table[rows, actions] = (first + inverse).int()
            children.append(table)
            # the same state from several parents, written once
            level = level.new_empty(len(unique), level.shape[1]).index_copy_(0, inverse, following)
        return StateGraph(torch.cat(states), torch.cat(children), torch.cat(can_exit), tuple(levels))
