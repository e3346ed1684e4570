"""Checks of a reward: its scores of the objects that its environment hands it.

A check takes a `RewardUnderTest`. Shapes: B objects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genflow.interfaces.reward import Reward
from genflow.interfaces.validation import kind_of
from genflow.schema import brief
from genflow.structure import Structure
from genflow.testing.environment_checks import CLOSE
from genflow.testing.outcomes import Note, Skipped
from genflow.testing.tasks import TaskUnderTest

#: the most objects of an expensive reward that are scored
FEW = 8
#: seconds an object from which on a reward should say that it is expensive
SLOW = 0.05


class RewardUnderTest(TaskUnderTest):
    """A structure whose reward remembers what it was asked for.

    Attributes:
        registered: the environment that the reward is registered for.
        asked: objects and their scores, for each call.
    """

    def __init__(self, structure: Structure) -> None:
        reward = structure.environment.reward
        assert reward is not None
        self.asked: list[tuple[Any, Any]] = []
        # a class of its own, so that scores kept from elsewhere do not keep the reward from being asked
        cls = type(reward)
        members = {"score": self._remembering(cls), "__module__": cls.__module__}
        new = type(cls.__name__, (cls,), members)(reward.config, reward.task)
        environment = type(structure.environment)(structure.environment.config, new)
        super().__init__(Structure.of(environment, structure.arch, structure.env, structure.policy))
        self.reward: Reward = new
        self.reward_name = cls.__name__

    def _remembering(self, cls: type[Reward]) -> Any:
        def score(reward: Reward, objects: Any) -> Any:
            scores = cls.score(reward, objects)
            self.asked.append((objects, scores))
            return scores

        return score

    @cached_property
    def scored(self) -> tuple[Any, Any]:
        """The objects of the largest batch that the environment asked for, and their scores.

        Raises:
            Skipped: genflow refuses the task, or its environment asks the reward for nothing.
        """
        self.require_use()
        states = self.walked.ends()
        self.own.log_reward(states[-FEW:] if self.reward.expensive else states)
        if not self.asked:
            raise Skipped("the environment did not ask the reward for the objects of a short walk")
        return max(self.asked, key=lambda call: len(call[0]))

    def few(self) -> Any:
        """Return some of these objects."""
        return self.scored[0][:FEW]

    def numbers(self, scores: Any) -> Tensor:
        """Return scores as (B,) float64."""
        if isinstance(scores, Tensor):
            return scores.detach().double()
        return torch.tensor([float(each) for each in scores], dtype=torch.float64)


def check_class(task: RewardUnderTest) -> Iterator[str]:
    """The class says whose reward it is, and whether it is expensive and reads the task."""
    own = getattr(task.reward, "environment", None)
    if own != task.structure.env:
        yield (
            f"{task.reward_name}.environment: it is {own!r}, and the reward is registered for"
            f" {task.structure.env!r}; write environment = {task.structure.env!r}"
        )
    for flag in ("expensive", "reads_task"):
        if not isinstance(getattr(task.reward, flag), bool):
            yield (
                f"{task.reward_name}.{flag}: it is {brief(repr(getattr(task.reward, flag)))}; write"
                f" {flag} = True or {flag} = False"
            )


def check_scores(task: RewardUnderTest) -> Iterator[str]:
    """There is a finite score for each object."""
    objects, scores = task.scored
    numbers = task.numbers(scores)
    if numbers.shape != (len(objects),):
        found = kind_of(scores) if isinstance(scores, Tensor) else f"{len(scores)} scores"
        yield (
            f"{task.reward_name}.score(): returns {found} of {len(objects)} objects; return"
            f" ({len(objects)},), a score for each in order"
        )
    elif not numbers.isfinite().all():
        yield f"{task.reward_name}.score(): some scores are not finite; return finite numbers, by a floor"


def check_scores_alone(task: RewardUnderTest) -> Iterator[str]:
    """An object has the same score alone, among others, and again."""
    objects = task.few()
    together, again = (task.numbers(task.reward.score(objects)) for _ in range(2))
    if not torch.equal(together, again):
        yield (
            f"{task.reward_name}.score(): scores the same objects in two ways; compute a score from the"
            " object alone, and seed what is random"
        )
        return
    alone = torch.cat([task.numbers(task.reward.score(objects[i : i + 1])) for i in range(len(objects))])
    wrong = (alone - together).abs() > CLOSE * (1 + together.abs())
    if wrong.any():
        number = int(wrong.nonzero()[0, 0])
        yield (
            f"{task.reward_name}.score(): scores {brief(str(objects[number]))} as {float(alone[number]):.6g}"
            f" alone and as {float(together[number]):.6g} among others; normalise by numbers of the task, not"
            " of the batch"
        )


def check_task(task: RewardUnderTest) -> Iterator[str]:
    """A reward that says that it does not read the task scores without one."""
    if task.reward.reads_task:
        return
    mend = "write reads_task = True, or do without self.task"
    try:
        scores = type(task.reward)(task.reward.config, None).score(task.few())
    except Exception as error:  # whatever a plugin's code raises without a task
        yield f"{task.reward_name}: says reads_task = False and raises {type(error).__name__} without; {mend}"
        return
    if not torch.equal(task.numbers(scores), task.numbers(task.reward.score(task.few()))):
        yield f"{task.reward_name}: says reads_task = False and scores differently without; {mend}"


def check_modes(task: RewardUnderTest) -> Iterator[str]:
    """Modes are a truth value for each object, or not defined."""
    objects = task.few()
    modes = task.reward.is_mode(objects)
    if modes is not None and (
        not isinstance(modes, Tensor) or modes.shape != (len(objects),) or modes.dtype != torch.bool
    ):
        yield (
            f"{task.reward_name}.is_mode(): returns {kind_of(modes)} of {len(objects)} objects; return"
            f" ({len(objects)},) bool, or None"
        )


def check_expensive(task: RewardUnderTest) -> Iterator[str]:
    """A reward that takes long says that it is expensive."""
    if task.reward.expensive:
        return
    objects = task.few()
    task.reward.score(objects)  # what is loaded at the first call is no part of it
    began = time.perf_counter()
    task.reward.score(objects)
    share = (time.perf_counter() - began) / len(objects)
    if share > SLOW:
        yield Note(  # of this machine at this moment
            f"{task.reward_name}: takes {share:.2g} s an object; write expensive = True, so that scores are"
            " counted, kept and shared among workers"
        )
