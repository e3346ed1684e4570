"""Built-in networks of the conditional latent diffusion model."""

import genflow


@genflow.hookimpl
def register_denoisers(register):
    """Register `unet1d`, the U-Net of the paper."""
    register("unet1d", "genflow_denoisers.unet1d:UNet1d")
