"""Quantizers: continuous latents to codes and tokens, and how a codebook is kept in use."""
