"""Profiles of a dimension as expressions of its position, such as ``exp(-((u - .3) / .1) ** 2)``.

An expression is read by Python's grammar and computed here: it names nothing but what is listed, so that one
from a stranger runs no code.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from genflow import GenflowError, brief, did_you_mean

#: the longest expression
MAX_LENGTH = 500
#: the largest number in one
MAX_NUMBER = 1e300
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
#: functions of one number, and of two
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "cos": np.cos, "exp": np.exp, "floor": np.floor, "log": np.log, "sin": np.sin,
    "sqrt": np.sqrt, "tanh": np.tanh, "max": np.maximum, "min": np.minimum,
}  # fmt: skip
_OF_TWO = ("max", "min")


def evaluate(text: str, values: Mapping[str, Any]) -> np.ndarray:
    """Compute an expression of named numbers or arrays, in float64.

    Comparisons are 1 or 0; ``a and b`` is 1 where both are not 0, and so on.

    Raises:
        GenflowError: it is no expression, or uses something that is not listed.
    """
    names = {**values, "pi": math.pi}
    if len(text) > MAX_LENGTH:
        raise GenflowError(f"an expression of {len(text)} characters; {MAX_LENGTH} are the most")
    if not text.strip():
        raise GenflowError("an expression is empty")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GenflowError(f"{brief(text)} is no expression: {getattr(error, 'msg', error)}") from None

    def number(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value):
                if abs(value) > MAX_NUMBER:
                    raise GenflowError(f"{brief(text)} has a number above {MAX_NUMBER:g}")
                return np.float64(value)
            case ast.Name(id=name) if name in names:
                return np.asarray(names[name], dtype=np.float64)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](number(left), number(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -number(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return number(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return (number(operand) == 0).astype(np.float64)
            case ast.BoolOp(op=op, values=parts):
                together = np.logical_and if isinstance(op, ast.And) else np.logical_or
                found = number(parts[0]) != 0
                for part in parts[1:]:
                    found = together(found, number(part) != 0)
                return np.asarray(found, dtype=np.float64)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in _COMPARED for op in ops
            ):
                sides = [number(each) for each in (left, *others)]
                found = np.asarray(True)
                for before, way, after in zip(sides, ops, sides[1:], strict=False):
                    found = found & _COMPARED[type(way)](before, after)
                return np.asarray(found, dtype=np.float64)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and len(
                args
            ) == (2 if name in _OF_TWO else 1):
                return _FUNCTIONS[name](*map(number, args))
            case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
                known = {*names, *_FUNCTIONS}
                if name not in known:
                    raise GenflowError(f"{brief(text)} uses {name!r}{did_you_mean(name, known)}")
        raise GenflowError(
            f"{brief(text)} has a part that is not understood; {_known({*names, *_FUNCTIONS})}"
        )

    with np.errstate(all="ignore"):
        return np.asarray(number(tree), dtype=np.float64)


def _known(names: set[str]) -> str:
    return f"there are + - * / ** %, comparisons, and {', '.join(sorted(names))}"
