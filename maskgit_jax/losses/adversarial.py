"""GAN losses on discriminator logits, their regularizers, and taming's adaptive weight."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus

from maskgit_jax.arrays import Array, PyTree

ADVERSARIAL_LOSSES = ("hinge", "hinge_sum", "vanilla", "non_saturating")
_DISCRIMINATOR_LOSSES = {
    "hinge": lambda real, fake: 0.5 * (relu(1.0 - real).mean() + relu(1.0 + fake).mean()),
    "hinge_sum": lambda real, fake: relu(1.0 - real).mean() + relu(1.0 + fake).mean(),
    "vanilla": lambda real, fake: 0.5 * (softplus(-real).mean() + softplus(fake).mean()),
    "non_saturating": lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
}


def discriminator_loss(real: Array, fake: Array, kind: str) -> Array:
    """Returns the discriminator's loss [].

    Args:
        real: Logits of real images, any shape; large means real.
        fake: Logits of reconstructions, any shape.
        kind: "hinge" (taming-transformers: 0.5 (E relu(1 - real) + E relu(1 + fake))),
            "hinge_sum" (the same without the factor), "non_saturating" (google-research/maskgit:
            E softplus(-real) + E softplus(fake)) or "vanilla" (taming-transformers: half of it).
    """
    _check_kind(kind)
    return _DISCRIMINATOR_LOSSES[kind](real, fake)


def generator_loss(fake: Array, kind: str) -> Array:
    """Returns the generator's loss [] of the logits of its images; see `discriminator_loss`.

    E softplus(-fake) of "non_saturating", otherwise -E fake: also of "vanilla", as in taming.
    """
    _check_kind(kind)
    return softplus(-fake).mean() if kind == "non_saturating" else -fake.mean()


def _check_kind(kind: str) -> None:
    if kind not in ADVERSARIAL_LOSSES:
        raise ValueError(f"adversarial loss '{kind}' is none of: {', '.join(ADVERSARIAL_LOSSES)}")


def adaptive_weight(
    reconstruction_loss: Callable[[Array], Array],
    adversarial_loss: Callable[[Array], Array],
    to_image: Callable[[PyTree], Array],
    last_kernel: Array,
) -> Array:
    """Returns the weight [] that gives the adversarial loss equal influence on the last layer.

    The ratio of gradient norms |d reconstruction / d kernel| / (|d adversarial / d kernel| +
    1e-4), clipped to [0, 1e4] and treated as a constant.

    Args:
        reconstruction_loss: image [B, H, W, C] -> reconstruction loss [].
        adversarial_loss: image -> generator loss [].
        to_image: The decoder's last layer as a function of its kernel.
        last_kernel: That kernel.

    Source: Esser et al. 2021, VQGAN, eq. 7; taming/modules/losses/vqperceptual.py.
    """
    image, pull_back = jax.vjp(to_image, jax.lax.stop_gradient(last_kernel))
    image = jax.lax.stop_gradient(image)

    def gradient_norm(loss: Callable[[Array], Array]) -> Array:
        (gradient,) = pull_back(jax.grad(loss)(image))
        return jnp.linalg.norm(gradient.astype(jnp.float32).ravel())

    ratio = gradient_norm(reconstruction_loss) / (gradient_norm(adversarial_loss) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4))


def r1_penalty(logits_of: Callable[[Array], Array], image: Array) -> Array:
    """Returns the mean squared gradient norm of the logits at real images, [].

    Mean over b of sum over pixels of (d logits / d image_b)^2, not halved and not weighted.
    It can be differentiated with respect to the parameters that `logits_of` closes over.

    Args:
        logits_of: image -> logits, any shape; several logits of one image are summed. The
            logits of an image must not depend on the other images: no batch statistics.
        image: Real images [B, H, W, C] in [-1, 1].

    Source: Mescheder et al. 2018, Which Training Methods for GANs do actually Converge? (there
    with gamma / 2). Official MaskGIT and MAGVIT add it at every step with weight 10 on
    images in [0, 1]; in [-1, 1] gradients are half as large, so that their weight is 40 here.
    """
    gradient = jax.grad(lambda x: logits_of(x).astype(jnp.float32).sum())(image)
    squares = jnp.square(gradient.astype(jnp.float32))
    return squares.reshape(image.shape[0], -1).sum(axis=1).mean()


class LecamAverages(NamedTuple):
    """Moving averages of the discriminator's mean logits, float32 [] each.

    Attributes:
        lecam_real: Of real images.
        lecam_fake: Of reconstructions.
    """

    lecam_real: Array
    lecam_fake: Array


def init_lecam_averages() -> LecamAverages:
    """Returns the averages before the first step: 0, the logit of an undecided discriminator."""
    return LecamAverages(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def update_lecam_averages(
    averages: LecamAverages, real: Array, fake: Array, decay: float
) -> LecamAverages:
    """Returns the averages after a step: decay * old + (1 - decay) * mean logit, no gradient.

    Args:
        averages: The averages before the step.
        real: Logits of real images, any shape.
        fake: Logits of reconstructions, any shape.
        decay: In [0, 1); 0.99 in google/lecam-gan (which also corrects the start at zero),
            0.999 in most tokenizers.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"the decay of LeCam's averages is {decay}; it must be in [0, 1)")

    def update(old: Array, logits: Array) -> Array:
        mean = jax.lax.stop_gradient(logits).astype(jnp.float32).mean()
        return decay * old + (1.0 - decay) * mean

    return LecamAverages(update(averages.lecam_real, real), update(averages.lecam_fake, fake))


def lecam_penalty(
    real: Array, fake: Array, averages: LecamAverages, rectified: bool = False
) -> Array:
    """Returns the squared distance of each kind's logits from the other kind's average, [].

    R_LC = E (D(x) - a_F)^2 + E (D(G(z)) - a_R)^2, a term of the discriminator's loss, which
    pulls the logits of real images and reconstructions together; the averages are constants.

    Args:
        real: D(x), logits of real images, any shape.
        fake: D(G(z)), logits of reconstructions, any shape.
        averages: a_R and a_F.
        rectified: Use E relu(D(x) - a_F)^2 + E relu(a_R - D(G(z)))^2 instead, as google/lecam-gan
            and MAGVIT do (which squares the batch's mean differences, not each): logits on the
            wrong side of the other kind's average then have no penalty.

    Source: Tseng et al. 2021, Regularizing Generative Adversarial Networks under Limited Data.
    """
    real_average, fake_average = map(jax.lax.stop_gradient, averages)
    above = real.astype(jnp.float32) - fake_average
    below = real_average - fake.astype(jnp.float32)
    if rectified:
        above, below = relu(above), relu(below)
    return jnp.square(above).mean() + jnp.square(below).mean()
