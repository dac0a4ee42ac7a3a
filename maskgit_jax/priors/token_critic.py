"""Token-Critic: which tokens of a map are real, and which a generator made."""

import chex
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.networks.transformer import initialize, layer_norm, stacked_layers

EPSILON = 1e-6


class TokenCritic(nn.Module):
    """A bidirectional transformer over [class token, L image tokens], one log odds for each.

    Rows of the embedding table: 0 .. K-1 codes, then the classes, then "no class"; padded to a
    multiple of `row_multiple`, because odd tables cannot be sharded.

    Attributes:
        codebook_size: K.
        num_classes: Labels are 0 .. num_classes - 1, and num_classes for "no class".
        num_tokens: L.
        width: D.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        mlp_width: Hidden width of each layer's network.
        dropout_rate: Everywhere.
        remat: Recompute layers in the backward pass.
        row_multiple: Of what the embedding table's rows are a multiple.
        dtype: Type of the activations; log odds are float32.

    Source: Lezama et al. 2022, Improved Masked Image Generation with Token-Critic, section 3.
    Differs: LayerNorm before each part of a layer; its weights were never published.
    """

    codebook_size: int
    num_classes: int
    num_tokens: int
    width: int = 768
    num_layers: int = 24
    num_heads: int = 16
    mlp_width: int = 3072
    dropout_rate: float = 0.1
    remat: bool = True
    row_multiple: int = 128
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Array, label: Array, train: bool) -> Array:
        """Returns the log odds that each token is real, float32 [B, L].

        Args:
            tokens: int32 [B, L], 0 .. K-1.
            label: int32 [B], 0 .. num_classes.
            train: Whether dropout acts.
        """
        chex.assert_shape(tokens, (len(label), self.num_tokens))
        rows = self.codebook_size + self.num_classes + 1
        rows = -(-rows // self.row_multiple) * self.row_multiple
        table = self.param("word_embedding", initialize, (rows, self.width))
        read = jnp.concatenate([self.codebook_size + label[:, None], tokens], axis=1)
        x = jnp.take(table, read, axis=0)  # [B, L+1, D]
        positions = self.param("position_embedding", initialize, x.shape[1:])
        x = nn.with_logical_constraint(x + positions[None], ("batch", "length", "embed"))
        x = nn.Dropout(self.dropout_rate)(x.astype(self.dtype), deterministic=not train)
        x, _ = stacked_layers(
            self.num_layers,
            self.remat,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            norm="pre",
            dropout_rate=self.dropout_rate,
            epsilon=EPSILON,
            dtype=self.dtype,
        )(x, train, None, None)
        x = layer_norm(EPSILON, self.dtype, "final_norm")(x[:, 1:])
        odds = nn.Dense(1, kernel_init=initialize, dtype=self.dtype, name="head_logit")(x)
        return odds[..., 0].astype(jnp.float32)
