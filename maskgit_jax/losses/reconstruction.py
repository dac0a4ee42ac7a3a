"""How far a decoded image is from its original."""

import chex

from maskgit_jax.arrays import Array


def pixel_loss(image: Array, decoded: Array, kind: str) -> Array:
    """Returns the mean pixel error of each example, [B].

    Args:
        image: Originals [B, H, W, C] in [-1, 1].
        decoded: Reconstructions, same shape, any range.
        kind: "l2" (mean square: the official MaskGIT tokenizer) or "l1" (mean absolute:
            taming-transformers' loss, where the paper's formula writes a square).
    """
    chex.assert_equal_shape([image, decoded])
    error = (image - decoded).astype("float32")
    if kind == "l2":
        error = error**2
    elif kind == "l1":
        error = abs(error)
    else:
        raise ValueError(f"pixel loss '{kind}' is neither l1 nor l2")
    return error.mean(axis=(1, 2, 3))
