"""`Environment`: the definition of one GFlowNet task.

Shapes: A actions (the last is exit), s inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from genflow.exact import Expert
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
    """Descriptions of the s inputs of a policy and of its A actions, of which the last is exit."""

    inputs: UnitDescriptions
    actions: UnitDescriptions


class Rehearsal(NamedTuple):
    """A task that is made up for training: the states and actions of another, and another reward.

    Attributes:
        inputs: the amounts of its inputs, (s, G).
        actions: the amounts of its actions, (A, G).
        expert: its optimal policy.
    """

    inputs: Tensor
    actions: Tensor
    expert: Expert


class Environment(ABC):
    """One GFlowNet task on a torchgfn `DiscreteEnv`, with a backward policy by name.

    A subclass defines a `Config` and the three abstract methods. Fast transitions, exact solutions and
    pictures are separate objects, each with a default that works through torchgfn.
    """

    #: Named structures: preset name -> fields of the environment, its reward and the policy.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Presets that a zoo is trained on if no structure is named.
    default_structures: ClassVar[tuple[str, ...]] = ()
    #: Pretrained generators as ``"package:folder"``. The first one that covers a structure is used.
    pretrained: ClassVar[tuple[str, ...]] = ()
    #: What `genflow new-plugin --kind reward` starts from, as ``"package:folder"``; None means any reward.
    reward_template: ClassVar[str | None] = None

    class Config(Schema):
        """Options of this task.

        The role of each is declared by `genflow.size`, `genflow.described` or `genflow.fixed`.
        """

    def __init__(self, config: Any = None, reward: Reward | None = None) -> None:
        """Create the task from its options.

        Args:
            config: an instance of this class's `Config`.
            reward: the reward that the `genflow.reward_name` field names, or None without such a field.
        """
        self.config = config if config is not None else self.Config()
        self.reward = reward

    @classmethod
    def preset(cls, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a preset that stand beside what a user gives; override it where one excludes another.

        Args:
            name: of `presets`.
            given: the user's fields, as texts.
        """
        return {key: value for key, value in cls.presets[name].items() if key not in given}

    @abstractmethod
    def make(self, device: str | torch.device = "cpu") -> tuple[DiscreteEnv, Preprocessor]:
        """Build the torchgfn environment and the preprocessor whose output is the policy's input.

        Raises:
            GenflowError: the options describe an impossible task.
        """

    @abstractmethod
    def condition(self) -> dict[str, float]:
        """Return the task's part of the condition, e.g. ``{"state_dim": s, "height": h, "ndim": n}``."""

    @abstractmethod
    def units(self) -> Units:
        """Describe every input and every action, for encoders that generate weights from descriptions."""

    def untold(self) -> str | None:
        """Return why the descriptions of units do not tell this reward, or None if they do.

        The text goes on from the reward's name, e.g. "is no sum of products". The field that names the reward
        is "fixed" then, although it is declared as "told".
        """
        return None

    def rehearse(self, rng: torch.Generator) -> Rehearsal | None:
        """Make up a reward for the same states and actions, so that a generator meets more than it is given.

        Args:
            rng: draws the reward.

        Returns:
            How the units are described then, and the optimal policy; None if nothing can be made up.
        """
        return None

    @property
    def backward(self) -> str:
        """The name of the backward policy of the task.

        "maxent" needs `Transitions.log_n_trajectories`, and a name of the task's own `Transitions.log_pb`.
        """
        return "uniform"

    def initial_logits(self) -> Tensor | None:
        """Return logits (A,) that are added to the output biases of untrained policies, or None.

        They help where hundreds of actions compete with one exit, so that untrained policies would hardly
        ever stop.
        """
        return None

    def transitions(self, device: torch.device) -> Transitions:
        """Return the transitions of states on a device, which may be overridden with faster ones."""
        return Transitions(self.make, device)

    def exact_solution(self, transitions: Transitions) -> ExactSolution:
        """Return the exact solution of the task.

        Override this method at least to state the number of states, which exact metrics need.
        """
        return ExactSolution(transitions)

    def gallery(self, transitions: Transitions) -> Gallery:
        """Return the gallery that names, ranks and draws objects."""
        return PlainGallery(transitions)
