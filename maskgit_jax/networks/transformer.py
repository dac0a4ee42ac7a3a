"""Transformer layers, and a stack of them that compiles once."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array
from maskgit_jax.networks.attention import (
    Dropout,
    FirstValues,
    Initializer,
    KVCache,
    SelfAttention,
    initialize,
    output_init,
)
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.networks.rotations import Rotations


def scaled_by_width(width: int) -> Initializer:
    """Returns a normal initializer of deviation 0.02 at width 1024 that keeps the output scale."""
    return nn.initializers.normal(0.02 * (1024 / width) ** 0.5)


class TransformerLayer(nn.Module):
    """Self-attention and an MLP, each with a residual connection: [B, L, D] -> [B, L, D].

    Attributes:
        num_heads: Attention heads.
        mlp_width: Hidden width of the MLP.
        norm: "post" (BERT and official MaskGIT: norm of the sum) or "pre" (norm of the branch's
            input).
        dropout_rate: Dropout rate of the attention weights and of both branches' outputs.
        epsilon: Epsilon of LayerNorm.
        causal: Whether a position attends only to itself and earlier positions.
        attention: "xla" or "cudnn", see `SelfAttention.implementation`.
        approximate_gelu: Whether GELU is the tanh approximation (MaskGIT) or exact (GPT).
        kernel_init: Initializer of all kernels.
        dtype: Type of the activations.
        options: See `LayerOptions`.
    """

    num_heads: int
    mlp_width: int
    norm: str = "post"
    dropout_rate: float = 0.0
    epsilon: float = 1e-12
    causal: bool = False
    attention: str = "xla"
    approximate_gelu: bool = True
    kernel_init: Initializer = initialize
    dtype: str = "float32"
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(
        self,
        carry: tuple[Array, FirstValues | None],
        train: bool,
        cache: KVCache | None = None,
        start: Array | None = None,
        rotations: Rotations | None = None,
        condition: Array | None = None,
    ) -> tuple[tuple[Array, FirstValues | None], KVCache | None]:
        """Returns the carry for the next layer, and the KV cache.

        Args:
            carry: Input [B, n, D], and the values of the first layer, see `SelfAttention`.
            train: Whether dropout is active.
            cache: See `SelfAttention`.
            start: See `SelfAttention`.
            rotations: See `SelfAttention`.
            condition: Embedding of the class, [B, D], for options with adaptive norms.
        """
        (x, first), pre = carry, self.norm == "pre"
        attention = SelfAttention(
            self.num_heads,
            self.dropout_rate,
            self.causal,
            self.attention,
            self.kernel_init,
            self.dtype,
            self.options,
            name="attention",
        )
        adaptive = self._modulations(condition, x.shape[-1])
        norm = self._norm("attention_norm")
        h = modulate(norm(x), *adaptive[:2]) if pre else x
        h, cache, first = attention(h, train, cache, start, rotations, first)
        x = x + self._branch(h, train, *adaptive[2:3])
        x = x if pre else norm(x)
        norm = self._norm("mlp_norm")
        h = self._mlp(modulate(norm(x), *adaptive[3:5]) if pre else x)
        x = x + self._branch(h, train, *adaptive[5:])
        x = x if pre else norm(x)
        return (with_logical_constraint(x, ("batch", "length", "embed")), first), cache

    def _branch(self, x: Array, train: bool, gate: Array | None = None) -> Array:
        x = Dropout(self.dropout_rate)(x, deterministic=not train)
        return x if gate is None else gate * x

    def _modulations(self, condition: Array | None, width: int) -> list[Array]:
        """Returns shift, scale and gate of both branches, [B, 1, D] each; none without options."""
        if not self.options.adaptive:
            return []
        assert condition is not None and self.norm == "pre"
        return jnp.split(
            Modulation(6 * width, dtype=self.dtype, name="modulation")(condition), 6, -1
        )

    def _norm(self, name: str) -> nn.Module:
        return make_norm(self.options, self.epsilon, self.dtype, name)

    def _mlp(self, x: Array) -> Array:
        width, kind = x.shape[-1], self.options.mlp
        h = self._dense(self.mlp_width, "mlp_in")(x)
        if kind == "swiglu":
            h = h * nn.silu(self._dense(self.mlp_width, "mlp_gate")(x))
        else:
            h = nn.relu(h) ** 2 if kind == "relu2" else nn.gelu(h, self.approximate_gelu)
        h = with_logical_constraint(h, ("batch", "length", "mlp"))
        return self._dense(width, "mlp_out", output_init(self.kernel_init, self.options))(h)

    def _dense(self, width: int, name: str, kernel_init: Initializer | None = None) -> nn.Dense:
        init = kernel_init or self.kernel_init
        return nn.Dense(width, self.options.bias, kernel_init=init, dtype=self.dtype, name=name)


class Modulation(nn.Dense):
    """Shifts, scales and gates from the embedding of the class; all of them start at 0.

    Source: Peebles and Xie 2022, Scalable Diffusion Models with Transformers: AdaLN-zero.
    """

    kernel_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Returns [B, 1, features] of embeddings [B, D]."""
        return super().__call__(nn.silu(inputs))[:, None]


