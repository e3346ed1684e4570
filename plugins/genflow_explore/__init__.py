"""A page to play with in the browser: ``genflow explore``."""

import genflow


@genflow.hookimpl
def register_commands(cli):
    """Add `genflow explore`."""
    from .cli import explore

    cli.add_command(explore)
