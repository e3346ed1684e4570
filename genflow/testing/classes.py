"""A pytest class to subclass for each interface; a check is a test of its own.

They take structures as ``--structure`` does. What cannot be checked is a skipped test that says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

from genflow.errors import GenflowError
from genflow.testing.outcomes import made, name_of
from genflow.testing.plans import Plan, plans


class _ComponentTests:
    """One test for each check of a component."""

    @classmethod
    def plans(cls) -> list[Plan]:
        """Return what is checked, with the checks of each."""
        raise NotImplementedError

    @classmethod
    def pytest_generate_tests(cls, metafunc: Any) -> None:
        """Make a test of each check."""
        if "plan" not in metafunc.fixturenames:  # a test that a subclass adds
            return
        try:
            planned = cls.plans()
        except GenflowError as error:  # a failed test rather than none
            planned = [Plan("structures", (_refused,), partial(str, error))]
        rows = [(plan, check) for plan in planned for check in plan.checks]
        names = [f"{plan.where}-{name_of(check)}" for plan, check in rows]
        metafunc.parametrize(("plan", "check"), rows, ids=names)

    def test(self, plan: Plan, check: Any) -> None:
        """Make one check, and fail with its findings."""
        import pytest

        outcome = made(check, plan.subject, plan.where)
        if outcome.skipped:
            pytest.skip(outcome.skipped)
        for note in outcome.notes:
            print(note)
        if outcome.findings:
            pytest.fail("\n".join(outcome.findings), pytrace=False)


def _refused(fault: str) -> Iterator[str]:
    """The structures can be built."""
    yield fault


class EnvironmentTests(_ComponentTests):
    """Checks of an environment. Subclass it and set `env`."""

    #: registered name
    env: ClassVar[str]
    #: structures as after ``--structure``, small enough to enumerate; none means the two smallest presets
    structures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def plans(cls) -> list[Plan]:
        """Return the checks of each structure, and of all together."""
        return plans("environment", cls.env, structures=cls.structures)


class RewardTests(_ComponentTests):
    """Checks of a reward. Subclass it and set `reward` and `env`."""

    #: registered name
    reward: ClassVar[str]
    #: registered name of its environment
    env: ClassVar[str]
    #: structures as after ``--structure``, which need not name the reward
    structures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def plans(cls) -> list[Plan]:
        """Return the checks of each structure."""
        return plans("reward", cls.reward, cls.env, cls.structures)


class PolicyTests(_ComponentTests):
    """Checks of a policy architecture. Subclass it and set `policy`."""

    #: registered name
    policy: ClassVar[str]
    #: registered name of the environment whose inputs it is given; None means the first that has presets
    env: ClassVar[str | None] = None
    #: structures as after ``--structure``
    structures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def plans(cls) -> list[Plan]:
        """Return the checks of each structure, and of all together."""
        return plans("policy", cls.policy, cls.env, cls.structures)


class EncoderTests(_ComponentTests):
    """Checks of an encoder. Subclass it and set `encoder`."""

    #: registered name
    encoder: ClassVar[str]
    #: registered name of the environment whose policies it encodes; None means the first that has presets
    env: ClassVar[str | None] = None
    #: structures as after ``--structure``
    structures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def plans(cls) -> list[Plan]:
        """Return the checks on a small zoo."""
        return plans("encoder", cls.encoder, cls.env, cls.structures)


class DenoiserTests(_ComponentTests):
    """Checks of a denoiser. Subclass it and set `denoiser`."""

    #: registered name
    denoiser: ClassVar[str]

    @classmethod
    def plans(cls) -> list[Plan]:
        """Return the checks on latents of several sizes."""
        return plans("denoiser", cls.denoiser)


class MetricTests(_ComponentTests):
    """Checks of a metric. Subclass it and set `metric`."""

    #: registered name
    metric: ClassVar[str]
    #: registered name of the environment whose policies it measures; None means the first that it fits
    env: ClassVar[str | None] = None
    #: structures as after ``--structure``
    structures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def plans(cls) -> list[Plan]:
        """Return the checks on a perfect policy beside others."""
        return plans("metric", cls.metric, cls.env, cls.structures)
