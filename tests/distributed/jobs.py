"""A small job, and the same with the recipe of the shipped generators."""

STRUCTURES = ["ndim=2,height=4,width=16", "ndim=3,height=4,width=16", "ndim=2,height=7,width=16"]
UNKNOWN = "ndim=2,height=5,width=16"
#: Adam divides tiny gradients by themselves, so that only low rates keep rounding small
SMALL = f"""
env = "hypergrid"
structures = {STRUCTURES}
selection_structures = ["ndim=2,height=6,width=16"]
test_structures = ["{UNKNOWN}"]
[zoo]
num = 4
seeds = 2
steps = 60
batch_size = 16
[autoencoder]
steps = 40
batch_size = 7
kl_scale = 0.3
options = {{latent_size = 16}}
[diffusion]
steps = 60
batch_size = 13
drop_condition = 0.2
lr = 3e-4
options = {{channels = [8, 8]}}
[diffusion.sampling]
sampler = "dpm++"
steps = 8
guidance = 1.5
[generate]
num = 3
[evaluation]
num = 2
[finetune]
steps = 30
"""
#: the shipped generators' recipe, shrunk
COORDINATE = """
[autoencoder]
encoder = "coordinate"
kl_scale = 1.0
weight_loss_scale = 0.5
batch_size = 6
per_structure = 2
steps = 40
lr = 2e-4
ema = 0.99
states = 32
[autoencoder.options]
matrices = 4
rank = 2
reference = "optimal"
swap_probability = 0.5
length_power = 1.0
normaliser_floor = 0.001
"""
