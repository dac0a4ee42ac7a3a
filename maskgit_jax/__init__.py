"""Token-based image generation in JAX/Flax: VQGAN tokenizers and MaskGIT."""

__version__ = "0.1.0"
