"""Built-in networks of the conditional latent diffusion model."""

import genflow


@genflow.hookimpl
def register_denoisers(register):
    """unet1d: the paper's."""
    register("unet1d", "genflow_denoisers.unet1d:UNet1d")
