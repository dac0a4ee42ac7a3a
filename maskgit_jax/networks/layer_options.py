"""Options of the transformer's layers, each declared once: config key, check, comment.

This module imports no JAX, so that configurations and commands can read the declarations cheaply.
"""

from dataclasses import dataclass

from maskgit_jax.settings import setting


@dataclass(frozen=True)
class LayerOptions:
    """Options of the layers that are newer than MaskGIT and GPT; the defaults are the published.

    Sources: RMSNorm: Zhang and Sennrich 2019. RoPE: Su et al. 2021. Normalized queries and keys:
    Dehghani et al. 2023. Squared ReLU: So et al. 2021. SwiGLU: Shazeer 2020.
    """

    norm_type: str = setting(
        "layer", "LayerNorm, or RMSNorm, which has no mean and no bias.", choices=("layer", "rms")
    )
    positions: str = setting(
        "learned",
        "Learned embeddings, rotations of queries and keys by row and column (RoPE), or both.",
        choices=("learned", "rope", "both"),
    )
    qk_norm: str = setting(
        "none",
        "RMSNorm of queries and keys: of each head, with a learned scale, or of the whole width, "
        "without one.",
        choices=("none", "head", "width"),
    )
    mlp: str = setting(
        "gelu",
        "Activation of the MLP. swiglu has a second input projection: with two thirds of the "
        "hidden width it has as many parameters.",
        choices=("gelu", "relu2", "swiglu"),
    )
    zero_init: bool = setting(
        False,
        "Whether the output projections start at 0, so that each pre-norm layer is the identity.",
    )

    @property
    def learned_positions(self) -> bool:
        """Whether positions have embeddings."""
        return self.positions != "rope"

    @property
    def rotary(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.positions != "learned"
