"""Options of the transformer's layers, each declared once: config key, check, comment.

This module imports no JAX, so that configurations and commands can read the declarations cheaply.
"""

from dataclasses import dataclass

from maskgit_jax.settings import setting


@dataclass(frozen=True)
class LayerOptions:
    """Options of the layers that are newer than MaskGIT and GPT; the defaults are the published.

    Sources: RMSNorm: Zhang and Sennrich 2019. RoPE: Su et al. 2021. Normalized queries and keys:
    Dehghani et al. 2023. Squared ReLU: So et al. 2021. SwiGLU: Shazeer 2020. Value residual: Zhou
    et al. 2024. AdaLN-zero: Peebles and Xie 2022. Registers: Darcet et al. 2023. All of them:
    Besnier et al. 2025, Halton Scheduler for Masked Generative Image Transformer.
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
        "Whether the output projections start at 0, so that each pre-norm layer is the identity; "
        "with adaptive norms the gates do so anyway.",
    )
    value_residual: bool = setting(
        False,
        "Whether the values of each layer are mixed with those of the first one, by a learned "
        "weight.",
    )
    conditioning: str = setting(
        "token",
        "The class as a token, as shift, scale and gate of each branch (adaptive norms, "
        "AdaLN-zero; pre-norm only), or both; none: no class, for GPT with a condition image.",
        choices=("token", "adaln", "both", "none"),
    )
    num_registers: int = setting(
        0, "Learned tokens at the end of the sequence, without a position or an output.", minimum=0
    )
    fused_qkv: bool = setting(
        False, "Whether queries, keys and values have one kernel instead of three."
    )
    patch_size: int = setting(
        1,
        "Rows and columns of the tokens that share a position of the transformer: 2 is for maps "
        "of 32x32.",
        minimum=1,
    )
    bias: bool = setting(True, "Whether the projections of attention and MLP have biases.")
    norm_epsilon: float = setting(
        0.0, "Epsilon of all norms; 0: those of the model.", minimum=0, maximum=0.1
    )

    @property
    def learned_positions(self) -> bool:
        """Whether positions have embeddings."""
        return self.positions != "rope"

    @property
    def class_token(self) -> bool:
        """Whether the class is a token of the sequence."""
        return self.conditioning in ("token", "both")

    @property
    def adaptive(self) -> bool:
        """Whether the class shifts, scales and gates the branches of each layer."""
        return self.conditioning in ("adaln", "both")

    @property
    def rotary(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.positions != "learned"
