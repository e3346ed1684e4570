"""The hypergrid of Bengio et al. 2021 on torchgfn, with exact rewards."""

import genflow


@genflow.hookimpl
def register_environments(register):
    """Register `hypergrid`."""
    register("hypergrid", "genflow_hypergrid.environment:Hypergrid")


@genflow.hookimpl
def register_rewards(register):
    """Register the rewards of the hypergrid.

    `original` and `paper` are our own exact product rewards; the others are torchgfn's.
    """
    classes = {
        "original": "Original", "paper": "Paper", "cosine": "Cosine", "sparse": "Sparse",
        "deceptive": "Deceptive",
        "bitwise_xor": "BitwiseXor", "multiplicative_coprime": "MultiplicativeCoprime",
        "conditional_multiscale": "ConditionalMultiscale",
    }  # fmt: skip
    for name, cls in classes.items():
        register(name, f"genflow_hypergrid.rewards:{cls}", environment="hypergrid")
