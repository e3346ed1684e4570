"""Comments that begin with ``#:`` document the attribute under them, as in the code of genflow."""

from __future__ import annotations

import inspect
from typing import Any

import griffe


class DocumentingComments(griffe.Extension):
    """Takes the ``#:`` lines over an attribute without a docstring for its docstring."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Look above the attribute."""
        if attr.docstring or attr.lineno is None or not attr.lines_collection:
            return
        lines, number, found = attr.lines_collection[attr.filepath], attr.lineno - 2, []
        while number >= 0 and lines[number].lstrip().startswith("#:"):
            found.append(lines[number].lstrip()[2:].strip())
            number -= 1
        if found:
            attr.docstring = griffe.Docstring(inspect.cleandoc(" ".join(reversed(found))), parent=attr)
