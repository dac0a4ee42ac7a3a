"""Autoencoders: models between images and latents or tokens."""
