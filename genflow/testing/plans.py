"""Which checks are made of which component, on which structures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from genflow.errors import GenflowError
from genflow.registry import registry
from genflow.schema import reward_field
from genflow.structure import Structure
from genflow.structure_fields import DEFAULT, parse_fields
from genflow.testing import (
    denoiser_checks,
    encoder_checks,
    environment_checks,
    metric_checks,
    policy_checks,
    reward_checks,
    solution_checks,
    structure_checks,
)
from genflow.testing.enumeration import MAX_STATES
from genflow.testing.outcomes import Check, Outcome, made
from genflow.testing.tasks import TaskUnderTest

#: the sizes of latents that a denoiser is tried with
LATENT_SIZES = (7, 64)
#: the number of presets that are checked where no structure is given, and the states that one should have
SMALLEST, ENOUGH = 2, 20

ENVIRONMENT = (
    environment_checks.check_first_use,
    structure_checks.check_descriptions,
    structure_checks.check_name,
    environment_checks.check_masks_along_steps,
    environment_checks.check_exit,
    environment_checks.check_number_of_states,
    environment_checks.check_circles,
    environment_checks.check_parents,
    environment_checks.check_aliasing,
    environment_checks.check_inputs,
    environment_checks.check_rewards,
    solution_checks.check_transitions,
    solution_checks.check_exact_solution,
    solution_checks.check_expert,
    solution_checks.check_sampler,
    solution_checks.check_gallery,
)
STRUCTURES = (structure_checks.check_columns, structure_checks.check_condition)
REWARD = (
    environment_checks.check_first_use,
    reward_checks.check_class,
    reward_checks.check_scores,
    reward_checks.check_scores_alone,
    reward_checks.check_task,
    reward_checks.check_modes,
    reward_checks.check_expensive,
    environment_checks.check_rewards,
)
POLICY = (
    policy_checks.check_axes,
    policy_checks.check_condition_numbers,
    policy_checks.check_module,
    policy_checks.check_weights,
    policy_checks.check_forward,
    policy_checks.check_cached_forward,
    policy_checks.check_gradients,
)
ENCODER = (
    encoder_checks.check_class,
    encoder_checks.check_latents,
    encoder_checks.check_decoding,
    encoder_checks.check_spec,
    encoder_checks.check_reconstruction,
)
DENOISER = (
    denoiser_checks.check_shape,
    denoiser_checks.check_dependence,
    denoiser_checks.check_no_condition,
    denoiser_checks.check_prepare,
    denoiser_checks.check_spec,
    denoiser_checks.check_gradients,
)
METRIC = (
    metric_checks.check_class,
    metric_checks.check_values,
    metric_checks.check_values_alone,
    metric_checks.check_perfect_policy,
)
#: those that take milliseconds and ask no reward for much, which ``list-plugins --check`` makes
QUICK = {
    environment_checks.check_first_use,
    structure_checks.check_name,
    structure_checks.check_condition,
    reward_checks.check_class,
    *POLICY,
    *DENOISER,
    encoder_checks.check_class,
    metric_checks.check_class,
}


class Plan(NamedTuple):
    """Some checks of one subject.

    Attributes:
        where: what is checked, e.g. the name of a structure.
        checks: the checks.
        subject: makes their argument, once.
    """

    where: str
    checks: tuple[Check, ...]
    subject: Callable[[], Any]


def check(kind: str, name: str, env: str | None = None, structures: Sequence[str] = ()) -> Iterator[Outcome]:
    """Check a registered component.

    Args:
        kind: ``environment``, ``reward``, ``policy``, ``encoder``, ``denoiser`` or ``metric``.
        name: its registered name.
        env: the environment of a reward, or that on which a policy, an encoder or a metric is tried; None
            means the first that fits.
        structures: structures as after ``--structure``; none means the two smallest presets.

    Yields:
        What became of each check.

    Raises:
        GenflowError: a name, an environment or a structure is unknown, or the class cannot be used.
    """
    for plan in plans(kind, name, env, structures):
        for each in plan.checks:
            yield made(each, plan.subject, plan.where)


def quick_findings(kind: str, name: str) -> list[str]:
    """Return the findings of those checks of a component that take milliseconds.

    There are none of a component that needs a structure to be named.

    Args:
        kind: as for `check`.
        name: as the registry lists it, of a reward ENVIRONMENT:NAME.
    """
    env, _, own = name.rpartition(":")
    try:
        planned = plans(kind, own, env or None)
    except GenflowError:
        return []
    checks = [(each, plan) for plan in planned for each in plan.checks if each in QUICK]
    found = (made(each, plan.subject, plan.where).findings for each, plan in checks)
    return list(dict.fromkeys(finding for findings in found for finding in findings))


def plans(kind: str, name: str, env: str | None = None, structures: Sequence[str] = ()) -> list[Plan]:
    """Return which checks of a component are made, see `check`.

    Raises:
        GenflowError: as for `check`.
    """
    if kind == "tracker":
        raise GenflowError("there are no checks of trackers")
    cls = registry().load(kind, name, environment=env if kind == "reward" else None)
    if kind == "environment":
        found = structures_of(name, structures)
        tasks = [cache(partial(TaskUnderTest, each)) for each in found]
        single = [Plan(each.name, ENVIRONMENT, task) for each, task in zip(found, tasks, strict=True)]
        return [*single, Plan(_all(found), STRUCTURES, lambda: [task() for task in tasks])]
    if kind == "reward":
        assert env is not None
        found = structures_of(env, structures, reward=name)
        return [
            Plan(each.name, REWARD, cache(partial(reward_checks.RewardUnderTest, each))) for each in found
        ]
    if kind == "denoiser":
        made_for = partial(denoiser_checks.DenoiserUnderTest, cls)
        return [Plan(f"latents of {z}", DENOISER, cache(partial(made_for, z))) for z in LATENT_SIZES]
    found = _first_that_fits(kind, cls, name, env, structures)
    if kind == "policy":
        tried = [cache(partial(policy_checks.PolicyUnderTest, each)) for each in found]
        single = [Plan(each.name, POLICY, task) for each, task in zip(found, tried, strict=True)]
        return [
            *single,
            Plan(_all(found), (policy_checks.check_encoders,), lambda: [task() for task in tried]),
        ]
    if kind == "encoder":
        return [Plan(_all(found), ENCODER, cache(partial(encoder_checks.EncoderUnderTest, cls, found)))]
    return [Plan(found[0].name, METRIC, cache(partial(metric_checks.MetricUnderTest, cls, found[0])))]


def structures_of(
    env: str, texts: Sequence[str] = (), policy: str | None = None, reward: str | None = None
) -> list[Structure]:
    """Return the structures that are meant, or the smallest presets of an environment.

    Args:
        env: registered name of the environment.
        texts: structures as after ``--structure``.
        policy: registered name of the architecture.
        reward: registered name of the reward; None means theirs.

    Raises:
        GenflowError: one is malformed, or there are none and the environment has no preset.
    """
    environment = registry().load("environment", env)
    own = {} if reward is None else {str(reward_field(environment.Config)): reward}
    if texts:
        parsed = [Structure.parse(env, text, policy) for text in texts]
        return [each.varied(own) if own else each for each in parsed]
    known = set(environment.Config.model_fields)
    if policy is not None:
        known |= set(registry().load("policy", policy).Config.model_fields)
    built, fault = [], None
    for name in dict.fromkeys([*environment.default_structures, *environment.presets]) or [DEFAULT]:
        try:
            fields = parse_fields(env, name)[0]
            if policy is not None or reward is not None:  # which may lack what a preset sets
                fields = {key: value for key, value in fields.items() if key in known} | own
            built.append(Structure.build(env, fields, policy))
        except GenflowError as error:
            fault = fault or error
    if not built:
        raise GenflowError(f"{fault}; give a small structure with --structure (or `structures`)")
    # a reward may be for some sizes only; if it refuses all, its checks say so
    built = [each for each in built if reward is None or _can_be_made(each)] or built
    # of different tasks, large enough to show something and small enough to enumerate
    sized = sorted(((_states(each), each) for each in built), key=lambda one: (one[0] < ENOUGH, one[0]))
    tasks: dict[str, Structure] = {}
    for _, structure in sized:
        tasks.setdefault(structure.environment.config.model_dump_json(), structure)
    return list(tasks.values())[:SMALLEST]


def _can_be_made(structure: Structure) -> bool:
    """Whether the environment accepts the options."""
    try:
        structure.environment.make()
    except GenflowError:
        return False
    return True


def _states(structure: Structure) -> float:
    """The number of states, infinite where it is not known."""
    try:
        return structure.solution.n_states or math.inf
    except Exception:  # whatever is wrong with the task, its checks say it
        return math.inf


def _first_that_fits(
    kind: str, cls: Any, name: str, env: str | None, texts: Sequence[str]
) -> list[Structure]:
    """Structures of the given environment, or of the first on which a component can be tried."""
    if texts and env is None:
        raise GenflowError("--structure needs --env NAME, the environment that the structures are of")
    policy, fault = name if kind == "policy" else None, None
    environments = [env] if env is not None else _environments()
    for each in environments:
        try:
            found = structures_of(each, texts, policy)
            if kind == "metric":
                metric = cls.from_config({}, f"metric {name!r}")
                found = [one for one in found if _states(one) <= MAX_STATES and metric.fits(one)]
            if found:
                return found
        except GenflowError as error:
            fault = fault or error
            if env is not None:
                raise
    where = "any environment" if env is None else f"environment {env!r}"
    reason = f" ({fault})" if fault else ""
    raise GenflowError(
        f"{kind} {name!r} fits no small structure of {where}{reason}; name one with --env and --structure"
    )


def _environments() -> list[str]:
    """The names of environments, those of genflow's own distribution first."""
    return [
        name
        for plugin in registry().plugins
        if plugin.error is None
        for name in plugin.targets.get("environment", {})
    ]


def _all(structures: Sequence[Structure]) -> str:
    return " and ".join(each.name for each in structures)
