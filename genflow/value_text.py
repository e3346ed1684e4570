"""Conversion of values to short texts and back, for names of structures and ``--structure key=value``.

Numbers and names are written as they are. A list of several items is ``a+b+c``. A nested list, or one with a
single item, has brackets, as in ``[[0+1]+[1+0]]``. A table is ``{key:value+key:value}``. Inside brackets, a
comma may replace ``+``, and ``=`` may replace ``:``. What stands in double quotation marks is a string as it
is, without lists, tables and %XX.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any
from urllib.parse import quote, unquote

from genflow.errors import GenflowError

#: a separator of items, but not the sign of an exponent as in 1e+5
_SEPARATOR = re.compile(r"(?:(?<![0-9][eE])|(?<=%[0-9][eE]))[+,]")
_END = re.compile(rf"[\]\)}},]|{_SEPARATOR.pattern}")
#: the empty string as an item of a list
EMPTY = "''"
_EXPONENT = re.compile(r"[0-9][eE]$")
# Python reads no integer of more than 4300 digits
_INTEGER, _NUMBER = re.compile(r"[+-]?\d{1,4000}"), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: the texts for None
_NOTHING = ("None", "null")
#: texts that are not read as strings
_LITERAL = re.compile(rf"{_NUMBER.pattern}|[Tt]rue|[Ff]alse|None|null")


def to_text(value: Any, literals: Set[type] = frozenset(), flat: bool = True) -> str:
    """Write a JSON-serialisable value as a text that `from_text` reads and that is a valid folder name.

    Args:
        value: the value to write.
        literals: as for `from_text`. A string that would be read as one of these types is quoted.
        flat: whether a list of several items is ``a+b``, or else has brackets.
    """
    if (
        flat
        and isinstance(value, tuple | list)
        and len(value) > 1
        and not any(isinstance(v, tuple | list | Mapping) for v in value)
    ):
        return "+".join(map(_nested, value))
    if isinstance(value, str) and value not in _NOTHING and type(_number(value)) not in literals:
        # what begins with ~ is a digest
        return f"%7E{_quoted(value[1:])}" if value.startswith("~") else _quoted(value)
    return _nested(value)


def _nested(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{'+'.join(map(_nested, value))}]"
    if isinstance(value, Mapping):
        return f"{{{'+'.join(f'{_item_text(str(key))}:{_nested(each)}' for key, each in value.items())}}}"
    return _item_text(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    # characters such as / are escaped, because the text becomes part of a path
    inner = text.strip(" ")
    if not inner:
        return "%20" * len(text)
    before, after = text.partition(inner)[::2]
    return "%20" * len(before) + quote(inner, safe=" *.-", errors="surrogatepass") + "%20" * len(after)


def _item_text(text: str) -> str:
    """Write a string inside a list or table, escaped if it would be read as a number or an exponent."""
    if not text:
        return EMPTY
    if _LITERAL.fullmatch(text) or _EXPONENT.search(text):
        return _quoted(text[:-1]) + f"%{ord(text[-1]):02X}"
    return _quoted(text)


def from_text(
    text: str,
    sequence: bool = False,
    optional: bool = False,
    brackets: bool = True,
    literals: Set[type] = frozenset(),
    item_literals: Set[type] = frozenset(),
) -> Any:
    """Parse the text of a value.

    Args:
        text: a text in the format of this module.
        sequence: whether ``a+b`` is a list of two items, or else one string.
        optional: whether ``None`` is None, or else a string.
        brackets: whether a text that begins with a bracket is a list or table, or else a string.
        literals: the scalar types to recognise, e.g. {int}. Any other text is a string.
        item_literals: likewise, for the items of ``a+b``.

    Raises:
        GenflowError: a bracket is not closed, or text follows the closing bracket.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    if brackets and text[:1] in ("[", "{", "("):
        return _parse(text)
    if optional and text in _NOTHING:
        return None
    if sequence and _SEPARATOR.search(text):
        return [_read(part.strip(), item_literals) for part in _SEPARATOR.split(text) if part.strip()]
    if type(_number(text)) in literals:
        return _number(text)
    return unquote(text, errors="surrogateescape")


def _parse(text: str) -> Any:
    value, rest = _item(text)
    if rest.strip():
        raise GenflowError(f"{text!r} is no list or table: {rest.strip()!r} follows its end")
    return value


def _item(text: str) -> tuple[Any, str]:
    """Parse the value at the start of a text, and return it with the rest."""
    text = text.lstrip()
    if text[:1] in ("[", "("):
        items, rest = [], text[1:].lstrip()
        while rest[:1] not in ("]", ")"):
            each, rest = _item(rest)
            items.append(each)
            rest = _next(text, rest, "])")
        return items, rest[1:]
    if text[:1] == "{":
        table, rest = {}, text[1:].lstrip()
        while rest[:1] != "}":
            found = re.match(r"([^:={}\[\]+,]+)[:=]", rest)
            if found is None:
                raise GenflowError(f"{text!r} is no table; write {{key:value+key:value}}")
            table[_unquoted(found[1])], rest = _item(rest[found.end() :])
            rest = _next(text, rest, "}")
        return table, rest[1:]
    number = _NUMBER.match(text)
    end = _END.search(text, number.end() if number else 0)
    scalar, rest = (text[: end.start()], text[end.start() :]) if end else (text, "")
    return _number(scalar.strip()), rest


def _next(text: str, rest: str, closing: str) -> str:
    """Skip the separator between two items and return the rest."""
    rest = rest.lstrip()
    if rest[:1] and rest[0] in "+,":
        return rest[1:].lstrip()
    if not rest or rest[0] not in closing:
        raise GenflowError(f"{text!r} is no list or table: a bracket is not closed")
    return rest


def _number(text: str) -> Any:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    if text in ("True", "true", "False", "false"):
        return text in ("True", "true")
    return None if text in _NOTHING else _unquoted(text)


def _read(text: str, literals: Set[type]) -> Any:
    value = _number(text)
    return value if type(value) in literals else _unquoted(text)


def _unquoted(text: str) -> str:
    return unquote(text.strip().strip("\"'"), errors="surrogateescape")


def count_of(n: int, one: str, many: str = "") -> str:
    """Return a number with what it counts, "1 policy" or "2,000 policies"; `many` is `one` with an s."""
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def require_text(text: Any) -> str:
    """Return a structure's text as it is.

    Raises:
        GenflowError: it is no text, such as the fields of a structure.
    """
    if isinstance(text, str):
        return text
    raise GenflowError(
        f"a structure to parse is a text, not {type(text).__name__}; make one of fields with"
        " Structure.build(env, fields)"
    )
