"""What a check yields: findings, each one sentence with the mend, or the reason why it was skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from genflow.errors import GenflowError
from genflow.interfaces.validation import blaming


class Skipped(Exception):
    """Raised by a check that cannot be made; the text says why, and what to do where something can be."""


class Note(str):
    """What a check yields that is no fault, e.g. which encoders take a policy."""

    __slots__ = ()


#: a function of what is checked, whose docstring's first sentence says what must hold. It yields a sentence a
#: fault, raises `Skipped`, or raises a GenflowError, which is a fault too
Check = Callable[[Any], Iterable[str]]


@dataclass(frozen=True)
class Outcome:
    """What became of one check.

    Attributes:
        check: the name of the check.
        subject: what was checked, e.g. a structure's name.
        holds: the sentence that says what must hold.
        findings: a sentence with the mend for each fault, none if all is well.
        notes: what else is to be said.
        skipped: why the check could not be made, or None.
    """

    check: str
    subject: str
    holds: str
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry that ``genflow check --json`` prints."""
        return asdict(self)


def name_of(check: Check) -> str:
    """Return the name of a check, e.g. ``backward masks`` of ``check_backward_masks``."""
    return check.__name__.removeprefix("check_").replace("_", " ")


def made(check: Check, subject: Callable[[], Any], where: str) -> Outcome:
    """Make a check.

    Args:
        check: the check.
        subject: makes its argument.
        where: what is checked, for the outcome and for what a plugin's code raises.
    """
    parts = name_of(check), where, (check.__doc__ or "").partition("\n")[0]
    found: list[str] = []
    try:
        with blaming(where):
            try:
                found.extend(check(subject()))
            except Skipped as skipped:
                return Outcome(*parts, skipped=str(skipped))
    except GenflowError as error:
        found.append(str(error))
    notes = tuple(each for each in found if isinstance(each, Note))
    return Outcome(*parts, tuple(each for each in found if not isinstance(each, Note)), notes)
