"""Conditions on the columns of a table, such as ``score>0.5 and not 300<=mw<=450``, parsed and never run.

Python's grammar is read, of which only names of columns, numbers, comparisons, ``and``, ``or``, ``not`` and
brackets are taken.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from genflow.errors import GenflowError, did_you_mean
from genflow.schema import brief

#: the longest condition, so that none is nested deeply
MAX_LENGTH = 500
_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}

#: the values of a row by column -> whether the row is kept, or a number
_Test = Callable[[Mapping[str, float]], bool]
_Number = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class Condition:
    """A condition on the columns of a row.

    Attributes:
        columns: the columns that it reads.
        holds: whether a row meets it, by the values of these columns.
        text: of the option.
    """

    columns: tuple[str, ...]
    holds: _Test
    text: str

    @classmethod
    def parse(cls, text: str, known: Sequence[str]) -> Condition:
        """Parse a condition.

        Args:
            text: of the option.
            known: the columns of numbers.

        Raises:
            GenflowError: the text is none, or names another column.
        """
        where = f"--filter {brief(text)!r}"
        try:
            if len(text) > MAX_LENGTH:
                raise _NoConditionError(f"is longer than {MAX_LENGTH} characters")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # of what is refused below
                tree = ast.parse(text.strip(), mode="eval").body
            columns = tuple(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))
            for column in columns:
                if column not in known:
                    raise _NoConditionError(f"names no column {column!r}{did_you_mean(column, known)}")
            return cls(columns, _test(tree), text)
        except _NoConditionError as error:
            raise GenflowError(f"{where} {error}") from None
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise GenflowError(
                f"{where} is no condition; write comparisons of columns with numbers, joined by and, or, not,"
                " as in score>0.5"
            ) from None


class _NoConditionError(Exception):
    """What is wrong with a text, after the text itself."""


def _test(node: ast.expr) -> _Test:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            every = [_test(value) for value in values]
            return lambda row: all(test(row) for test in every)
        case ast.BoolOp(op=ast.Or(), values=values):
            some = [_test(value) for value in values]
            return lambda row: any(test(row) for test in some)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _test(operand)
            return lambda row: not inner(row)
        case ast.Compare(left=left, ops=ops, comparators=comparators) if all(
            type(op) in _COMPARE for op in ops
        ):
            numbers = [_number(each) for each in (left, *comparators)]
            signs = [_COMPARE[type(op)] for op in ops]

            def holds(row: Mapping[str, float]) -> bool:
                values = [number(row) for number in numbers]
                return all(map(lambda sign, a, b: sign(a, b), signs, values, values[1:]))

            return holds
    raise _unfit(node, "a comparison")


def _number(node: ast.expr) -> _Number:
    match node:
        case ast.Name(id=column):
            return lambda row: row[column]
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return lambda row: value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return lambda row: -value
    raise _unfit(node, "a column or a number")


def _unfit(node: ast.expr, wanted: str) -> _NoConditionError:
    return _NoConditionError(f"has {brief(ast.unparse(node))!r} where {wanted} belongs")
