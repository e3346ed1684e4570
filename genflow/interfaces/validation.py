"""Checks of what a task and its policy say of themselves; each names the class, the fault and the mend.

They check values when these are first read, and compute nothing more.
"""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from genflow.errors import GenflowError
from genflow.interfaces.environment import Environment
from genflow.interfaces.policy import PolicyArch
from genflow.layout import UnitDescriptions, WeightLayout
from genflow.schema import brief

#: classes of environments -> class of the policy -> the names of the first condition
_condition_names: WeakKeyDictionary[type, dict[type, list[str]]] = WeakKeyDictionary()


def fault(where: str, message: str) -> GenflowError:
    """Return the error for a mistake in a plugin, e.g. in ``Bits.units()``."""
    return GenflowError(f"{where}: {message}")


@contextlib.contextmanager
def blaming(where: str) -> Iterator[None]:
    """Turn what a plugin's code raises into one line that says where.

    Raises:
        GenflowError: something else than a GenflowError, or a lack of memory, was raised inside.
    """
    try:
        yield
    except (GenflowError, MemoryError):
        raise
    except Exception as error:  # a plugin's code may raise anything
        if isinstance(error, RuntimeError) and "allocate" in str(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error) or last.line or ""
        place = f"{last.filename.rpartition('/')[2]}, line {last.lineno}"
        raise fault(where, f"raised {type(error).__name__}: {brief(what)} ({place})") from error


def checked_layout(environment: Environment, arch: PolicyArch) -> WeightLayout:
    """Return the layout of an architecture's weights for a task.

    Raises:
        GenflowError: it cannot be made, or is not what it must be; the units are blamed if they are at fault.
    """
    where = f"{type(arch).__name__}.layout()"
    try:
        with blaming(where):
            layout = arch.layout(environment)
    except GenflowError:
        _require_units(environment)
        raise
    if not isinstance(layout, WeightLayout) or not {"input", "action"} <= set(layout.units):
        raise fault(where, f"returns {kind_of(layout)}; return a genflow.WeightLayout with input and action")
    if not all(isinstance(layout.units[axis], UnitDescriptions) for axis in ("input", "action")):
        _require_units(environment)
    return layout


def _require_units(environment: Environment) -> None:
    """Raise an error unless `Environment.units` returns what it must."""
    where = f"{type(environment).__name__}.units()"
    try:
        with blaming(where):
            units = environment.units()
    except GenflowError as error:
        raise error if where in str(error) else fault(where, str(error)) from error
    if not hasattr(units, "inputs") or not all(isinstance(each, UnitDescriptions) for each in units):
        raise fault(
            where,
            f"returns {kind_of(units)}; return genflow.Units(inputs, actions), each genflow.UnitDescriptions",
        )


def checked_condition(environment: Environment, arch: PolicyArch) -> dict[str, float]:
    """Return the condition of a task and then of its policy.

    Raises:
        GenflowError: it is no finite numbers, or has other names than that of an earlier structure of the
            same classes, so that one network cannot read both.
    """
    numbers = {**numbers_of(environment), **numbers_of(arch)}
    names = list(numbers)
    known = _condition_names.setdefault(type(environment), {}).setdefault(type(arch), names)
    if names != known:
        raise fault(
            f"{type(environment).__name__}.condition()",
            f"gives {brief(', '.join(names))} for one structure and {brief(', '.join(known))} for another;"
            " return the same names in the same order for all, with a number, e.g. 0.0, where one says"
            " nothing",
        )
    return numbers


def numbers_of(part: Environment | PolicyArch) -> Mapping[str, float]:
    """Return the numbers that a task or an architecture gives to the condition.

    Raises:
        GenflowError: they are no finite numbers with names.
    """
    where = f"{type(part).__name__}.condition()"
    with blaming(where):
        numbers = part.condition()
    if not isinstance(numbers, Mapping):
        raise fault(where, f"returns {kind_of(numbers)}; return a dict of names and numbers")
    for key, value in numbers.items():
        if not isinstance(value, Real) or not math.isfinite(value):
            raise fault(
                where,
                f"gives {brief(str(key))} = {brief(repr(value))}, which is no finite number;"
                " return a float, and give each category a number of its own, e.g. 0.0 or 1.0",
            )
    return numbers


def checked_initial_logits(environment: Environment, n_actions: int) -> Tensor | None:
    """Return `Environment.initial_logits`.

    Raises:
        GenflowError: they are not (A,).
    """
    where = f"{type(environment).__name__}.initial_logits()"
    with blaming(where):
        logits = environment.initial_logits()
    if logits is not None and not (isinstance(logits, Tensor) and logits.shape == (n_actions,)):
        raise fault(where, f"returns {kind_of(logits)}; return one logit for each of the {n_actions} actions")
    return logits


def kind_of(value: Any) -> str:
    """Write what a value is: the shape and type of a tensor, and else its class."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple):
        return f"({', '.join(type(each).__name__ for each in value)})"
    return type(value).__name__
