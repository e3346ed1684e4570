"""Built-in policy architectures."""

import genflow


@genflow.hookimpl
def register_policies(register):
    """mlp3: the paper's three linear layers."""
    register("mlp3", "genflow_policies.mlp3:MLP3")
