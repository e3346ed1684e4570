"""The first line of a class's docstring, read from its source, so that the module need not be imported."""

from __future__ import annotations

import ast
import importlib.util
import sys
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

#: how often a name may be imported from another module before it is given up
MAX_HOPS = 8


def line_of(target: str) -> str:
    """Return what a registered class says of itself in one line, or "" where its source does not tell.

    Args:
        target: ``"module:Class"``, as a hook registers it. Neither the module nor a package above it is
            executed.
    """
    module, _, name = target.partition(":")
    for _hop in range(MAX_HOPS):
        parsed = _parsed(module)
        if parsed is None:
            return ""
        tree, package = parsed
        own = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        if own:
            return (ast.get_docstring(own[-1]) or "").partition("\n")[0].strip()
        moved = _imported_from(tree, name, package)
        if moved is None:
            return ""
        module, name = moved
    return ""


def _imported_from(tree: ast.Module, name: str, package: str) -> tuple[str, str] | None:
    """Return the module that a name is imported from, and its name there."""
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if name == (alias.asname or alias.name):
                place = "." * node.level + (node.module or "")
                try:
                    return importlib.util.resolve_name(place, package), alias.name
                except ImportError:  # a relative import that leads out of every package
                    return None
    return None


@cache  # a module may define many classes
def _parsed(module: str) -> tuple[ast.Module, str] | None:
    """Return the syntax tree of a module, and the package that its relative imports start from."""
    spec = _found(module)
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):  # compiled, or broken, which using it will tell
        return None
    return tree, module if spec.submodule_search_locations is not None else module.rpartition(".")[0]


def _found(module: str) -> ModuleSpec | None:
    """Find a module as `importlib.util.find_spec` does, which would import the packages above it."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was run has no place
        return None
    path = top
    for part in rest:
        path = f"{path}.{part}"
        loaded = sys.modules.get(path)
        if spec is None or spec.submodule_search_locations is None:
            return None
        known = getattr(loaded, "__spec__", None)
        spec = known or PathFinder.find_spec(path, list(spec.submodule_search_locations))
    return spec
