"""Built-in autoencoders of policy weights."""

import genflow


@genflow.hookimpl
def register_encoders(register):
    """conv1d: the paper's."""
    register("conv1d", "genflow_encoders.conv1d:Conv1dEncoder")
