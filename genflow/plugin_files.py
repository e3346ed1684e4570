"""Plugins that are a Python file, for one process."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from genflow.errors import GenflowError
from genflow.registry import KINDS, registry, stdout_to_stderr

#: kinds of which a run is made; metrics only measure it
_MAKING = KINDS.keys() - {"metric"}
#: folders of distributions, where modules that lie side by side have nothing to do with each other
_INSTALLED = {"site-packages", "dist-packages"}
#: name of a plugin that was loaded from a file -> digest of the file
_digests: dict[str, str] = {}


def file_digests() -> dict[str, str]:
    """Return the digests of the plugin files of this process that runs can be made of, by plugin."""
    making = {plugin.name for plugin in registry().plugins if _MAKING & plugin.provides().keys()}
    return {name: digest for name, digest in _digests.items() if name in making}


def code_digest(file: str | os.PathLike[str]) -> str:
    """Return a digest of a Python file and of those that it imports from beside it or from its own package.

    Imports are read from the source, wherever they stand in it. Data that the code reads is not in it.
    """
    first = Path(file).resolve()
    found, left = {first: first.read_bytes()}, [first]
    while left:
        for path in _imported(left.pop()):
            if path not in found:
                found[path] = path.read_bytes()
                left.append(path)
    total = hashlib.sha256(found.pop(first))
    for name, content in sorted((os.path.relpath(path, first.parent), found[path]) for path in found):
        total.update(name.encode() + hashlib.sha256(content).digest())
    return total.hexdigest()[:16]


def _imported(file: Path) -> Iterator[Path]:
    """The files beside a file, or of its package, that its source imports."""
    package = file.parent
    while (package / "__init__.py").exists():
        package = package.parent
    own = file.relative_to(package).parts[0]
    beside = package == file.parent and package.name not in _INSTALLED
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except SyntaxError:  # which whoever imports it is told
        return
    for node in nodes:
        level, inside = 0, list[str]()
        if isinstance(node, ast.ImportFrom):
            level, inside = node.level, node.module.split(".") if node.module else []
        elif not isinstance(node, ast.Import):
            continue
        # what is imported from a package may be a module
        for parts in ([*inside, *alias.name.split(".")] for alias in node.names):
            if not level and not (beside or parts[0] == own):
                continue
            folder = file.parents[level - 1] if 0 < level <= len(file.parents) else package
            for size in range(1, len(parts) + 1):
                place = folder.joinpath(*parts[:size])
                yield from filter(Path.is_file, (place.with_name(f"{place.name}.py"), place / "__init__.py"))


def load_plugin(file: Path | str) -> None:
    """Load a Python file as a plugin for this process, importable under its stem.

    The path must come from the user and never from a file, because this runs the code. A file that is loaded
    already is left as it is.

    Raises:
        GenflowError: the file does not exist, has no valid module name, or fails to load as a plugin.
    """
    path = Path(file)
    name = path.stem
    if not os.path.isfile(path):  # which a name that is too long is not, either
        raise GenflowError(f"plugin {path}: there is no such file")
    if path.suffix != ".py" or not name.isidentifier():
        raise GenflowError(
            f"plugin {path}: must be a Python file whose name can be imported, such as score.py"
        )
    loaded = sys.modules.get(name)
    if loaded is not None and registry().has(loaded) and path.samefile(str(loaded.__file__)):
        return
    found = _found(name)
    if found is not None and (found.origin is None or not _same(path, found.origin)):
        where = found.origin or ", ".join(found.submodule_search_locations or ["an unknown place"])
        raise GenflowError(f"plugin {path}: there is another module named {name!r}, {where}; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with stdout_to_stderr():
            try:
                spec.loader.exec_module(module)
            except (Exception, SystemExit) as error:  # a plugin's import may raise anything
                raise GenflowError(f"it cannot be imported: {type(error).__name__}: {error}") from error
        registry().add(name, module, str(path))
        _digests[name] = code_digest(path)
    except GenflowError as error:
        del sys.modules[name]
        raise GenflowError(f"plugin {path}: {error}") from error


def _found(name: str) -> ModuleSpec | None:
    """Return where Python would import a name from; a module that was run has no such place."""
    try:
        return importlib.util.find_spec(name)
    except ValueError:
        return ModuleSpec(name, None, origin=getattr(sys.modules[name], "__file__", None))


def _same(path: Path, origin: str) -> bool:
    """Return whether an origin is this file; that of a built-in module is no file."""
    return Path(origin).exists() and path.samefile(origin)
