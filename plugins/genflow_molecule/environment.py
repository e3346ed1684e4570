"""Molecules as trees of building blocks: each action joins a block to an open stem, or exits.

The task of Bengio et al., "Flow Network based Generative Models for Non-Iterative Diverse Candidate
Generation" (2021), section 4.2, with a vocabulary and rewards of our own.

Shapes: N slots, E entries (a block and the atom by which it is attached), A actions, s one-hot inputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ValidationInfo, field_validator, model_validator
from torch import Tensor

from genflow import (
    Environment,
    GenflowError,
    Rehearsal,
    Reward,
    Schema,
    Transitions,
    UnitDescriptions,
    Units,
    described,
    require_may_read,
    reward_name,
    size,
    told,
)

from .solution import MoleculeSolution
from .transitions import MoleculeTransitions
from .trees import Trees
from .vocabulary import (
    MAX_BLOCKS,
    Block,
    Entry,
    blocks_of,
    entries_of,
    is_shipped,
    read_vocabulary,
    shipped_vocabulary,
)

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor

    from .catalogue import Catalogue
    from .decomposition import Decomposer
    from .drawing import Molecules
    from .features import Descriptions
    from .floored import FloorWatch


class Molecule(Environment):
    """Trees of two to N blocks; the reward is a score of the molecule to the power of beta."""

    presets: ClassVar = {
        "small": {"blocks": 12, "max_blocks": 3, "multiplicity": True},
        "medium": {"blocks": 20, "max_blocks": 5},
        "full": {"blocks": 72, "max_blocks": 8},
    }
    default_structures: ClassVar = ("small",)
    pretrained: ClassVar = ("genflow_molecule:pretrained/molecule",)
    reward_template: ClassVar = "genflow_molecule:reward_template"
    reward: Reward

    @classmethod
    def preset(cls, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """As for any environment, but a preset counts blocks of the vocabulary that ships.

        Of a file all are used.
        """
        fields = super().preset(name, given)
        if not is_shipped(str(given.get("vocabulary", "default"))):
            fields.pop("blocks", None)
        return fields

    class Config(Schema):
        """The blocks and what is paid for them."""

        blocks: int | tuple[int, ...] = described(
            12,
            description="The first so many blocks of the vocabulary, or the numbers of some, 0+3+17;"
            " by default 12 of one that ships, and all of a file's.",
        )
        max_blocks: int = size(ge=2, le=8, description="The most blocks N of a molecule.")
        # smaller trees are no part of what descriptions tell
        min_blocks: int = told(
            2, reward_only=False, added=True, ge=2, le=8, description="The least blocks, at most max_blocks."
        )
        vocabulary: str | tuple[Block, ...] = described(
            "default",
            min_length=1,
            max_length=MAX_BLOCKS,
            description="A vocabulary that ships, or a JSON file, whose blocks are kept in its place.",
        )
        reward: str = reward_name(
            "qed_sa", role="told", description="A reward that is registered for molecules."
        )
        beta: float = told(8.0, gt=0, le=64, description="The reward is the score to this power.")
        multiplicity: bool = described(
            False,
            reward_only=True,
            description="Divide the reward of a state by the number of states that are the same molecule,"
            " so that molecules, not states, are sampled in proportion to it; this needs every state.",
        )
        exclude: str = told(
            "none",
            added=True,
            max_length=200,
            description="Catalogues of alerts, unstable or unstable+brenk; a molecule with one of them scores"
            " the least, and the reward is not asked about it.",
        )

        @field_validator("blocks")
        @classmethod
        def _blocks_in_order(cls, blocks: int | tuple[int, ...]) -> int | tuple[int, ...]:
            """One form for one set of blocks, so that equal tasks are equal structures."""
            if isinstance(blocks, int):
                if not 1 <= blocks <= MAX_BLOCKS:
                    raise ValueError(f"must be 1 to {MAX_BLOCKS}, or numbers of blocks as in 0+3+17")
                return blocks
            if (
                not blocks
                or len(set(blocks)) < len(blocks)
                or not all(0 <= block < MAX_BLOCKS for block in blocks)
            ):
                raise ValueError(f"must be different numbers from 0 to {MAX_BLOCKS - 1}")
            ordered = tuple(sorted(blocks))
            return len(ordered) if ordered == tuple(range(len(ordered))) else ordered

        @field_validator("exclude")
        @classmethod
        def _catalogues_in_order(cls, exclude: str) -> str:
            if exclude == "none":  # without RDKit
                return exclude
            from .exclusion import catalogues_of

            return "+".join(catalogues_of(exclude)) or "none"

        @field_validator("vocabulary", mode="before")
        @classmethod
        def _content_of_a_file(cls, vocabulary: Any, info: ValidationInfo) -> Any:
            """The blocks in place of a path: a structure is what its files held when it was made."""
            if isinstance(vocabulary, list | tuple):
                return blocks_of(vocabulary, "vocabulary")
            if isinstance(vocabulary, str) and not is_shipped(vocabulary):
                require_may_read(info, vocabulary)
                return read_vocabulary(Path(vocabulary))
            return vocabulary

        @model_validator(mode="after")
        def _sizes_in_order(self) -> Molecule.Config:
            if self.min_blocks > self.max_blocks:
                raise ValueError(
                    f"min_blocks is {self.min_blocks}, above max_blocks, which is {self.max_blocks}"
                )
            return self

        @model_validator(mode="after")
        def _blocks_of_the_vocabulary(self) -> Molecule.Config:
            """Refuse blocks that are not there; of a file's blocks keep those that are used."""
            own = not isinstance(self.vocabulary, str)
            known = (
                self.vocabulary if isinstance(self.vocabulary, tuple) else shipped_vocabulary(self.vocabulary)
            )
            blocks = len(known) if own and "blocks" not in self.model_fields_set else self.blocks
            numbers = range(blocks) if isinstance(blocks, int) else blocks
            if numbers[-1] >= len(known):
                name = "the vocabulary" if own else f"vocabulary {self.vocabulary!r}"
                raise ValueError(f"{name} has blocks 0 to {len(known) - 1}, and no block {numbers[-1]}")
            if own:  # the object is frozen, but nobody has it yet
                self.__dict__.update(
                    blocks=len(numbers), vocabulary=tuple(known[number] for number in numbers)
                )
            return self

    def __init__(self, config: Any = None, reward: Reward | None = None) -> None:
        """Build from options.

        Raises:
            GenflowError: `multiplicity` needs more states than are enumerated.
        """
        super().__init__(config, reward)
        c = self.config
        if isinstance(c.vocabulary, str):
            known = shipped_vocabulary(c.vocabulary)
            numbers = range(c.blocks) if isinstance(c.blocks, int) else c.blocks
            self.blocks: tuple[Block, ...] = tuple(known[number] for number in numbers)
        else:
            self.blocks = c.vocabulary
        self.entries: tuple[Entry, ...] = entries_of(self.blocks)
        if c.multiplicity:
            solution = self.exact_solution(self.transitions(torch.device("cpu")))
            solution.require_enumerable("multiplicity=true", "set multiplicity=false, or fewer blocks")

    @cached_property
    def trees(self) -> Trees:
        """All trees of these blocks.

        Raises:
            GenflowError: no two of the blocks can be joined, or not as many as `min_blocks`.
        """
        from .assembly import joints

        fits, fits_root = joints(self.entries)
        if not fits_root.any():
            some = ", ".join(block.smiles for block in self.blocks[:10])
            raise GenflowError(f"no two of the blocks {some} can be joined; add others")
        trees = Trees(self.config.max_blocks, fits, fits_root, self.config.min_blocks)
        if not trees.possible:
            raise GenflowError(
                f"no molecule has {trees.min_blocks} of these blocks, because too few are joined by several"
                " atoms; ask for a smaller min_blocks, or add others"
            )
        return trees

    @cached_property
    def catalogue(self) -> Catalogue:
        """The molecule and the score, before `beta`, of any state."""
        from .catalogue import Catalogue
        from .exclusion import scorer_without

        return Catalogue(self.entries, scorer_without(self.reward, self.config.exclude, self.config.reward))

    @cached_property
    def _watch(self) -> FloorWatch:
        """Says where the reward pays for nothing."""
        from .floored import FloorWatch

        return FloorWatch(self.config.reward, self.reward, self.catalogue.score)

    @cached_property
    def decomposer(self) -> Decomposer:
        """Finds the states of a molecule."""
        from .decomposition import Decomposer

        return Decomposer(self.entries, self.trees)

    @cached_property
    def descriptions(self) -> Descriptions:
        """Tables of what inputs and actions mean."""
        from .features import Descriptions

        def log_reward(states: Tensor) -> Tensor:
            scores = self.catalogue.scores(states)
            self._watch.see(self.catalogue.smiles(states), scores.tolist())
            return self.config.beta * scores.log().float()

        def counted(states: Tensor) -> Tensor:
            known = self.multiplicity
            return torch.tensor([known.get(each, 1) for each in self.catalogue.smiles(states)])

        return Descriptions(
            self.entries,
            self.trees,
            log_reward,
            counted if self.config.multiplicity else None,
        )

    @cached_property
    def multiplicity(self) -> Counter[str]:
        """How many terminal states are each molecule, by its SMILES."""
        graph = self.trees.graph()
        return Counter(self.catalogue.smiles(graph.states[graph.can_exit]))

    def make(self, device: str | torch.device = "cpu") -> tuple[DiscreteEnv, Preprocessor]:
        """The torchgfn environment, and one-hot inputs."""
        from .gym import MoleculeEnv, OneHot

        transitions = self.transitions(torch.device(device))
        return MoleculeEnv(transitions.trees, transitions.log_reward), OneHot(transitions.trees)

    def condition(self) -> dict[str, float]:
        """The sizes, and the means of what outlines entries; what is paid is told of units, in nats.

        Nothing asks the reward.
        """
        c = self.config
        condition = {
            "blocks": float(len(self.blocks)),
            "max_blocks": float(c.max_blocks),
            "multiplicity": float(c.multiplicity),
            "entries": float(len(self.entries)),
        }
        for name, values in self.descriptions.outline.items():
            condition[f"mean_{name}"] = float(values.mean())
        return condition

    def units(self) -> Units:
        """What is known of slots, stems and entries; the amounts, when they are first read, ask the reward.

        Coordinates of inputs (s, 18): slot, is empty, tells an entry, tells a place, parent slot, stem, and
        twelve numbers of the entry. Of actions (A, 16): is exit, joins to the root or is it, parent slot,
        stem, and the twelve.
        """
        tables = self.descriptions
        return Units(
            inputs=UnitDescriptions(
                lambda: tables.inputs(tables.entries), coordinates=tables.input_coordinates()
            ),
            actions=UnitDescriptions(
                lambda: tables.actions(tables.entries), coordinates=tables.action_coordinates()
            ),
        )

    def rehearse(self, rng: torch.Generator) -> Rehearsal | None:
        """A reward that is made up of what adds up over blocks, where all trees are listed."""
        tables = self.descriptions
        made_up = tables.made_up(rng)
        if made_up is None:
            return None
        entries, expert = made_up
        return Rehearsal(tables.inputs(entries), tables.actions(entries), expert)

    def initial_logits(self) -> Tensor:
        """Exit weighs as much as all blocks together where it is first allowed, on average: (A,)."""
        trees = self.trees
        logits = torch.zeros(trees.n_actions, dtype=torch.float32)
        if trees.n_slots > trees.min_blocks:
            logits[-1] = math.log(max(1.0, trees.mean_choices()))
        return logits

    def transitions(self, device: torch.device) -> MoleculeTransitions:
        """Trees by tensor operations."""
        c = self.config
        multiplicity = (lambda: self.multiplicity) if c.multiplicity else None
        return MoleculeTransitions(
            self.make, device, self.trees, self.catalogue, c.beta, multiplicity, self._watch.see
        )

    def exact_solution(self, transitions: Transitions) -> MoleculeSolution:
        """Every tree, where there are few enough to score all."""
        assert isinstance(transitions, MoleculeTransitions)
        return MoleculeSolution(transitions, self.config.beta)

    def gallery(self, transitions: Transitions) -> Molecules:
        """Molecules as drawn structures."""
        from .drawing import Molecules

        return Molecules(self.catalogue, self.config.reward, lambda: self.decomposer)
