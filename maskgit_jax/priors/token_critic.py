"""Token-Critic: tokens -> log odds that each is real and not generated."""

import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.networks.attention import initialize
from maskgit_jax.priors.maskgit import Grid, MaskGIT


class TokenCritic(MaskGIT):
    """MaskGIT's transformer over unmasked tokens, with one log odds for each token.

    Its parameters have the generator's names except the head's, so that it can start from them.

    Source: Lezama et al. 2022, Improved Masked Image Generation with Token-Critic.
    """

    @nn.compact
    def __call__(self, tokens: Array, label: Array, train: bool, grid: Grid | None = None) -> Array:
        """Returns the log odds that each token is real, float32 [B, L].

        Args:
            tokens: int32 [B, L], 0 .. K-1.
            label: int32 [B], 0 .. num_classes.
            train: Whether dropout acts.
            grid: See `MaskGIT`.
        """
        x, _ = self._features(tokens, jnp.zeros(tokens.shape, bool), label, train, None, grid)
        odds = nn.Dense(1, kernel_init=initialize, dtype=self.dtype, name="head_logit")(x)
        return odds[..., 0].astype(jnp.float32)