def modulate(x: Array, shift: Array | None = None, scale: Array | None = None) -> Array:
    """Returns normalized `x` scaled and shifted; as it is without both."""
    return x if shift is None or scale is None else x * (1 + scale) + shift


def make_norm(
    options: LayerOptions, epsilon: float, dtype: str, name: str | None = None
) -> nn.Module:
    """Returns LayerNorm or RMSNorm, with the given epsilon unless the options have one."""
    epsilon = options.norm_epsilon or epsilon
    if options.norm_type == "rms":
        return nn.RMSNorm(epsilon=epsilon, dtype=dtype, name=name)
    return layer_norm(epsilon, dtype, name)


def layer_norm(epsilon: float, dtype: str, name: str | None = None) -> nn.LayerNorm:
    """Returns LayerNorm with two-pass variance, safe at the official epsilon of 1e-12."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


class LayerStack(nn.Module):
    """Layers as one scanned module, whose parameters have a leading axis [num_layers, ...].

    The program has the size of one layer. With `remat` each layer is recomputed in the backward
    pass: scan without remat needs three times the memory of separate layers. A value residual
    keeps the values of the first layer once more for each layer.

    Attributes:
        num_layers: Number of layers.
        remat: Whether layers are recomputed in the backward pass.
        layer: Fields of `TransformerLayer`.
    """

    num_layers: int
    remat: bool
    layer: Mapping[str, Any]

    def setup(self) -> None:
        layer_class = TransformerLayer
        if self.remat:
            layer_class = nn.remat(layer_class, prevent_cse=False, static_argnums=(2,))
        stack = nn.scan(
            layer_class,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0, *(nn.broadcast,) * 3),  # pyright: ignore[reportArgumentType]
            length=self.num_layers,
        )
        self.layers = stack(**self.layer)
        nn.share_scope(self, self.layers)

    def __call__(
        self,
        x: Array,
        train: bool,
        cache: KVCache | None = None,
        start: Array | None = None,
        rotations: Rotations | None = None,
        condition: Array | None = None,
    ) -> tuple[Array, Any]:
        """Returns the output [B, n, D] and the stacked caches, see `TransformerLayer`."""
        first, options = None, self.layer.get("options", LayerOptions())
        if options.value_residual:
            num_heads = self.layer["num_heads"]
            shape = (*x.shape[:2], num_heads, options.width_of_head(x.shape[-1], num_heads))
            dtype = self.layer.get("dtype", TransformerLayer.dtype)
            first = FirstValues(jnp.zeros(shape, dtype), jnp.int32(0))
        (x, _), cache = self.layers((x, first), train, cache, start, rotations, condition)
        return x, cache


def stacked_layers(num_layers: int, remat: bool, **layer: Any) -> LayerStack:
    """Returns a `LayerStack` of the given `TransformerLayer`s."""
    return LayerStack(num_layers, remat, layer, name="layers")
