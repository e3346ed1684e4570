"""Built-in policy architectures."""

import genflow


@genflow.hookimpl
def register_policies(register):
    """Register `mlp3`, the three linear layers of the paper, `mlp`, which has any number, and `deepsets`."""
    register("mlp3", "genflow_policies.mlp3:MLP3")
    register("mlp", "genflow_policies.mlp:MLP")
    register("deepsets", "genflow_policies.deepsets:DeepSets")
