"""Trees that stand for all where too many are to be listed: drawn by size, and where rewards are high.

Trees of a size are drawn by the product of weights of their entries, all alike at first. The sums follow the
generating function of `counting`: of the trees below an entry, each stem bears none or those below an entry
that fits there. Those that several sets of weights draw stand for all together, as in adaptive multiple
importance sampling (Cornuet, Marin, Mira and Robert 2012).

Shapes: E entries, T stems of a slot, N slots, B trees.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .regression import above_cut, cut
from .trees import ENTRY, Trees

#: how many trees are drawn, alike, and each time that a reward is followed
EVENLY, FOLLOWING = 8_000, 4_000
#: of those that follow a reward, the share that sizes get alike
ALIKE = 0.5
#: how much more trees of high rewards count when weights are fitted to them, and the ridge
SHARP, RIDGE = 0.6, 1e-4


class DrawnTrees:
    """Distinct trees, and how many each stands for.

    Attributes:
        states: (B, 3N); more are added behind.
        weights: how many states each stands for, but for a factor, of mean 1, (B,).
    """

    def __init__(self, trees: Trees) -> None:
        """Draw trees of all sizes alike."""
        self._trees, self._rng = trees, torch.Generator().manual_seed(0)
        self.states = torch.zeros(0, 3 * trees.n_slots, dtype=torch.long)
        self._proposals: list[tuple[Proposal, Tensor]] = []
        even = Proposal(trees, torch.zeros(trees.n_entries))
        self._sizes = (even.totals > 0).nonzero().flatten()
        self._add(even, torch.full((len(self._sizes),), 1 / len(self._sizes)) * EVENLY)

    def follow(self, log_rewards: Tensor) -> None:
        """Draw more trees by weights of entries that fit log rewards (B,), in nats."""
        log_rewards = cut(log_rewards).double()
        counts, size = self._counts(self.states), self._blocks(self.states)
        there = size[:, None] == self._sizes
        mass = self.weights * above_cut(log_rewards)
        mass = (mass[:, None] * there).sum(0) / mass.sum()
        rows = torch.cat([counts, there], dim=1).double()
        worth = (SHARP * log_rewards).exp()
        worth /= (there * (worth @ there.double())).sum(1)
        ridge = RIDGE * torch.eye(rows.shape[1], dtype=torch.float64)
        fitted = torch.linalg.solve(rows.T @ (worth[:, None] * rows) + ridge, rows.T @ (worth * log_rewards))
        share = ALIKE / len(self._sizes) + (1 - ALIKE) * mass
        self._add(Proposal(self._trees, fitted[: self._trees.n_entries]), share * FOLLOWING)

    def _add(self, proposal: Proposal, numbers: Tensor) -> None:
        """Draw so many trees of each size, and keep those that are new."""
        numbers = numbers.round().long()
        self._proposals.append((proposal, numbers))
        new = [
            proposal.draw(int(size), int(number), self._rng)
            for size, number in zip(self._sizes, numbers, strict=True)
        ]
        states = torch.cat([self.states, *new])
        distinct, which = states.unique(dim=0, return_inverse=True)
        first = torch.full((len(distinct),), len(states))
        first.scatter_reduce_(0, which, torch.arange(len(states)), "amin")
        self.states = states[first.sort().values]
        self.weights = self._weigh().float()

    def _weigh(self) -> Tensor:
        """One over how likely each was to be drawn at all (Horvitz and Thompson 1952), (B,)."""
        counts, blocks = self._counts(self.states).double(), self._blocks(self.states)
        size = torch.searchsorted(self._sizes, blocks)
        missed = torch.zeros(len(size), dtype=torch.float64)
        for proposal, numbers in self._proposals:
            share = (counts @ proposal.log_weights - proposal.totals[blocks].log()).exp()
            missed += torch.special.xlog1py(numbers[size].double(), -share.clamp(max=1))
        weights = -1 / missed.expm1()
        return weights / weights.mean()

    def _blocks(self, states: Tensor) -> Tensor:
        """How many blocks trees have, (B,)."""
        return (self._trees.slots(states)[..., ENTRY] > 0).sum(-1)

    def _counts(self, states: Tensor) -> Tensor:
        """How often trees have each entry, (B, E)."""
        number = self._trees.slots(states)[..., ENTRY]
        counts = torch.zeros(len(states), self._trees.n_entries + 1)
        return counts.scatter_add_(1, number, torch.ones(number.shape))[:, 1:]


class Proposal:
    """Draws finished trees of a size, each with the product of its entries' weights.

    Attributes:
        log_weights: (E,).
        totals: the sum of those products over all trees of so many blocks, (N + 1,); 0 for sizes that no
            finished tree has.
    """

    def __init__(self, trees: Trees, log_weights: Tensor) -> None:
        """Sum."""
        self._trees, self.log_weights = trees, log_weights.double()
        weights = self.log_weights.exp()[:, None]
        n, stems = trees.n_slots, trees.n_stems
        self._fits, self._fits_root = trees.fits.double(), trees.fits_root.double()
        # by blocks: trees below an entry (E, N), and what each stem bears (E, T, N), none counting as one way
        self._below = torch.zeros(trees.n_entries, n, dtype=torch.float64)
        self._below[:, 1:2] = weights
        for _ in range(n - 2):
            borne = torch.einsum("etd,dn->etn", self._fits, self._below)
            borne[..., 0] = 1
            # ways to share blocks out among a stem and those after it, (E, T + 1, N)
            shared = torch.zeros(trees.n_entries, stems + 1, n, dtype=torch.float64)
            shared[:, stems, 0] = 1
            for stem in reversed(range(stems)):
                for own in range(n):
                    rest = shared[:, stem + 1, : n - own]
                    shared[:, stem, own:] += borne[:, stem, own : own + 1] * rest
            self._borne, self._shared = borne, shared
            self._below = weights * torch.cat([torch.zeros_like(shared[:, 0, :1]), shared[:, 0, :-1]], dim=1)
        self._pairs = weights * (self._fits_root @ self._below)
        self.totals = torch.cat([torch.zeros(1, dtype=torch.float64), self._pairs.sum(0)])
        self.totals[: trees.min_blocks] = 0

    def draw(self, size: int, count: int, rng: torch.Generator) -> Tensor:
        """Trees of so many blocks, drawn with replacement: (count, 3N).

        Raises:
            RuntimeError: there is no tree of that size.
        """
        trees = self._trees
        slots = torch.zeros(count, trees.n_slots, 3, dtype=torch.long)
        rows = torch.arange(count)

        def choose(weights: Tensor) -> Tensor:
            return torch.multinomial(weights, 1, generator=rng)[:, 0]

        root = torch.multinomial(self._pairs[:, size - 1], count, replacement=True, generator=rng)
        slots[:, 0, ENTRY] = root + 1
        entry = choose(self._fits_root[root] * self._below[:, size - 1])
        slots[:, 1, ENTRY] = entry + 1
        # how many blocks each stem of each slot still bears
        pending = torch.zeros(count, trees.n_slots, trees.n_stems, dtype=torch.long)
        left, slot = torch.full((count,), size - 2), 1
        while True:
            for stem in range(trees.n_stems if size > 2 else 0):
                own = torch.arange(trees.n_slots).expand(count, -1)
                rest = (left[:, None] - own).clamp(min=0)
                ways = self._borne[entry, stem] * self._shared[entry, stem + 1].gather(1, rest)
                pending[:, slot, stem] = choose(ways * (own <= left[:, None]))
                left = left - pending[:, slot, stem]
            slot += 1
            if slot == size:
                return slots.flatten(1)
            # preorder: the next block hangs from the last slot that waits for one, by its first such stem
            waits = pending > 0
            above = waits.any(2).byte().mul(torch.arange(1, trees.n_slots + 1)).argmax(1)
            place = rows, above, waits[rows, above].byte().argmax(1)
            blocks, pending[place] = pending[place], 0
            fits = self._fits[slots[rows, above, ENTRY] - 1, place[2]]
            entry = choose(fits * self._below[:, blocks].T)
            slots[:, slot] = torch.stack([entry + 1, *place[1:]], dim=1)
            left = blocks - 1
