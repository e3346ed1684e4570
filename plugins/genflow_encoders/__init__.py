"""Built-in autoencoders of policy weights."""

import genflow


@genflow.hookimpl
def register_encoders(register):
    """Register `conv1d`, the encoder of the paper, and `coordinate`, for structures never seen."""
    register("conv1d", "genflow_encoders.conv1d:Conv1dEncoder")
    register("coordinate", "genflow_encoders.coordinate:CoordinateEncoder")


@genflow.hookimpl
def register_commands(cli):
    """Add `genflow convert`."""
    from .cli import convert

    cli.add_command(convert)
