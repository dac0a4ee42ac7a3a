"""A small image classifier, trained on the data when no pretrained network is available."""

import math

from flax import linen as nn

from maskgit_jax.arrays import Array

FEATURES = 64


class ImageClassifier(nn.Module):
    """Convolutions that halve the image until it is at most 8 pixels wide, then dense layers.

    Attributes:
        num_classes: Number of logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, image: Array) -> tuple[Array, Array]:
        """Returns features [B, 64] and logits [B, num_classes] of images [B, H, W, C].

        Images are float32 in [-1, 1].
        """
        levels = max(1, math.ceil(math.log2(min(image.shape[1:3]) / 8)))
        x = image
        for level in range(levels):
            width = 64 if level == levels - 1 else 32
            x = nn.relu(nn.Conv(width, (5, 5), strides=2, name=f"conv_{level}")(x))
        x = nn.LayerNorm(name="norm")(x).reshape(len(x), -1)
        features = nn.relu(nn.Dense(FEATURES, name="features")(x))  # [B, 64]
        return features, nn.Dense(self.num_classes, name="logits")(features)
