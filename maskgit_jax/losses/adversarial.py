"""Two-player losses on discriminator logits, and taming's adaptive weight."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus

from maskgit_jax.arrays import Array, PyTree


def discriminator_loss(real: Array, fake: Array, kind: str) -> Array:
    """Returns the discriminator's loss [].

    Args:
        real: Logits of real images, any shape; large means real.
        fake: Logits of decoded images, any shape.
        kind: "hinge" (taming-transformers: 0.5 (E relu(1 - real) + E relu(1 + fake))) or
            "non_saturating" (google-research/maskgit: E softplus(-real) + E softplus(fake)).
    """
    if kind == "hinge":
        return 0.5 * (relu(1.0 - real).mean() + relu(1.0 + fake).mean())
    if kind == "non_saturating":
        return softplus(-real).mean() + softplus(fake).mean()
    raise ValueError(f"adversarial loss '{kind}' is neither hinge nor non_saturating")


def generator_loss(fake: Array, kind: str) -> Array:
    """Returns the generator's loss [] for the logits of its images; see `discriminator_loss`."""
    if kind == "hinge":
        return -fake.mean()
    if kind == "non_saturating":
        return softplus(-fake).mean()
    raise ValueError(f"adversarial loss '{kind}' is neither hinge nor non_saturating")


def adaptive_weight(
    faithful: Callable[[Array], Array],
    adversarial: Callable[[Array], Array],
    to_image: Callable[[PyTree], Array],
    last_kernel: Array,
) -> Array:
    """Returns how much the adversarial loss must weigh to push the last layer equally hard.

    The ratio of gradient norms |d faithful / d kernel| / (|d adversarial / d kernel| + 1e-4),
    clipped to [0, 1e4] and treated as a constant.

    Args:
        faithful: image [B, H, W, C] -> reconstruction loss [].
        adversarial: image -> generator loss [].
        to_image: The decoder's last layer as a function of its kernel.
        last_kernel: That kernel.

    Source: Esser et al. 2021, VQGAN, eq. 7; taming/modules/losses/vqperceptual.py.
    """
    image, pull_back = jax.vjp(to_image, jax.lax.stop_gradient(last_kernel))
    image = jax.lax.stop_gradient(image)

    def gradient_norm(loss: Callable[[Array], Array]) -> Array:
        (gradient,) = pull_back(jax.grad(loss)(image))
        return jnp.linalg.norm(gradient.astype(jnp.float32).ravel())

    ratio = gradient_norm(faithful) / (gradient_norm(adversarial) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4))
