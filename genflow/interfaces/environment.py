"""`Environment`: one GFlowNet task, the part that its author must write.

Shapes: A actions (the last is exit), s inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from genflow.interfaces.exact_solution import ExactSolution
from genflow.interfaces.gallery import Gallery, PlainGallery
from genflow.interfaces.reward import Reward
from genflow.interfaces.transitions import Transitions
from genflow.layout import UnitDescriptions
from genflow.schema import Schema

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv
    from gfn.preprocessors import Preprocessor


class Units(NamedTuple):
    """What the inputs of a policy mean, s units, and its actions, A units of which the last is exit."""

    inputs: UnitDescriptions
    actions: UnitDescriptions


class Environment(ABC):
    """One GFlowNet task on a torchgfn `DiscreteEnv` with a uniform backward policy.

    Its author writes a `Config` and three methods. What makes a task fast, exact or pretty are objects of
    their own, each with a default that works through torchgfn.
    """

    #: Named structures: preset name -> fields of the environment, its reward and the policy.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Presets that a zoo is trained on when none is named.
    default_structures: ClassVar[tuple[str, ...]] = ()
    #: Generators that ship, ``"package:folder"`` each; the first that covers a structure serves it.
    pretrained: ClassVar[tuple[str, ...]] = ()

    class Config(Schema):
        """Options of this task; each says its role: `genflow.size`, `genflow.described`, `genflow.fixed`."""

    def __init__(self, config: Any = None, reward: Reward | None = None) -> None:
        """Build from options.

        Args:
            config: of this class's `Config`.
            reward: the one that the config's `genflow.reward_name` field names; None without such a field.
        """
        self.config = config if config is not None else self.Config()
        self.reward = reward

    @abstractmethod
    def make(self, device: str | torch.device = "cpu") -> tuple[DiscreteEnv, Preprocessor]:
        """Build the torchgfn environment and the preprocessor whose output is the policy's input.

        Raises:
            GenflowError: there can be no such task.
        """

    @abstractmethod
    def condition(self) -> dict[str, float]:
        """The environment's part of c, e.g. ``{"state_dim": s, "height": h, "ndim": n}``."""

    @abstractmethod
    def units(self) -> Units:
        """What every input and every action means, for networks that make weights."""

    def initial_logits(self) -> Tensor | None:
        """(A,) what an untrained policy prefers, added to the biases of its outputs; None: nothing.

        Where hundreds of actions stand against one exit, untrained policies would never stop.
        """
        return None

    def transitions(self, device: torch.device) -> Transitions:
        """How states change, on a device; override it for speed."""
        return Transitions(self.make, device)

    def exact_solution(self, transitions: Transitions) -> ExactSolution:
        """What can be computed exactly; override it to tell the number of states, for exact metrics."""
        return ExactSolution(transitions)

    def gallery(self, transitions: Transitions) -> Gallery:
        """How objects are named, ranked and drawn."""
        return PlainGallery(transitions)
