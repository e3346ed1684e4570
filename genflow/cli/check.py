"""``genflow check``: the checks of one registered component."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from genflow.cli import completion
from genflow.cli.options import emit, json_option

if TYPE_CHECKING:
    from genflow.testing.outcomes import Outcome

#: trackers have no checks: what they write is another library's
KINDS = ("environment", "reward", "policy", "encoder", "denoiser", "metric")


@click.command("check")
@click.argument("name", metavar="NAME", shell_complete=completion.registered(*KINDS))
@click.option("--kind", type=click.Choice(KINDS), help="What NAME is, where several kinds have the name.")
@click.option(
    "--env",
    metavar="NAME",
    is_eager=True,  # before --structure, whose completion asks for it
    shell_complete=completion.registered("environment"),
    help="The environment of a reward, or that on which a policy, an encoder or a metric is tried.",
)
@click.option(
    "--structure",
    "structures",
    multiple=True,
    metavar="NAME|key=value,...",
    shell_complete=completion.presets,
    help="A structure small enough to enumerate; repeatable. By default the two smallest presets of at least"
    " 20 states.",
)
@json_option
def check(name: str, kind: str | None, env: str | None, structures: tuple[str, ...], as_json: bool) -> None:
    """Check a registered environment, reward, policy, encoder, denoiser or metric.

    The exit status is 0 if all is well, and 1 with a line for each finding.

    \b
    Example:
      genflow check hypergrid --structure ndim=2,height=5 --structure ndim=3,height=4
    """
    from genflow.progress import Progress
    from genflow.testing.plans import check as made

    kind, name, env = _meant(name, kind, env)
    with Progress(quiet=as_json).as_current():
        outcomes = list(made(kind, name, env, structures))
    data = {"kind": kind, "name": name, "env": env, "checks": [each.as_json() for each in outcomes]}
    emit(as_json, data, "\n".join(_lines(kind, name, outcomes)))
    if any(each.findings for each in outcomes):
        sys.exit(1)


def _meant(name: str, kind: str | None, env: str | None) -> tuple[str, str, str | None]:
    """The kind that a name is of, its registered name, and the environment of a reward.

    Raises:
        GenflowError: no plugin registers the name, or several kinds or environments have it.
    """
    from genflow.errors import GenflowError, did_you_mean
    from genflow.registry import registry

    found, known = [], []
    for each in [kind] if kind else KINDS:
        for full in registry().names(each):  # of a reward ENVIRONMENT:NAME
            owner, _, own = full.rpartition(":")
            known.append(own)
            if name in (own, full) and (each != "reward" or env in (None, owner)):
                found.append((each, own, owner or env))
    if not found:
        failed = [plugin.name for plugin in registry().plugins if plugin.error is not None]
        hint = f" (not usable: {', '.join(failed)}; see genflow list-plugins)" if failed else ""
        near = did_you_mean(name, set(known))
        raise GenflowError(f"no plugin registers {kind or 'anything'} named {name!r}{near}{hint}")
    if len(found) > 1:
        several = [f"{each} of {owner}" if each == "reward" else each for each, _, owner in found]
        raise GenflowError(f"{name!r} is a name of {' and '.join(several)}; say which with --kind or --env")
    return found[0]


def _lines(kind: str, name: str, outcomes: Sequence[Outcome]) -> list[str]:
    """What was checked, what was not and why, notes, and findings last."""
    subjects = list(dict.fromkeys(each.subject for each in outcomes))
    lines = []
    for subject in subjects:
        own = [each for each in outcomes if each.subject == subject]
        passed = [each.check for each in own if not each.findings and each.skipped is None]
        if passed:
            lines.append(f"{kind} {name}, {subject}: {', '.join(passed)}")
        reasons = list(dict.fromkeys(each.skipped for each in own if each.skipped is not None))
        for reason in reasons:
            skipped = ", ".join(each.check for each in own if each.skipped == reason)
            lines.append(f"  skipped {skipped}: {reason}")
        lines += [f"  note: {note}" for each in own for note in each.notes]
    found = [(each, finding) for each in outcomes for finding in each.findings]
    lines += [f"finding, {each.subject}, {each.check}: {' '.join(text.split())}" for each, text in found]
    return [*lines, f"{len(found)} findings" if len(found) != 1 else "1 finding"]
