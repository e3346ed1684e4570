"""``genflow explore``."""

from __future__ import annotations

import importlib.util

import click

#: seldom taken by anything else
PORT = 8770


@click.command("explore", short_help="Play with policies and molecules in the browser.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    metavar="N",
    help="Port of this machine; 0 takes one that is free.",
)
@click.option("--browser/--no-browser", default=True, help="Whether the browser is opened at the page.")
def explore(port, browser):
    """Open a page with sliders: policies for hypergrids, and molecules for a wish.

    Only this machine can reach the page, and the page asks nothing of any other. Ctrl-C ends it.

    Needs the extra genflownet[explore].

    \b
    Example:
      genflow explore
    """
    from genflow import GenflowError

    if importlib.util.find_spec("nicegui") is None:
        raise GenflowError(
            "the page needs nicegui, which is not installed; in a clone of genflow, run pip install"
            " '.[explore]'"
        )
    from .server import serve

    serve(port, browser)
