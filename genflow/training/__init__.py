"""Training of policies, autoencoders and diffusion models, all through one resumable loop."""
