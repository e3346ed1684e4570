"""Values as short texts, as they stand in a structure's name and after ``--structure key=``, and back.

Numbers and names stand as they are; a list of several is ``a+b+c``; what is nested, or has one item, has
brackets: ``[[0+1]+[1+0]]``; a table is ``{key:value+key:value}``. Commas may stand for ``+`` inside brackets,
and ``=`` for ``:``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from genflow.errors import GenflowError

#: what separates items: not the sign of an exponent, as in 1e+5
_SEPARATOR = re.compile(r"(?:(?<![0-9][eE])|(?<=%[0-9][eE]))[+,]")
_END = re.compile(rf"[\]\)}},]|{_SEPARATOR.pattern}")
#: how a text of no characters is written within a list
EMPTY = "''"
_EXPONENT = re.compile(r"[0-9][eE]$")
_INTEGER, _NUMBER = re.compile(r"[+-]?\d+"), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: how the absence of a value is written
_NOTHING = ("None", "null")
#: what is no text
_LITERAL = re.compile(rf"{_NUMBER.pattern}|[Tt]rue|[Ff]alse|None|null")


def to_text(value: Any) -> str:
    """Write a JSON-able value so that `from_text` reads it, with no character that a folder may not have."""
    if (
        isinstance(value, tuple | list)
        and len(value) > 1
        and not any(isinstance(v, tuple | list | Mapping) for v in value)
    ):
        return "+".join(map(_nested, value))
    if isinstance(value, str) and value not in _NOTHING:
        return _quoted(value)
    return _nested(value)


def _nested(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{'+'.join(map(_nested, value))}]"
    if isinstance(value, Mapping):
        return f"{{{'+'.join(f'{_item_text(str(key))}:{_nested(each)}' for key, each in value.items())}}}"
    return _item_text(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    # a name may hold any character, which must neither leave the folder nor be read as something else
    inner = text.strip(" ")
    if not inner:
        return "%20" * len(text)
    before, after = text.partition(inner)[::2]
    return "%20" * len(before) + quote(inner, safe=" *.-", errors="surrogatepass") + "%20" * len(after)


def _item_text(text: str) -> str:
    """A text within a list or table, where it must not be read as a number, nor its end as an exponent."""
    if not text:
        return EMPTY
    if _LITERAL.fullmatch(text) or _EXPONENT.search(text):
        return _quoted(text[:-1]) + f"%{ord(text[-1]):02X}"
    return _quoted(text)


def from_text(text: str, sequence: bool = False, optional: bool = False, brackets: bool = True) -> Any:
    """Read a value.

    Args:
        text: see the module.
        sequence: whether ``a+b`` is a list of two; else it is one text.
        optional: whether ``None`` is the absence of a value; else it is a text.
        brackets: whether what begins with a bracket is a list or table; else it is a text.

    Raises:
        GenflowError: a bracket is not closed, or something follows it.
    """
    text = text.strip()
    if brackets and text[:1] in ("[", "{", "("):
        return _parse(text)
    if optional and text in _NOTHING:
        return None
    if sequence and _SEPARATOR.search(text):
        return [_unquoted(part) for part in _SEPARATOR.split(text) if part.strip()]
    return unquote(text, errors="surrogateescape")


def _parse(text: str) -> Any:
    value, rest = _item(text)
    if rest.strip():
        raise GenflowError(f"{text!r} is no list or table: {rest.strip()!r} follows its end")
    return value


def _item(text: str) -> tuple[Any, str]:
    """The value at the start of a text, and what follows it."""
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
    """What follows the separator between two items."""
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


def _unquoted(text: str) -> str:
    return unquote(text.strip().strip("\"'"), errors="surrogateescape")
