"""The paper's tables and figures, measured again: ``genflow reproduce``."""

import genflow


@genflow.hookimpl
def register_commands(cli):
    """Add `genflow reproduce`."""
    from .cli import reproduce

    cli.add_command(reproduce)
