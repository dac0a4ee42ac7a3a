"""The bidirectional transformer of MaskGIT: partly masked tokens -> logits of all tokens."""

import chex
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.networks.transformer import (
    Dropout,
    Rotations,
    axial_rotations,
    initialize,
    make_norm,
    scaled_by_width,
    stacked_layers,
)

EMBEDDING_SCALE = 0.1


class MaskGIT(nn.Module):
    """A BERT over [class token, L image tokens, Lc condition tokens], with logits of image codes.

    Rows of the embedding table: the K codes, the classes, the mask token, the null class (if
    trained for guidance), the condition's codes; padded to a multiple of `row_multiple`, because
    odd tables cannot be sharded. 1024 codes and 1000 classes give the official 2025 rows.

    Attributes:
        codebook_size: K.
        num_classes: Labels are 0 .. num_classes - 1.
        null_class: Whether there is a label `num_classes`, "no class".
        num_tokens: L.
        condition_codebook_size: Codebook size of the condition tokens; 0 without a condition.
        num_condition_tokens: Lc.
        width: D.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        mlp_width: Hidden width of the MLPs.
        norm: "post" (official) or "pre", see `TransformerLayer`.
        head: "tied" (official: dense, GELU, LayerNorm, product with the code embeddings) or
            "linear".
        initialization: "official" (standard deviation 0.02 everywhere), or "scaled": kernels of the
            layers by width, 0.02 at 1024, and embeddings of deviation 0.1.
        dropout_rate: Of embeddings, attention weights and outputs of the layers.
        layer_options: See `LayerOptions`.
        grids: Rows and columns (h, w) of the image's token map, then those of the condition's; for
            rotary positions.
        attention: "xla" or "cudnn", see `SelfAttention.implementation`.
        remat: Whether layers are recomputed in the backward pass.
        row_multiple: The number of rows of the embedding table is a multiple of it.
        dtype: Type of the activations; logits are float32.

    Source: google-research/maskgit nets/maskgit_transformer.py. Differs: only the K logits of codes
    are computed (there all 2025 are, and sampling cuts them off); the mask is an argument instead
    of token -1. The linear head and the scaled initialization are not official: with them narrow
    networks learn to use context in half the steps (docs/results/lineage.md).
    """

    codebook_size: int
    num_classes: int
    num_tokens: int
    null_class: bool = False
    condition_codebook_size: int = 0
    num_condition_tokens: int = 0
    width: int = 768
    num_layers: int = 24
    num_heads: int = 16
    mlp_width: int = 3072
    norm: str = "post"
    head: str = "tied"
    initialization: str = "official"
    dropout_rate: float = 0.1
    layer_options: LayerOptions = LayerOptions()
    grids: tuple[tuple[int, int], ...] = ()
    attention: str = "xla"
    remat: bool = True
    row_multiple: int = 128
    dtype: str = "float32"

    @property
    def num_rows(self) -> int:
        """Rows of the embedding table in use, without padding."""
        return self._first_condition_row + self.condition_codebook_size

    @property
    def _first_condition_row(self) -> int:
        return self.codebook_size + self.num_classes + 1 + self.null_class

    @property
    def _epsilon(self) -> float:
        return 1e-12 if self.norm == "post" else 1e-6

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        mask: Array,
        label: Array,
        train: bool,
        condition: Array | None = None,
    ) -> Array:
        """Returns logits float32 [B, L, K].

        Args:
            tokens: int32 [B, L], 0 .. K-1; ignored where masked.
            mask: bool [B, L].
            label: int32 [B], 0 .. num_classes - 1, or num_classes for "no class".
            train: Whether dropout acts.
            condition: Condition tokens, int32 [B, Lc], if the network has any.
        """
        x, table = self._features(tokens, mask, label, train, condition)
        return self._head(x, table)

    def _features(
        self, tokens: Array, mask: Array, label: Array, train: bool, condition: Array | None
    ) -> tuple[Array, Array]:
        """Returns the features of the image tokens, [B, L, D], and the embedding table."""
        chex.assert_shape(tokens, (len(label), self.num_tokens))
        rows = -(-self.num_rows // self.row_multiple) * self.row_multiple
        scaled = self.initialization == "scaled"
        embedding_init = nn.initializers.normal(EMBEDDING_SCALE) if scaled else initialize
        table = self.param("word_embedding", embedding_init, (rows, self.width))
        indices = self._rows(tokens, mask, label)
        if self.num_condition_tokens:
            assert condition is not None, "condition tokens are missing"
            chex.assert_shape(condition, (len(label), self.num_condition_tokens))
            indices = jnp.concatenate([indices, self._first_condition_row + condition], axis=1)
        x = jnp.take(table, indices, axis=0)  # [B, 1 + L + Lc, D]
        if self.layer_options.learned_positions:
            x = x + self.param("position_embedding", embedding_init, x.shape[1:])[None]
        x = with_logical_constraint(x, ("batch", "length", "embed"))
        if self.norm == "post":
            x = self._norm("embedding_norm")(x)
        x = Dropout(self.dropout_rate)(x.astype(self.dtype), deterministic=not train)
        x, _ = stacked_layers(
            self.num_layers,
            self.remat,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            norm=self.norm,
            dropout_rate=self.dropout_rate,
            attention=self.attention,
            epsilon=self._epsilon,
            kernel_init=scaled_by_width(self.width) if scaled else initialize,
            dtype=self.dtype,
            options=self.layer_options,
        )(x, train, None, None, self._rotations())
        if self.norm == "pre":
            x = self._norm("final_norm")(x)
        return x[:, 1 : 1 + self.num_tokens], table

    def _rotations(self) -> Rotations | None:
        if not self.layer_options.rotary:
            return None
        return axial_rotations((None, *self.grids), self.width // self.num_heads)

    def _norm(self, name: str) -> nn.Module:
        return make_norm(self.layer_options, self._epsilon, self.dtype, name)

    def _rows(self, tokens: Array, mask: Array, label: Array) -> Array:
        """Returns the rows of the embedding table of class and image tokens, int32 [B, 1 + L]."""
        mask_row = self.codebook_size + self.num_classes
        class_row = self.codebook_size + label
        class_row = jnp.where(label == self.num_classes, mask_row + 1, class_row)
        image_rows = jnp.where(mask, mask_row, tokens)
        return jnp.concatenate([class_row[:, None], image_rows], axis=1)

    def _head(self, x: Array, table: Array) -> Array:
        if self.head == "linear":
            dense = nn.Dense(
                self.codebook_size, kernel_init=initialize, dtype=self.dtype, name="head_codes"
            )
            return dense(x).astype(jnp.float32)
        x = nn.Dense(self.width, kernel_init=initialize, dtype=self.dtype, name="head_dense")(x)
        x = self._norm("head_norm")(nn.gelu(x))
        bias = self.param("head_bias", nn.initializers.zeros, (len(table),))
        codes = table[: self.codebook_size].astype(self.dtype)
        logits = jnp.einsum("bld,kd->blk", x, codes, preferred_element_type=jnp.float32)
        return logits + bias[None, None, : self.codebook_size]
