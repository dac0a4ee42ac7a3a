"""Quantizers: continuous latents to codes and tokens, and the training of their codebooks."""
