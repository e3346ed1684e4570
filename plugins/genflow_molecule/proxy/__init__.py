"""A network that predicts docking affinities, and how it was made.

`dock_data`, then `train`; `network` is what the reward uses.
"""
