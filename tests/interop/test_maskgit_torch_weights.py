"""The torch ports of the official MaskGIT, see tests/golden/make_maskgit_torch.py."""

from pathlib import Path

import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.interop import maskgit_torch
from maskgit_jax.interop.formats import choose_format
from maskgit_jax.interop.imported import stage_config
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.stages.maskgit import build_network
from maskgit_jax.stages.vqgan import build_autoencoder
from tests.golden_values import assert_close, golden, images, state_dict

GOLDEN = golden("maskgit_torch")
IMAGE = images("maskgit", (1, 16, 16, 3))


def weights(network: str) -> Weights:
    return Weights(Path("port.ckpt"), state_dict(GOLDEN[f"{network}_shapes"]), {})


@pytest.mark.parametrize(("network", "start"), [("tokenizer", ""), ("other", "other_")])
def test_tokenizers_of_both_ports(network, start):
    arrays = weights(network)
    assert choose_format(arrays, "tokenizer").name == "maskgit_torch"
    found = maskgit_torch.read_tokenizer(arrays, 16, None)
    params = {"params": found.params["autoencoder"]}
    module = build_autoencoder(stage_config(found))
    assert_close(module.apply(params, IMAGE, method="latents"), GOLDEN[f"{start}features"], 1e-5)
    tokens = module.apply(params, IMAGE, method="encode")
    np.testing.assert_array_equal(tokens, GOLDEN[f"{start}tokens"])
    decoded = (module.apply(params, tokens, method="decode") + 1) / 2
    assert_close(decoded, GOLDEN[f"{start}reconstruction"], 1e-5)


def test_transformer():
    arrays = weights("transformer")
    assert choose_format(arrays, "generator").name == "maskgit_torch"
    tokenizer = maskgit_torch.read_tokenizer(weights("tokenizer"), 16, None)
    found = maskgit_torch.read_generator(arrays, 0, tokenizer)
    inputs = (GOLDEN["input_tokens"], GOLDEN["mask"], GOLDEN["labels"])
    network = build_network(stage_config(found))
    logits = network.apply({"params": found.params["prior"]}, *inputs, False)
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
