"""The torch ports of the official MaskGIT, see tests/golden/make_maskgit_torch.py."""

from pathlib import Path

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.interop import maskgit_torch
from maskgit_jax.interop.formats import choose_format
from maskgit_jax.interop.imported import stage_config
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.stages.maskgit import build_network
from maskgit_jax.stages.vqgan import build_autoencoder
from tests.golden_values import assert_close, golden, images, state_dict, tokenize

GOLDEN = golden("maskgit_torch")
IMAGE = images("maskgit", (1, 16, 16, 3))


def weights(network: str) -> Weights:
    return Weights(Path("port.ckpt"), state_dict(GOLDEN[f"{network}_shapes"]), {})


@pytest.mark.parametrize(("port", "start"), [("tokenizer", ""), ("other", "other_")])
def test_tokenizers_of_both_ports(port, start):
    arrays = weights(port)
    assert choose_format(arrays, "tokenizer").name == "maskgit_torch"
    found = maskgit_torch.read_tokenizer(arrays, 16, None)
    network = build_autoencoder(stage_config(found))
    latents, tokens, decoded = tokenize(network, found.params["autoencoder"], IMAGE)
    assert_close(latents, GOLDEN[f"{start}features"], 1e-5)
    np.testing.assert_array_equal(tokens, GOLDEN[f"{start}tokens"])
    assert_close((decoded + 1) / 2, GOLDEN[f"{start}reconstruction"], 1e-5)


def test_transformer():
    arrays = weights("transformer")
    assert choose_format(arrays, "generator").name == "maskgit_torch"
    tokenizer = maskgit_torch.read_tokenizer(weights("tokenizer"), 16, None)
    found = maskgit_torch.read_generator(arrays, 0, tokenizer)
    inputs = (GOLDEN["input_tokens"], GOLDEN["mask"], GOLDEN["labels"])
    network = build_network(stage_config(found))
    params = {"params": found.params["prior"]}
    logits = jax.jit(lambda *x: network.apply(params, *x, False))(*inputs)
    assert_close(logits, GOLDEN["logits"], 1e-5)


def test_missing_and_unknown_arrays_are_named():
    arrays = weights("other")
    arrays.arrays["encoder.mid.block_1.conv1.weight"] = np.zeros((3, 3, 1, 1), np.float32)
    with pytest.raises(InputError, match=r"do not belong.*'encoder\.mid\.block_1\.conv1\.weight'"):
        maskgit_torch.read_tokenizer(arrays, 16, None)
    del arrays.arrays["encoder.mid.block_1.conv1.weight"], arrays.arrays["decoder.conv_in.bias"]
    with pytest.raises(InputError, match="lacks 'decoder/Conv_0/bias', in the names of google-re"):
        maskgit_torch.read_tokenizer(arrays, 16, None)
    with pytest.raises(InputError, match=r"is a tokenizer of format 'maskgit_torch', not a gen"):
        choose_format(arrays, "generator")
