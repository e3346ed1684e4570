"""Built-in autoencoders of policy weights."""

import genflow


@genflow.hookimpl
def register_encoders(register):
    """conv1d: the paper's; coordinate: from the meaning of the units, for structures never seen."""
    register("conv1d", "genflow_encoders.conv1d:Conv1dEncoder")
    register("coordinate", "genflow_encoders.coordinate:CoordinateEncoder")


@genflow.hookimpl
def register_commands(cli):
    """convert."""
    from .cli import convert

    cli.add_command(convert)
