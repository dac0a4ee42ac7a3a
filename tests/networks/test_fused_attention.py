"""Fused attention says what the plain one says, whatever the length; it is refused elsewhere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.networks import transformer
from maskgit_jax.networks.transformer import SelfAttention
from maskgit_jax.stages import STAGES
from tests.example import tiny_config

PLAIN = jax.nn.dot_product_attention
ON_GPU = jax.default_backend() == "gpu"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [6, 7])
def test_fused_attention_equals_the_plain_one(length, causal, key, monkeypatch):
    dtype = "bfloat16" if ON_GPU else "float32"
    if not ON_GPU:  # the same call, by XLA's attention instead of the kernel that only GPUs have
        monkeypatch.setattr(
            jax.nn,
            "dot_product_attention",
            lambda *args, implementation, **rest: PLAIN(*args, implementation="xla", **rest),
        )
    x = jax.random.normal(key, (2, length, 32), dtype)
    plain, fused = (
        SelfAttention(4, causal=causal, implementation=name, dtype=dtype)
        for name in ("xla", "cudnn")
    )
    params = plain.init(jax.random.key(1), x, False)

    def total(network, params, x):
        out, memory = network.apply(params, x, False)
        assert memory is None
        return (out.astype(jnp.float32) ** 2).sum(), out

    found = [
        jax.jit(jax.value_and_grad(partial(total, network), has_aux=True))(params, x)
        for network in (plain, fused)
    ]
    tolerance = 3e-2 if ON_GPU else 1e-5
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        scale = float(jnp.abs(one).max()) + 1e-6
        np.testing.assert_allclose(
            np.float32(one) / scale, np.float32(other) / scale, atol=tolerance
        )


def test_odd_lengths_are_filled_up_before_the_kernel_sees_them(monkeypatch):
    seen = []

    def kernel(query, key, value, **settings):
        seen.append((query.shape[1], settings["key_value_seq_lengths"], settings["is_causal"]))
        return PLAIN(query, key, value, **(settings | {"implementation": "xla"}))

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    for length in (257, 1024):
        x = jnp.ones((2, length, 1, 4))
        assert transformer.fused_attention(x, x, x, False).shape == x.shape
    assert seen[0][0] == 258 and (seen[0][1] == 257).all()
    assert seen[1] == (1024, None, False)


@pytest.mark.parametrize("name", ["gpt", "maskgit", "token_critic"])
def test_fused_attention_is_refused_where_there_is_no_kernel(name):
    config = tiny_config(name, model__attention="cudnn")
    with pytest.raises(InputError, match="attention=cudnn is for bfloat16 on NVIDIA GPUs"):
        STAGES[name].validate(config)
