"""Fused attention equals plain attention at every length; it is refused without a GPU kernel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.networks.attention import SelfAttention, fused_attention
from maskgit_jax.stages import stage_module
from tests.example import tiny_config

PLAIN = jax.nn.dot_product_attention
ON_GPU = jax.default_backend() == "gpu"


@pytest.fixture
def kernel_calls(monkeypatch):
    """Calls of the kernel; without a GPU, XLA's attention replaces it."""
    calls = []

    def kernel(query, key, value, **options):
        calls.append((query.shape[1], options["key_value_seq_lengths"], options["is_causal"]))
        return PLAIN(
            query, key, value, **(options if ON_GPU else options | {"implementation": "xla"})
        )

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    return calls


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [6, 7])
def test_fused_attention_equals_plain_attention(length, causal, key, kernel_calls):
    dtype = "bfloat16" if ON_GPU else "float32"
    x = jax.random.normal(key, (2, length, 32), dtype)
    plain, fused = (
        SelfAttention(4, causal=causal, implementation=name, dtype=dtype)
        for name in ("xla", "cudnn")
    )
    params = jax.jit(partial(plain.init, train=False))(jax.random.key(1), x)

    def total(network, params, x):
        out, cache, _ = network.apply(params, x, False)
        assert cache is None
        return (out.astype(jnp.float32) ** 2).sum(), out

    results = [
        jax.jit(jax.value_and_grad(partial(total, network), has_aux=True))(params, x)
        for network in (plain, fused)
    ]
    tolerance = 3e-2 if ON_GPU else 1e-5
    for expected, value in zip(*map(jax.tree.leaves, results), strict=True):
        scale = float(np.abs(np.float32(expected)).max()) + 1e-6
        np.testing.assert_allclose(
            np.float32(expected) / scale, np.float32(value) / scale, atol=tolerance
        )
    assert [call[2] for call in kernel_calls] == [causal]


def test_odd_lengths_are_padded_for_the_kernel(kernel_calls):
    for length in (257, 1024):
        x = jax.ShapeDtypeStruct((2, length, 1, 4), jnp.float32)
        out = jax.eval_shape(partial(fused_attention, causal=False), x, x, x)
        assert out.shape == x.shape
    (odd_length, valid, _), even = kernel_calls
    assert odd_length == 258 and valid.shape == (2,)
    assert even == (1024, None, False)


@pytest.mark.parametrize("name", ["gpt", "maskgit", "token_critic"])
def test_fused_attention_is_refused_without_a_kernel(name):
    config = tiny_config(name, model__attention="cudnn")
    with pytest.raises(InputError, match="attention=cudnn is for bfloat16 on NVIDIA GPUs"):
        stage_module(name).validate(config)
