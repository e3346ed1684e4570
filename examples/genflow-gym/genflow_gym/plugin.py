"""The entry point: what this distribution adds to genflow."""

import genflow


@genflow.hookimpl
def register_environments(register):
    """The environments of torchgfn's gym with discrete states that are tensors."""
    register("bit_sequence", "genflow_gym.bits:AppendedBits")
    register("bit_sequence_any_order", "genflow_gym.bits:PlacedBits")
    register("set_addition", "genflow_gym.sets:Sets")
    register("dag", "genflow_gym.dags:Dags")
    register("discrete_ebm", "genflow_gym.energies:Energies")
    register("ising_lattice", "genflow_gym.lattice:Lattice")
    register("perfect_tree", "genflow_gym.trees:Tree")


@genflow.hookimpl
def register_rewards(register):
    """What sets and trees pay; others may register more."""
    register("pairwise", "genflow_gym.sets:Pairwise", environment="set_addition")
    register("leaves", "genflow_gym.trees:Leaves", environment="perfect_tree")
