"""What a tracker needs beyond genflow."""

from __future__ import annotations

import importlib
from typing import Any

from genflow import GenflowError


def need(tracker: str, *modules: str) -> list[Any]:
    """Import modules of the library that a tracker and its extra are named for.

    Raises:
        GenflowError: it cannot be imported.
    """
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise GenflowError(
            f"tracker {tracker!r} needs {tracker}, which cannot be imported ({error}): pip install {tracker},"
            f" or the extra {tracker} of genflownet"
        ) from error
