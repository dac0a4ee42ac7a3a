"""Models between images and latents or tokens."""
