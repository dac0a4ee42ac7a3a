"""The bidirectional transformer of MaskGIT: partly masked tokens -> logits of all tokens."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array
from maskgit_jax.networks.attention import Dropout, initialize
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.networks.rotations import Rotations, axial_rotations
from maskgit_jax.networks.transformer import (
    Modulation,
    make_norm,
    modulate,
    scaled_by_width,
    stacked_layers,
)
from maskgit_jax.stage import Layout

EMBEDDING_SCALE = 0.1
Grid = tuple[int, int]


class MaskGIT(nn.Module):
    """A BERT over [class token, L image tokens, Lc condition tokens], with logits of image codes.

    Layer options leave out the class token, add registers at the end, and join patches of tokens
    to one position.

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
        head: "tied" (official: dense, GELU, LayerNorm, product with the code embeddings),
            "tied_linear" (that product alone) or "linear".
        initialization: "official" (standard deviation 0.02 everywhere), or "scaled": kernels of the
            layers by width, 0.02 at 1024, and embeddings of deviation 0.1.
        dropout_rate: Of embeddings, attention weights and outputs of the layers.
        layer_options: See `LayerOptions`.
        grids: Rows and columns (h, w) of the image's token map, then those of the condition's; for
            rotary positions, patches and maps of other sizes.
        attention: "xla" or "cudnn", see `SelfAttention.implementation`.
        remat: Whether layers are recomputed in the backward pass.
        row_multiple: The number of rows of the embedding table is a multiple of it.
        dtype: Type of the activations; logits are float32.

    Source: google-research/maskgit nets/maskgit_transformer.py. Differs: only the K logits of codes
    are computed by default (there all 2025 are, and sampling cuts them off); the mask is an
    argument instead of token -1. The linear head and the scaled initialization are not official:
    with them narrow networks learn to use context in half the steps (docs/results/lineage.md).
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
    grids: tuple[Grid, ...] = ()
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
    def layouts(self) -> tuple[Layout, ...]:
        """What the entries of the tables of rows and positions stand for, see `Stage`."""
        rows = {
            "codes": self.codebook_size,
            "classes": self.num_classes,
            "mask": 1,
            "null class": int(self.null_class),
            "condition codes": self.condition_codebook_size,
        }
        maps = {f"condition map {number}": grid for number, grid in enumerate(self.grids[1:])}
        positions = {"class": self._num_class_tokens, "map": self.grids[0], **maps}
        return (
            Layout("(word_embedding|head_bias)", 0, rows),
            Layout("position_embedding", 0, positions),
            Layout("head_codes/(kernel|bias)", -1, {"codes": self.codebook_size}),
        )

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
        grid: Grid | None = None,
        all_rows: bool = False,
    ) -> Array:
        """Returns logits float32 [B, L, K], or [B, L, R] of all R rows of the embedding in use.

        Args:
            tokens: int32 [B, L], 0 .. K-1; ignored where masked.
            mask: bool [B, L].
            label: int32 [B], 0 .. num_classes - 1, or num_classes for "no class".
            train: Whether dropout acts.
            condition: Condition tokens, int32 [B, Lc], if the network has any.
            grid: Rows and columns of the tokens where they differ from those of the training.
            all_rows: Whether logits of classes and mask are returned too; for tied heads.
        """
        x, table = self._features(tokens, mask, label, train, condition, grid)
        return self._head(x, table, self.num_rows if all_rows else self.codebook_size)

    def _features(
        self,
        tokens: Array,
        mask: Array,
        label: Array,
        train: bool,
        condition: Array | None,
        grid: Grid | None = None,
    ) -> tuple[Array, Array]:
        """Returns the features of the image tokens, [B, L, D], and the embedding table."""
        num_tokens = grid[0] * grid[1] if grid else self.num_tokens
        chex.assert_shape(tokens, (len(label), num_tokens))
        options, table = self.layer_options, self._embedding_table()
        indices = self._rows(tokens, mask, label)
        if self.num_condition_tokens:
            assert condition is not None, "condition tokens are missing"
            chex.assert_shape(condition, (len(label), self.num_condition_tokens))
            indices = jnp.concatenate([indices, self._first_condition_row + condition], axis=1)
        x = jnp.take(table, indices, axis=0)  # [B, 1 + L + Lc, D]
        label_embedding = x[:, 0] if options.adaptive else None
        if not options.class_token:
            x = x[:, 1:]
        if options.learned_positions:
            x = x + self._positions(grid)[None]
        if options.patch_size > 1:
            x = self._join_patches(x, grid)
        if options.num_registers:
            x = self._add_registers(x)
        x = with_logical_constraint(x, ("batch", "length", "embed"))
        if self.norm == "post":
            x = self._norm("embedding_norm")(x)
        x = Dropout(self.dropout_rate)(x.astype(self.dtype), deterministic=not train)
        layers = stacked_layers(
            self.num_layers,
            self.remat,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            norm=self.norm,
            dropout_rate=self.dropout_rate,
            attention=self.attention,
            epsilon=self._epsilon,
            kernel_init=self._kernel_init(self.width),
            dtype=self.dtype,
            options=options,
        )
        x, _ = layers(x, train, None, None, self._rotations(grid), label_embedding)
        if options.patch_size > 1:
            x = self._split_patches(x, grid)
        if self.norm == "pre":
            x = self._final_norm(x, label_embedding)
        start = 0 if options.patch_size > 1 else self._num_class_tokens
        return x[:, start : start + num_tokens], table

    @property
    def _num_class_tokens(self) -> int:
        return int(self.layer_options.class_token)

    def _kernel_init(self, width: int) -> nn.initializers.Initializer:
        return scaled_by_width(width) if self.initialization == "scaled" else initialize

    @property
    def _embedding_init(self) -> nn.initializers.Initializer:
        scaled = self.initialization == "scaled"
        return nn.initializers.normal(EMBEDDING_SCALE) if scaled else initialize

    def _embedding_table(self) -> Array:
        rows = -(-self.num_rows // self.row_multiple) * self.row_multiple
        return self.param("word_embedding", self._embedding_init, (rows, self.width))

    def _positions(self, grid: Grid | None) -> Array:
        """Returns the embeddings of the positions, [1 + L + Lc, D]."""
        start = self._num_class_tokens
        end = start + self.num_tokens
        shape = (end + self.num_condition_tokens, self.width)
        table = self.param("position_embedding", self._embedding_init, shape)
        if grid is None:
            return table
        positions = resize_positions(table[start:end], self.grids[0], grid)
        return jnp.concatenate([table[:start], positions, table[end:]])

    def _rotations(self, grid: Grid | None) -> Rotations | None:
        options = self.layer_options
        if not options.rotary:
            return None
        single = (None,) * self._num_class_tokens, (None,) * options.num_registers
        own, *conditions = self.grids
        (now, trained) = (
            (*single[0], self._patch_grid(each), *conditions, *single[1]) for each in (grid, own)
        )
        return axial_rotations(now, options.width_of_head(self.width, self.num_heads), trained)

    def _patch_grid(self, grid: Grid | None) -> Grid:
        """Returns the rows and columns of the positions of a token map."""
        height, width = grid or self.grids[0]
        return height // self.layer_options.patch_size, width // self.layer_options.patch_size

    def _join_patches(self, x: Array, grid: Grid | None) -> Array:
        """Returns [class token, patches] of [class token, tokens]; there is no condition."""
        size, (height, width) = self.layer_options.patch_size, self._patch_grid(grid)
        first, x = jnp.split(x, [self._num_class_tokens], axis=1)
        x = x.reshape(len(x), height, size, width, size, self.width)
        x = jnp.moveaxis(x, 2, 3).reshape(len(x), height * width, size * size * self.width)
        kernel_init = self._kernel_init(size * size * self.width)
        dense = nn.Dense(
            self.width, use_bias=False, kernel_init=kernel_init, dtype=self.dtype, name="patch_in"
        )
        return jnp.concatenate([first, dense(x)], axis=1)

    def _split_patches(self, x: Array, grid: Grid | None) -> Array:
        """Returns features of the tokens, [B, L, D], of those of [class token, patches, ...]."""
        size, (height, width) = self.layer_options.patch_size, self._patch_grid(grid)
        start, kernel_init = self._num_class_tokens, self._kernel_init(self.width)
        dense = nn.Dense(
            size * size * self.width,
            use_bias=False,
            kernel_init=kernel_init,
            dtype=self.dtype,
            name="patch_out",
        )
        x = dense(x[:, start : start + height * width])
        x = x.reshape(len(x), height, width, size, size, self.width)
        return jnp.moveaxis(x, 2, 3).reshape(len(x), -1, self.width)

    def _add_registers(self, x: Array) -> Array:
        shape = (self.layer_options.num_registers, self.width)
        registers = self.param("registers", self._embedding_init, shape)
        return jnp.concatenate([x, jnp.broadcast_to(registers, (len(x), *shape))], axis=1)

    def _final_norm(self, x: Array, label_embedding: Array | None) -> Array:
        x = self._norm("final_norm")(x)
        if label_embedding is None:
            return x
        dense = Modulation(2 * self.width, dtype=self.dtype, name="final_modulation")
        return modulate(x, *jnp.split(dense(label_embedding), 2, axis=-1))

    def _norm(self, name: str) -> nn.Module:
        return make_norm(self.layer_options, self._epsilon, self.dtype, name)

    def _rows(self, tokens: Array, mask: Array, label: Array) -> Array:
        """Returns the rows of the embedding table of class and image tokens, int32 [B, 1 + L]."""
        mask_row = self.codebook_size + self.num_classes
        class_row = self.codebook_size + label
        class_row = jnp.where(label == self.num_classes, mask_row + 1, class_row)
        image_rows = jnp.where(mask, mask_row, tokens)
        return jnp.concatenate([class_row[:, None], image_rows], axis=1)

    def _head(self, x: Array, table: Array, num_rows: int) -> Array:
        if self.head == "linear":
            assert num_rows == self.codebook_size, "a linear head has logits of codes only"
            dense = nn.Dense(
                self.codebook_size, kernel_init=initialize, dtype=self.dtype, name="head_codes"
            )
            return dense(x).astype(jnp.float32)
        if self.head == "tied":
            x = nn.Dense(self.width, kernel_init=initialize, dtype=self.dtype, name="head_dense")(x)
            x = self._norm("head_norm")(nn.gelu(x))
        bias = self.param("head_bias", nn.initializers.zeros, (len(table),))
        rows = table[:num_rows].astype(self.dtype)
        logits = jnp.einsum("bld,kd->blk", x, rows, preferred_element_type=jnp.float32)
        return logits + bias[None, None, :num_rows]


def resize_positions(positions: Array, grid: Grid, other: Grid) -> Array:
    """Returns the embeddings [h*w, D] of a map of positions, interpolated to another size."""
    width = positions.shape[-1]
    resized = jax.image.resize(positions.reshape(*grid, width), (*other, width), "bilinear")
    return resized.reshape(-1, width)
