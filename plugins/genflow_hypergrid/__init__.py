"""The hypergrid of Bengio et al. 2021 on torchgfn, with exact rewards."""

import genflow


@genflow.hookimpl
def register_environments(register):
    """Register `hypergrid`."""
    register("hypergrid", "genflow_hypergrid.environment:Hypergrid")


@genflow.hookimpl
def register_rewards(register):
    """Register the rewards of the hypergrid.

    `original`, `paper` and `separable` are our own; the others are torchgfn's.
    """
    for name, where in {
        "original": "rewards:Original",
        "paper": "rewards:Paper",
        "separable": "own_terms:Separable",
        "cosine": "torchgfn_rewards:Cosine",
        "sparse": "torchgfn_rewards:Sparse",
        "deceptive": "torchgfn_rewards:Deceptive",
        "bitwise_xor": "torchgfn_rewards:BitwiseXor",
        "multiplicative_coprime": "torchgfn_rewards:MultiplicativeCoprime",
        "conditional_multiscale": "torchgfn_rewards:ConditionalMultiscale",
    }.items():
        register(name, f"genflow_hypergrid.{where}", environment="hypergrid")
