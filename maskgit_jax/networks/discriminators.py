"""Networks that tell decoded images from real ones."""

import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array


class PatchDiscriminator(nn.Module):
    """PatchGAN: one logit for each overlapping patch, [B, H, W, C] -> [B, h, w, 1].

    4x4 convolutions, padding 1: `num_layers` of stride 2, then two of stride 1; widths double
    up to 8 * filters. With 3 layers the receptive field is 70 pixels and 256 px give 30 x 30.

    Attributes:
        filters: Channels of the first layer.
        num_layers: Convolutions of stride 2.
        norm: "batch" (taming; running statistics in the `batch_stats` collection), "group"
            (any batch size, no statistics), or "none".
        dtype: Type of the activations.

    Source: taming/modules/discriminator/model.py:NLayerDiscriminator; kernels N(0, 0.02).
    """

    filters: int = 64
    num_layers: int = 3
    norm: str = "group"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        x = nn.leaky_relu(self._conv(self.filters, 2, True, "conv_0")(image), 0.2)
        for level in range(1, self.num_layers + 1):
            stride = 2 if level < self.num_layers else 1
            width = self.filters * min(2**level, 8)
            x = self._conv(width, stride, self.norm == "none", f"conv_{level}")(x)
            x = nn.leaky_relu(self._normalize(x, train, f"norm_{level}"), 0.2)
        return self._conv(1, 1, True, "logits")(x).astype(jnp.float32)

    def _conv(self, features: int, stride: int, bias: bool, name: str) -> nn.Conv:
        return nn.Conv(
            features,
            (4, 4),
            strides=stride,
            padding=1,
            use_bias=bias,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name=name,
        )

    def _normalize(self, x: Array, train: bool, name: str) -> Array:
        if self.norm == "batch":
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                scale_init=_near_one,
                dtype=self.dtype,
                name=name,
            )(x)
        if self.norm == "group":
            groups = min(32, x.shape[-1] // 4)
            return nn.GroupNorm(num_groups=groups, epsilon=1e-6, dtype=self.dtype, name=name)(x)
        return x


def _near_one(key: Array, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    return 1.0 + nn.initializers.normal(0.02)(key, shape, dtype)
