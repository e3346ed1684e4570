"""Molecules as trees of building blocks: each action joins a block to an open stem, or exits.

The task of Bengio et al., "Flow Network based Generative Models for Non-Iterative Diverse Candidate
Generation" (2021), section 4.2, with a vocabulary and a reward of our own.

Shapes: N slots, E entries (a block and the atom by which it is attached), B states (B, 3N), A actions, s
one-hot inputs.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from pydantic import Field, field_validator
from torch import Tensor

from genflow import Environment, GenflowError, Schema, StateGraph

from .trees import Trees
from .vocabulary import MAX_BLOCKS, Block, Entry, entries_of, load_vocabulary

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor

    from .catalogue import Catalogue
    from .drawing import Molecules
    from .features import Descriptions

#: states whose molecules are all assembled and scored: a minute's work
MAX_ENUMERATED = 200_000
Reward = Literal["qed_sa", "logp_window", "docking"]
#: score from which a molecule counts as a mode
MODE_SCORE = 0.7


class Molecule(Environment):
    """Trees of two to N blocks. The reward is a score of the molecule to the power of beta."""

    presets: ClassVar = {
        "small": {"blocks": 12, "max_blocks": 3, "multiplicity": True},
        "medium": {"blocks": 20, "max_blocks": 5},
        "full": {"blocks": 72, "max_blocks": 8},
    }
    default_structures: ClassVar = ("small",)
    pretrained: ClassVar = ("genflow_molecule:pretrained/molecule",)
    described: ClassVar = frozenset({"blocks", "vocabulary"})
    positional: ClassVar = False

    class Config(Schema):
        """The blocks and the reward.

        `blocks`: the first so many of the vocabulary, or the numbers of some (``0+3+17``). `vocabulary`: one
            that ships, or a file.
        `max_blocks`: N. `reward` is "qed_sa" (QED times ease of synthesis), "logp_window" (a Gaussian on logP
            of `logp_centre` and
        `logp_width`, times ease) or "docking" (predicted affinity to DRD2, times ease), to the power of
        `beta`. `multiplicity` divides it by the number of states that are the same molecule, so that
        molecules, not states, are sampled in proportion to it; this needs every state.
        """

        blocks: int | tuple[int, ...] = 12
        max_blocks: int = Field(ge=2, le=8)
        vocabulary: str = Field(default="default", min_length=1, max_length=400)
        reward: Reward = "qed_sa"
        beta: float = Field(default=8.0, gt=0, le=64)
        logp_centre: float = Field(default=2.5, ge=-20, le=20)
        logp_width: float = Field(default=1.0, gt=0, le=20)
        multiplicity: bool = False

        @field_validator("blocks", mode="before")
        @classmethod
        def _blocks_as_text(cls, blocks: Any) -> Any:
            if isinstance(blocks, str) and not blocks.strip().isdigit():
                return tuple(
                    part.strip()
                    for part in blocks.strip("()[] ").replace("+", ",").split(",")
                    if part.strip()
                )
            return blocks

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

    def __init__(self, config: Any = None) -> None:
        """Raises GenflowError: the vocabulary is malformed or lacks a block, or `multiplicity` needs more states than are enumerated."""
        super().__init__(config)
        c = self.config
        vocabulary = load_vocabulary(c.vocabulary)
        numbers = range(c.blocks) if isinstance(c.blocks, int) else c.blocks
        if numbers[-1] >= len(vocabulary):
            raise GenflowError(
                f"vocabulary {c.vocabulary!r} has blocks 0 to {len(vocabulary) - 1}, and no block {numbers[-1]}"
            )
        self.blocks: tuple[Block, ...] = tuple(vocabulary[number] for number in numbers)
        self.entries: tuple[Entry, ...] = entries_of(self.blocks)
        if c.multiplicity:
            self.require_enumerable("multiplicity=true", "set multiplicity=false, or fewer blocks")

    @cached_property
    def trees(self) -> Trees:
        """All trees of these blocks.

        Raises:
            GenflowError: no two of the blocks can be joined.
        """
        from .assembly import joints

        fits, fits_root = joints(self.entries)
        if not fits_root.any():
            raise GenflowError(
                f"no two of the blocks {', '.join(block.smiles for block in self.blocks[:10])} can be joined; add others"
            )
        return Trees(self.config.max_blocks, fits, fits_root)

    def trees_on(self, device: torch.device) -> Trees:
        """The same on a device."""
        kept: dict[torch.device, Trees] = self.__dict__.setdefault("_kept_trees", {})
        if device not in kept:
            kept[device] = self.trees.to(device)
        return kept[device]

    @cached_property
    def catalogue(self) -> Catalogue:
        """The molecule and the score, before `beta`, of any state."""
        from .catalogue import Catalogue
        from .rewards import scorer

        c = self.config
        return Catalogue(self.entries, scorer(c.reward, c.logp_centre, c.logp_width))

    @cached_property
    def gallery(self) -> Molecules:  # type: ignore[override]
        """Molecules as drawn structures."""
        from .drawing import Molecules

        return Molecules(self.catalogue, self.config.reward)

    @cached_property
    def descriptions(self) -> Descriptions:
        """What inputs and actions mean."""
        from .features import Descriptions

        return Descriptions(self.entries, self.trees, self.catalogue, self.config.beta)

    @cached_property
    def n_states(self) -> int:  # type: ignore[override]
        """Exact, whether or not they can be enumerated."""
        return self.trees.count_states()

    @property
    def enumerable(self) -> bool:
        """Whether all molecules can be scored."""
        return self.n_states <= MAX_ENUMERATED

    def require_enumerable(self, what: str, instead: str) -> None:
        """Refuse what needs the score of every molecule where there are too many.

        Raises:
            GenflowError: says what to do `instead`.
        """
        if not self.enumerable:
            raise GenflowError(
                f"{what} needs every state, but this structure has {self.n_states:,} states (the limit is {MAX_ENUMERATED:,}); {instead}"
            )

    def make(self, device: str | torch.device = "cpu") -> tuple[DiscreteEnv, Preprocessor]:
        """The torchgfn environment, and one-hot inputs."""
        from .gym import MoleculeEnv, OneHot

        trees = self.trees_on(torch.device(device))
        return MoleculeEnv(trees, self.log_reward), OneHot(trees)

    def condition(self) -> dict[str, float]:
        """How many blocks and entries, N, beta, the reward, and the mean of what outlines entries: nothing that asks the reward."""
        c = self.config
        condition = {"blocks": float(len(self.blocks)), "max_blocks": float(c.max_blocks), "beta": c.beta}
        windowed = c.reward == "logp_window"
        condition |= {
            "reward": float(get_args(Reward).index(c.reward)),
            "multiplicity": float(c.multiplicity),
        }
        condition |= {"logp_centre": c.logp_centre * windowed, "logp_width": c.logp_width * windowed}
        condition["entries"] = float(len(self.entries))
        for name, values in self.descriptions.outline.items():
            condition[f"mean_{name}"] = float(values.mean())
        return condition

    def input_coordinates(self) -> Tensor:
        """(s, 18): slot, is empty, tells an entry, tells a place, parent slot, stem, and twelve numbers of the entry."""
        return self.descriptions.input_coordinates()

    def action_coordinates(self) -> Tensor:
        """(A, 16): is exit, joins to the root or is it, parent slot, stem, and twelve numbers of the entry."""
        return self.descriptions.action_coordinates()

    def features(self) -> dict[str, Tensor]:
        """The same with slots and stems as one of several, and all that is known of an entry: its block, fingerprint and atoms."""
        return {"input": self.descriptions.inputs(), "action": self.descriptions.actions()}

    def initial_logits(self) -> Tensor:
        """(A,) exit weighs as much as all blocks together that can be joined to two, on average."""
        trees = self.trees
        choices = trees.fits.flatten(1).sum(1).double()  # by the entry of the second block
        logits = torch.zeros(self.n_actions)
        mean = (trees.fits_root.double() @ choices).sum() / trees.fits_root.sum()
        logits[-1] = mean.clamp(min=1).log() if trees.n_slots > 2 else 0.0
        return logits

    @cached_property
    def n_actions(self) -> int:
        """(1 + (N-2) T) E + 1."""
        return self.trees.n_actions

    def start(self, device: torch.device) -> Tensor:
        """(3N,) zeros."""
        return self.trees_on(device).start()

    def forward_masks(self, states: Tensor) -> Tensor:
        """(..., 3N) -> (..., A)."""
        return self.trees_on(states.device).forward_masks(states)

    def n_parents(self, states: Tensor) -> Tensor:
        """(..., 3N) -> (...) blocks that could have been the last."""
        return self.trees_on(states.device).n_parents(states)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """(..., 3N), (...) -> (..., 3N)."""
        return self.trees_on(states.device).step(states, actions)

    def indices(self, states: Tensor) -> Tensor | None:
        """(..., 3N) -> (...) number of the state, where it fits 64 bits."""
        return self.trees_on(states.device).indices(states)

    def active(self, states: Tensor) -> Tensor:
        """(..., 3N) -> (..., 2N-2): the input of each digit that is 1."""
        trees = self.trees_on(states.device)
        return trees.digits(states) + trees.offsets

    def inputs(self, states: Tensor) -> Tensor:
        """(B, 3N) -> (B, s) one-hot."""
        from .gym import one_hot

        return one_hot(self.trees_on(states.device), states).float()

    def log_reward(self, states: Tensor) -> Tensor:
        """(B, 3N) -> (B,) float64; of states that are not terminal, the least."""
        smiles = self.catalogue.smiles(states)
        scores = torch.tensor([self.catalogue.score(each) for each in smiles], dtype=torch.float64)
        log_reward = self.config.beta * scores.log()
        if self.config.multiplicity:
            log_reward -= torch.tensor(
                [max(1, self.multiplicity[each]) for each in smiles], dtype=torch.float64
            ).log()
        return log_reward.to(states.device)

    @cached_property
    def _terminal_smiles(self) -> list[str]:
        return self.catalogue.smiles(self.graph.states[self.graph.can_exit])

    @cached_property
    def multiplicity(self) -> Counter[str]:
        """How many terminal states are each molecule, by its SMILES."""
        return Counter(self._terminal_smiles)

    @cached_property
    def molecules(self) -> tuple[Tensor, Tensor]:
        """Of K different molecules: the number of that of each terminal state, and (K,) float64 their shares of score ** beta."""
        numbers = {smiles: number for number, smiles in enumerate(self.multiplicity)}
        owner = torch.tensor([numbers[smiles] for smiles in self._terminal_smiles])
        scores = torch.tensor([self.catalogue.score(smiles) for smiles in numbers], dtype=torch.float64)
        return owner, (self.config.beta * scores.log()).softmax(0)

    def is_mode(self, states: Tensor) -> Tensor:
        """(B, 3N) -> (B,) whether the score, before `beta`, is at least `MODE_SCORE`."""
        return (self.catalogue.scores(states) >= MODE_SCORE).to(states.device)

    @cached_property
    def graph(self) -> StateGraph:
        """Every state, level by level; the level of a state is its number of blocks."""
        self.require_enumerable("the state graph", "use metrics that sample")
        return self.trees.graph()
