"""Trees of a vocabulary that stand for all of them, and what a reward on them says of each entry.

Shapes: B trees of N slots, E entries, P properties, J parts, Q amounts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, cached_property

import torch
from rdkit import Chem
from torch import Tensor

from genflow import Expert, interrupts_for_python, optimal_flows

from .additive import AT, SPREADS, UNITS, Sums, amounts, kind, properties, site_of
from .drawn_trees import DrawnTrees
from .regression import CUT, above_cut
from .trees import ENTRY, Trees
from .vocabulary import Entry

#: up to so many trees are all listed
LISTED = 30_000
#: SMILES of parts of molecules that every entry is joined to in thought, and the atom that bears the bond:
#: from a methyl group to two blocks or three, greasy and polar, by carbon and by hetero atoms
PARTS = (
    ("C", 0), ("c1ccccc1", 0), ("NC=O", 1), ("C1CCNCC1", 0), ("CC(C)C", 1), ("C=O", 0), ("CCCCCC", 0),
    ("OCCO", 1), ("OC(=O)CC", 4), ("COc1ccccc1", 5), ("Clc1ccc(Cl)cc1", 2), ("O=[N+]([O-])c1ccccc1", 6),
    ("O=C1CSC(=S)N1", 2), ("c1ccc2ccccc2c1", 0), ("c1ccc2[nH]ccc2c1", 0), ("c1ccc(-c2ccncc2)cc1", 0),
    ("CC(=O)Nc1ccccc1", 7), ("O=C(Nc1ccccc1)c1ccccc1", 12), ("CCN(CC)S(=O)(=O)c1ccc(C)cc1", 0),
    ("CN1CCN(c2ccccc2)CC1", 8), ("CNC", 1), ("Nc1ccccc1", 0), ("CO", 1), ("Oc1ccccc1", 0),
    ("O=C(O)c1ccccc1", 5), ("CCOC(=O)c1ccc(N)cc1", 9), ("Fc1ccc(C(F)(F)F)cc1", 2), ("N#Cc1ccccc1", 4),
    ("CCCCCCCCc1ccccc1", 10), ("C1CCC2CCCCC2C1", 0), ("OC1CCC(O)C(O)C1", 2), ("NC(=O)CNC(=O)CN", 4),
    ("O=c1[nH]c(=O)c2ccccc2[nH]1", 6), ("c1ccc(-c2nnc(-c3ccccc3)o2)cc1", 1),
    ("CC(C)(C)c1ccc(O)c(C(C)(C)C)c1", 6), ("O=S(=O)(Nc1ccccn1)c1ccccc1", 12),
    ("COc1cc(C=CC(=O)N2CCCCC2)ccc1O", 3), ("Clc1ccc(C(c2ccccc2)N2CCNCC2)cc1", 17),
    ("O=C(NCCc1c[nH]c2ccccc12)c1ccccc1", 17), ("CN(C)CCCN1c2ccccc2Sc2ccccc21", 9),
)  # fmt: skip
#: what of the rest of a tree is told beside an entry
REST = (
    "heavy", "log_p", "surface", "donors", "acceptors", "rotatable", "aromatic_rings", "sp3_carbons",
    "hetero", "stereo", "alerts", "sa_atoms",
)  # fmt: skip
#: nats are told in these units
NATS = 4.0


@cache
@interrupts_for_python()  # what RDKit finds when it is interrupted is not kept
def _parts() -> tuple[Tensor, Tensor, Tensor]:
    """The amounts (J, Q) of the parts, what a bond to each kind adds (J, K, Q), and their own kinds (J,)."""
    mols = [(Chem.MolFromSmiles(smiles), atom) for smiles, atom in PARTS]
    return (
        torch.stack([amounts(mol) for mol, _ in mols]),
        torch.stack([site_of(mol, atom) for mol, atom in mols]),
        torch.tensor([kind(mol.GetAtomWithIdx(atom)) for mol, atom in mols]),
    )


class Landscape:
    """Trees that stand for all of a vocabulary.

    Attributes:
        listed: whether these are all, in the order of the graph.
        states: (B, 3N).
        weights: how many states each stands for, but for a factor, (B,).
        found: properties, (B, P).
        x: the same, standardised.
        parts: the same of each entry joined to each part, (E J, P).
    """

    def __init__(self, entries: Sequence[Entry], trees: Trees) -> None:
        """List or draw trees over the entries of a vocabulary."""
        self.sums, self._trees = Sums(entries, trees.n_stems), trees
        self.listed = trees.count_states() <= LISTED
        if self.listed:
            self._graph = trees.graph()
            states = self._graph.states[self._graph.can_exit]
            weights = torch.ones(len(states))
        else:
            self._drawn = DrawnTrees(trees)
            states, weights = self._drawn.states, self._drawn.weights
        self._amounts = self.sums.of(trees.slots(states))
        found = properties(self._amounts)
        self._mean = (weights @ found) / weights.sum()
        spread = ((weights @ (found - self._mean).square()) / weights.sum()).sqrt()
        self._spread = spread + 0.05 * torch.tensor(SPREADS)
        self.parts = ((properties(self._with_parts()) - self._mean) / self._spread).flatten(0, 1)
        self._take(states, weights)

    def _take(self, states: Tensor, weights: Tensor) -> None:
        """Measure trees, those that are there already in front."""
        self.states, self.weights = states, weights
        slots = self._trees.slots(states)
        new = self.sums.of(slots[len(self._amounts) :])
        self._amounts = torch.cat([self._amounts, new])
        self.found = properties(self._amounts)
        self.x = (self.found - self._mean) / self._spread
        self._number = slots[..., ENTRY]
        self._rest = self._rest_of_trees()

    def follow(self, log_rewards: Tensor) -> None:
        """Draw more trees where log rewards (B,), in nats, are high, behind those that are there.

        Nothing is done where all are listed.
        """
        if not self.listed:
            self._drawn.follow(log_rewards)
            self._take(self._drawn.states, self._drawn.weights)

    def _with_parts(self) -> Tensor:
        """The amounts of each entry joined to each part, (E, J, Q)."""
        parts, bonds, kinds = _parts()
        return self.sums.joined(parts, bonds, kinds)

    def _rest_of_trees(self) -> Tensor:
        """By slot, what the rest of the tree has of `REST`, (B, N, R)."""
        columns = [AT[name] for name in REST]
        units = torch.tensor([UNITS[column] for column in columns])
        own = self.sums.blocks[(self._number - 1).clamp(min=0)][..., columns]
        return (self._amounts[:, None, columns] - own) / units

    def tell(self, log_rewards: Tensor, at_parts: Tensor) -> Tensor:
        """What a reward says of each entry.

        Args:
            log_rewards: of the trees, in nats relative to the best, (B,).
            at_parts: the same for `parts`, (E J,).

        Returns:
            (E, .): by role (root, second block, later): how probable the entry is, relative to a uniform
            choice and in all, and the mean and spread of what else the tree has; the parts; how rare good
            trees are.
        """
        log_rewards = log_rewards.clamp(-CUT, 0)
        paid = self.weights * (log_rewards.exp() if self.listed else above_cut(log_rewards))
        # good trees are told as no rarer than they can be where all are listed
        paid *= (self.weights.sum() * math.exp(-CUT) / paid.sum()).clamp(min=1)
        rare = (paid.sum() / self.weights.sum()).log()
        number, rest = self._number, self._rest
        n_entries, n_slots = self.n_entries, number.shape[1]
        columns = []
        for slots in ([0], [1], list(range(2, n_slots))):
            index = number[:, slots].flatten()
            values = rest[:, slots].flatten(0, 1)
            rows = torch.cat([torch.ones_like(values[:, :1]), values, values.square()], dim=1)
            weight = paid[:, None].expand(-1, len(slots)).flatten()
            count = self.weights[:, None].expand(-1, len(slots)).flatten()
            share = torch.zeros(n_entries + 1, rows.shape[1]).index_add_(0, index, rows * weight[:, None])[1:]
            there = torch.zeros(n_entries + 1).index_add_(0, index, count)[1:]
            mass, n_rest = share[:, 0], len(REST)
            mean = share[:, 1 : 1 + n_rest] / (mass[:, None] + 1e-9)
            square = share[:, 1 + n_rest :] / (mass[:, None] + 1e-9)
            worth = (((mass + 1e-6) / (there + 1e-3)).log() - rare).clamp(-CUT, CUT)
            in_all = ((mass + 1e-9) / paid.sum()).log().clamp(-CUT, 0)
            columns += [
                worth[:, None] / NATS,
                in_all[:, None] / NATS,
                mean,
                (square - mean.square()).clamp(min=0).sqrt(),
            ]
        parts = at_parts.clamp(-CUT, 2).unflatten(0, (n_entries, -1)) / NATS
        return torch.cat([*columns, parts, (rare / NATS).expand(n_entries, 1)], dim=1)

    @cached_property
    def _choices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers, states and allowed actions of the states in which there is a choice."""
        masks: Tensor = self._graph.mask(torch.arange(len(self._graph.states)))
        places = (masks.sum(1) > 1).nonzero().flatten()
        return places, self._graph.states[places], masks[places]

    def expert(self, log_rewards: Tensor) -> Expert:
        """The optimal policy, where trees are listed, of log R (B,), in the states that leave a choice."""
        graph = self._graph
        log_reward = torch.full((len(graph.states),), -torch.inf, dtype=torch.float64)
        log_reward[graph.can_exit] = log_rewards.double()
        flows = optimal_flows(graph, log_reward)
        places, states, masks = self._choices
        return Expert(states, flows.policy[places].float(), masks, flows.visit[places])

    @property
    def n_entries(self) -> int:
        """E."""
        return len(self.sums.blocks)

    def mean_of(self, values: Tensor) -> Tensor:
        """The mean over each tree's blocks of values of entries (E,): (B,)."""
        known = torch.cat([values.new_zeros(1), values])[self._number]
        return known.sum(1) / (self._number > 0).sum(1).clamp(min=1)

    def told(self) -> Tensor:
        """What needs no reward: the amounts of each entry, and of a bond to an aromatic atom, (E, .)."""
        units = torch.tensor(UNITS)
        return torch.cat([self.sums.blocks / units, self.sums.attached[:, 1] / units], dim=1)
