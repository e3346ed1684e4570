"""Two rewards of one's own, for molecules and for grids: `genflow --plugin examples/own_reward.py ...`."""

from rdkit.Chem import Descriptors

import genflow


class Light(genflow.Reward):
    """Pays for molecules that are not heavy, from 0 to 1."""

    environment = "molecule"
    reads_task = False  # a molecule scores the same in every structure

    class Config(genflow.Schema):
        """The option that `--structure` sets."""

        most: float = genflow.described(500.0, gt=0, description="The weight from which nothing is paid.")

    def score(self, objects):
        """The scores of some RDKit molecules."""
        return [max(0.0, 1 - Descriptors.MolWt(mol) / self.config.most) for mol in objects]


class Diagonal(genflow.Reward):
    """Pays for points near the diagonal of a grid; `self.task.heights` are its dimensions' positions."""

    environment = "hypergrid"

    def score(self, objects):
        """The rewards R(x) > 0 of some positions (B, n)."""
        return 0.01 + (-(objects - objects.float().mean(-1, keepdim=True)).abs().sum(-1)).exp()


@genflow.hookimpl
def register_rewards(register):
    """Give the rewards names."""
    register("light", "own_reward:Light", environment="molecule")
    register("diagonal", "own_reward:Diagonal", environment="hypergrid")
