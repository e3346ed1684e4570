"""The hypergrid of Bengio et al. 2021 on torchgfn, with an exact reward."""

import genflow


@genflow.hookimpl
def register_environments(register):
    """hypergrid."""
    register("hypergrid", "genflow_hypergrid.environment:Hypergrid")
