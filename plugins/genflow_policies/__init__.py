"""Built-in policy architectures."""

import genflow


@genflow.hookimpl
def register_policies(register):
    """Register `mlp3`, the three linear layers of the paper, and `mlp`, which has any number of them."""
    register("mlp3", "genflow_policies.mlp3:MLP3")
    register("mlp", "genflow_policies.mlp:MLP")
