import jax
import numpy as np

from maskgit_jax.decoding.schedules import any_order_mask


def test_any_number_of_hidden_tokens_is_equally_likely(key):
    ratio_key, place_key = jax.random.split(key)
    ratio = jax.random.uniform(ratio_key, (6000,))
    hidden = np.asarray(any_order_mask(ratio, jax.random.uniform(place_key, (6000, 5))))
    counts = np.bincount(hidden.sum(axis=1), minlength=6)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 6000, 0.2, atol=0.02)
    np.testing.assert_allclose(hidden.mean(axis=0), 0.6, atol=0.03)
