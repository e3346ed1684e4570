"""A genetic algorithm on trees of blocks, after Jensen's on molecular graphs.

Jensen, "A graph-based genetic algorithm and generative model/Monte Carlo tree search for the exploration of
chemical space", Chemical Science 10 (2019), 3567-3572. Parents are drawn in proportion to their score, a
child is a crossover of two, here a swap of subtrees, and at times mutated, here a block that is replaced,
attached or removed; the best of the old and the new are the next generation. Every tree obeys the rules of
the environment, so every child is a molecule.

Shapes: B states, N slots.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from genflow_molecule.trees import Trees
from reward_budget import Ledger, ask
from torch import Tensor

from genflow import Structure

#: generations without a new molecule after which the algorithm gives up
PATIENCE = 100


@dataclass
class Node:
    """An entry and what hangs from its stems."""

    entry: int
    children: dict[int, Node] = field(default_factory=dict)

    def copy(self) -> Node:
        """The same subtree."""
        return Node(self.entry, {stem: child.copy() for stem, child in self.children.items()})

    def size(self) -> int:
        """Its blocks."""
        return 1 + sum(child.size() for child in self.children.values())


@dataclass
class Tree:
    """A whole tree: the entry of the root, which is a leaf, and the block that it bears."""

    root: int
    top: Node

    def copy(self) -> Tree:
        """The same tree."""
        return Tree(self.root, self.top.copy())

    def size(self) -> int:
        """Its blocks."""
        return 1 + self.top.size()

    def places(self) -> list[tuple[Node | None, int, Node]]:
        """Every block but the root: the one that bears it, by which stem, and itself; None is the root."""
        found: list[tuple[Node | None, int, Node]] = [(None, 0, self.top)]
        for _, _, node in found:
            found += [(node, stem, child) for stem, child in node.children.items()]
        return found

    def put(self, bearer: Node | None, stem: int, node: Node) -> None:
        """Hang a block where another one is or none."""
        if bearer is None:
            self.top = node
        else:
            bearer.children[stem] = node


class Genetics:
    """The operators on the trees of one environment."""

    def __init__(self, trees: Trees, rng: random.Random) -> None:
        self._rng, self._most = rng, trees.n_slots
        #: entries that can be joined to each stem of each entry, and to each root
        self._fits = [[set(stem.nonzero()[:, 0].tolist()) for stem in entry] for entry in trees.fits]
        self._fits_root = [set(row.nonzero()[:, 0].tolist()) for row in trees.fits_root]
        self._entries = range(trees.n_entries)

    def read(self, state: Sequence[int]) -> Tree:
        """The tree of a state of 3N numbers."""
        slots = [state[at : at + 3] for at in range(0, len(state), 3) if state[at] > 0]
        nodes = [Node(entry - 1) for entry, _, _ in slots]
        for node, (_, parent, stem) in zip(nodes[2:], slots[2:], strict=True):
            nodes[parent].children[stem] = node
        return Tree(nodes[0].entry, nodes[1])

    def write(self, tree: Tree) -> list[int]:
        """The state of a tree: slots in preorder, children in the order of their stems."""
        slots = [(tree.root + 1, 0, 0)]

        def add(node: Node, parent: int, stem: int) -> None:
            own = len(slots)
            slots.append((node.entry + 1, parent, stem))
            for place, child in sorted(node.children.items()):
                add(child, own, place)

        add(tree.top, 0, 0)
        return [number for slot in slots for number in slot] + [0] * (3 * (self._most - len(slots)))

    def _allowed(self, tree: Tree, bearer: Node | None, stem: int) -> set[int]:
        """Entries that fit a place."""
        return self._fits_root[tree.root] if bearer is None else self._fits[bearer.entry][stem]

    def crossover(self, one: Tree, other: Tree) -> Tree | None:
        """The first tree with a subtree of the second in the place of one of its own; None: nothing fits."""
        child = one.copy()
        places, grafts = child.places(), other.places()
        self._rng.shuffle(places)
        self._rng.shuffle(grafts)
        for bearer, stem, old in places:
            room, allowed = self._most - child.size() + old.size(), self._allowed(child, bearer, stem)
            for _, _, graft in grafts:
                if graft.entry in allowed and graft.size() <= room:
                    child.put(bearer, stem, graft.copy())
                    return child
        return None

    def mutate(self, tree: Tree) -> Tree | None:
        """The tree with a block replaced, attached or removed; None: what was drawn is not possible."""
        change = self._rng.choice([self._replace, self._replace_root, self._attach, self._remove])
        return change(tree.copy())

    def _replace(self, tree: Tree) -> Tree | None:
        bearer, stem, node = self._rng.choice(tree.places())
        others = sorted(self._allowed(tree, bearer, stem) - {node.entry})
        return self._renew(tree, bearer, stem, node, others)

    def _renew(
        self, tree: Tree, bearer: Node | None, stem: int, node: Node, others: list[int]
    ) -> Tree | None:
        """Replace a block by one of some entries that has stems for all that hangs from it."""
        self._rng.shuffle(others)
        for entry in others:
            children = self._rehung(entry, list(node.children.values()))
            if children is not None:
                tree.put(bearer, stem, Node(entry, children))
                return tree
        return None

    def _rehung(self, entry: int, children: list[Node]) -> dict[int, Node] | None:
        """Children on stems of another entry, as they come; None: they do not fit."""
        stems = list(range(len(self._fits[entry])))
        self._rng.shuffle(stems)
        hung: dict[int, Node] = {}
        for child in children:
            stem = next((s for s in stems if s not in hung and child.entry in self._fits[entry][s]), None)
            if stem is None:
                return None
            hung[stem] = child
        return hung

    def _replace_root(self, tree: Tree) -> Tree | None:
        others = [e for e in self._entries if e != tree.root and tree.top.entry in self._fits_root[e]]
        if not others:
            return None
        return Tree(self._rng.choice(others), tree.top)

    def _attach(self, tree: Tree) -> Tree | None:
        if tree.size() >= self._most:
            return None
        open_stems = [
            (node, stem)
            for _, _, node in tree.places()
            for stem, fitting in enumerate(self._fits[node.entry])
            if fitting and stem not in node.children
        ]
        if not open_stems:
            return None
        node, stem = self._rng.choice(open_stems)
        node.children[stem] = Node(self._rng.choice(sorted(self._fits[node.entry][stem])))
        return tree

    def _remove(self, tree: Tree) -> Tree | None:
        leaves = [(b, s) for b, s, node in tree.places() if b is not None and not node.children]
        if not leaves:
            return None
        bearer, stem = self._rng.choice(leaves)
        del bearer.children[stem]
        return tree

    def child(self, draw: Callable[[], Tree], rate: float) -> Tree:
        """A child of two parents that are drawn; mutated at a rate, and where they cannot be crossed."""
        while True:
            one = draw()
            child = self.crossover(one, draw())
            if child is None or self._rng.random() < rate:
                child = self.mutate(child or one)
            if child is not None:
                return child


@dataclass(frozen=True)
class GeneticOptions:
    """Of the genetic algorithm; the defaults but `mutation` are PMO's for Jensen's.

    Attributes:
        population: the trees of a generation.
        offspring: children of each.
        mutation: the share of the children that are mutated.
    """

    population: int = 120
    offspring: int = 70
    mutation: float = 0.3


def evolve(
    structure: Structure, calls: Ledger, options: GeneticOptions, first: Callable[[int], Tensor], seed: int
) -> Iterator[int]:
    """Spend all calls on generations, and yield the calls after each.

    Args:
        structure: the task.
        calls: the counter.
        options: of the algorithm.
        first: makes so many states, the first generation.
        seed: of all random numbers.
    """
    rng = random.Random(seed)
    genetics = Genetics(structure.environment.trees, rng)
    pool: dict[str, tuple[float, Tree]] = {}
    states, idle = first(options.population), 0
    while calls.left > 0 and idle < PATIENCE:
        before = len(calls)
        smiles, scores = ask(structure, states, calls)
        for each, score, state in zip(smiles, scores.tolist(), states.tolist(), strict=False):
            pool.setdefault(each, (score, genetics.read(state)))
        ranked = sorted(pool.items(), key=lambda item: (-item[1][0], item[0]))[: options.population]
        pool = dict(ranked)
        idle = idle + 1 if len(calls) == before else 0
        yield len(calls)
        weights = [score for _, (score, _) in ranked]
        trees = [tree for _, (_, tree) in ranked]
        children = [
            genetics.child(lambda: rng.choices(trees, weights)[0], options.mutation)  # noqa: B023  at once
            for _ in range(options.offspring)
        ]
        states = torch.tensor([genetics.write(child) for child in children])
