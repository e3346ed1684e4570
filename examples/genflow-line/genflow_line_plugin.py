"""The entry point: what this distribution adds to genflow."""

import genflow


# apart from the environment, so that commands that do not use it need not import torch
@genflow.hookimpl
def register_environments(register):
    """line."""
    register("line", "genflow_line:Line")
