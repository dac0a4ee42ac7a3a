import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError, load_config
from maskgit_jax.decoding.autoregressive import decode_with_cache
from maskgit_jax.decoding.settings import AutoregressiveSettings
from maskgit_jax.interop import net2net, taming
from maskgit_jax.interop.correspondence import export_tree
from maskgit_jax.interop.formats import choose_format, read_format
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.quantizers.codebook import assign_codebook, init_codebook_state, update_ema
from maskgit_jax.quantizers.vector import nearest_code
from maskgit_jax.stages.vqgan import build_autoencoder, build_discriminator
from tests.golden_values import assert_close, golden, images, recipes, state_dict

SIZE = 8
IMAGES = images("taming", (2, SIZE, SIZE, 3))
TOKENIZERS = ("vq", "gumbel")
TRANSFORMER = {"target": "GPT", "params": {"n_head": 2}}
STAGES = {
    "class": {"target": "taming.modules.util.Labelator", "params": {"n_classes": 3}},
    "sos": "__is_unconditional__",
    "vq_condition": {"target": "taming.models.vqgan.VQModel", "params": {}},
}


@pytest.fixture(scope="module")
def stored():
    return golden("taming")


def weights_of(stored, case, config=None):
    arrays = state_dict(stored[f"{case}_shapes"])
    if f"{case}_used" in stored:
        arrays["quantize.used"] = stored[f"{case}_used"]
    length = json.loads(str(stored[f"{case}_shapes"])).get("transformer.pos_emb", (0, 0))[1]
    for name in arrays:
        if name.endswith("attn.mask"):
            arrays[name] = np.tril(np.ones((1, 1, length, length), np.float32))
    return Weights(Path("last.ckpt"), arrays, config or {})


def net2net_config(case):
    params = {"transformer_config": TRANSFORMER, "cond_stage_config": STAGES[case]}
    return {"model": {"params": {**params, "sos_token": 5}}}


def read(weights, part, tokenizer=None):
    return read_format(weights, choose_format(weights, part), SIZE, tokenizer)


def config_of(imported):
    return load_config(imported.preset, dtype="float32", **imported.changes)


@pytest.fixture(scope="module")
def first_stage(stored):
    """The tokenizer inside the Net2Net checkpoints."""
    return read(weights_of(stored, "class"), "tokenizer")


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, stored):
    weights = weights_of(stored, request.param)
    return request.param, weights, read(weights, "tokenizer")


def test_tokenizers_agree_with_their_code(tokenizer, stored):
    case, _, imported = tokenizer
    config = config_of(imported)
    autoencoder = build_autoencoder(config)

    @jax.jit
    def run(params, image):
        def method(name, *inputs):
            return autoencoder.apply({"params": params}, *inputs, method=name)

        tokens = method("encode", image)
        return method("latents", image), tokens, method("decode", tokens)

    latents, tokens, image = run(imported.params["autoencoder"], IMAGES)
    assert_close(latents, stored[f"{case}_latents"], 1e-5)
    np.testing.assert_array_equal(tokens, stored[f"{case}_tokens"])
    assert_close(image, stored[f"{case}_image"], 1e-5)


def test_discriminators_agree_with_their_code(tokenizer, stored):
    case, _, imported = tokenizer
    network = build_discriminator(config_of(imported))
    large = IMAGES.repeat(2, axis=1).repeat(2, axis=2)
    params, statistics = imported.params["discriminator"], imported.state["batch_stats"]
    variables = {"params": params, "batch_stats": statistics}
    logits = jax.jit(lambda x: network.apply(variables, x, train=False))(large)
    assert_close(logits, stored[f"{case}_logits"], 1e-5)


def test_the_preset_has_the_gradients_of_their_released_quantizer(stored):
    imported = read(weights_of(stored, "vq"), "tokenizer")
    config = config_of(imported)
    codebook = imported.params["autoencoder"]["quantizer"]["codebook"]
    autoencoder = build_autoencoder(config)

    def loss(latents, codebook):
        params = {"params": {"quantizer": {"codebook": codebook}}}
        quantized = autoencoder.apply(params, latents, method="quantize")
        return config.losses.quantizer_weight * quantized.loss

    value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(stored["vq_latents"], codebook)
    np.testing.assert_allclose(value, stored["vq_loss"], rtol=1e-5)
    assert_close(slopes[0], stored["vq_latents_slope"], 1e-5)
    assert_close(slopes[1], stored["vq_codebook_slope"], 1e-5)


def test_export_is_the_inverse_of_the_import(tokenizer):
    case, weights, imported = tokenizer
    gumbel, norm = case == "gumbel", imported.changes["discriminator.norm"]
    found = export_tree(
        imported.params["autoencoder"], lambda path: taming.tokenizer_source(path, gumbel)
    )
    variables = {"params": imported.params["discriminator"]}
    variables |= {"batch_stats": imported.state["batch_stats"]} if norm == "batch" else {}
    found |= export_tree(
        variables, lambda path: taming.discriminator_source(path, 2, norm == "actnorm")
    )
    names = {name for name in weights.arrays if not name.endswith(("tracked", "initialized"))}
    assert found.keys() == names
    for name, value in found.items():
        np.testing.assert_array_equal(value, weights.arrays[name], err_msg=name)


def test_remapped_codes_are_the_codebook(stored):
    imported = read(weights_of(stored, "remap"), "tokenizer")
    codebook = imported.params["autoencoder"]["quantizer"]["codebook"]
    tokens = nearest_code(stored["remap_latents"], codebook)
    np.testing.assert_array_equal(tokens, stored["remap_tokens"])
    assert imported.changes["model.codebook_size"] == len(stored["remap_used"]) < 32
    assert imported.dropped[0].startswith("rows of quantize.embedding.weight")


def build_gpt(imported):
    condition = imported.frozen.get("condition_tokenizer")
    changes = imported.changes
    names = ("codebook_size", "grid", "width", "num_layers", "num_heads", "mlp_width")
    return GPT(
        num_classes=max(1, changes["data.num_classes"]),
        condition_codebook_size=condition.changes["model.codebook_size"] if condition else 0,
        condition_grids=((4, 4),) if condition else (),
        layer_options=LayerOptions(conditioning="none" if condition else "token"),
        remat=False,
        **{name: changes[f"model.{name}"] for name in names},
    )


@pytest.mark.parametrize("case", STAGES)
def test_transformers_agree_with_their_code(case, stored, first_stage):
    weights = weights_of(stored, case, net2net_config(case))
    imported = read(weights, "generator", first_stage)
    network, params = build_gpt(imported), {"params": imported.params["prior"]}
    prefix, tokens = stored[f"{case}_prefix"], stored[f"{case}_tokens"]
    label = prefix[:, 0] if case == "class" else np.zeros(2, np.int32)
    condition = prefix if case == "vq_condition" else None

    @jax.jit
    def run(tokens):
        logits = network.apply(params, tokens, label, condition)
        cache = network.apply(params, label, condition, method="init_cache")

        def step(*inputs):
            return network.apply(params, *inputs, method="decode_step")

        greedy = AutoregressiveSettings(temperature=0.0)
        keys = jax.random.split(jax.random.key(0), 2)
        everything = jnp.ones_like(tokens, bool)
        return logits, decode_with_cache(step, cache, tokens, everything, keys, greedy)

    logits, sampled = run(jnp.asarray(tokens, jnp.int32))
    codes = network.codebook_size
    assert_close(logits, stored[f"{case}_logits"][..., :codes], 1e-5)
    if case != "sos":  # its vocabulary has more tokens than the tokenizer, and they are likely
        np.testing.assert_array_equal(sampled, stored[f"{case}_sampled"])
    classes = tuple(range(3)) if case == "class" else (5,) if case == "sos" else ()
    vocabulary, width = weights.arrays["transformer.tok_emb.weight"].shape
    positions = weights.arrays["transformer.pos_emb"].shape[1]
    source_of = net2net.generator_source(network, classes, vocabulary, positions)
    found = export_tree(imported.params["prior"], source_of)
    assert imported.dropped == tuple(f"transformer.blocks.{i}.attn.mask" for i in range(2))
    for name, value in found.items():
        theirs = weights.arrays[name]
        if name.endswith(("tok_emb.weight", "head.weight")):
            value, theirs = value[:codes], theirs[:codes]
        elif name.endswith("pos_emb"):
            value, theirs = (x[:, : network.start + 16] for x in (value, theirs))
        np.testing.assert_array_equal(value, theirs, err_msg=name)


def test_smoothed_moving_averages_are_those_of_their_code(stored):
    codebook = jnp.asarray(recipes.tensor("weight", (5, 4)))
    state, latents = init_codebook_state(codebook, "ema"), stored["ema_latents"]
    for expected in stored["ema_codebooks"]:
        tokens = nearest_code(latents, codebook)
        state = {**state, "ema": update_ema(state["ema"], latents, tokens, 0.99)}
        codebook = assign_codebook(codebook, state, jnp.int32(0), smoothing=1e-5)
        assert_close(codebook, expected, 1e-5)


def without(arrays, name):
    return {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: without(x, "decoder.norm_out.bias"), "lacks 'decoder.norm_out.bias'"),
        (
            lambda x: {**x, "encoder.conv_out.weight": np.zeros((24, 128, 3, 3), np.float32)},
            "24 channels before the quantizer, which reads 12: latents with a variance",
        ),
        (lambda x: {**x, "extra.weight": x["quant_conv.bias"]}, "such as 'extra.weight'"),
        (
            lambda x: {**x, "encoder.conv_in.weight": np.zeros((64, 183, 3, 3), np.float32)},
            "images with 183 channels in and 3 out",
        ),
    ],
)
def test_wrong_tokenizers_are_an_error_of_one_line(change, message, stored):
    weights = weights_of(stored, "vq")
    with pytest.raises(InputError, match=message) as caught:
        read(weights._replace(arrays=change(weights.arrays)), "tokenizer")
    assert str(caught.value).startswith("last.ckpt, read as tokenizer of format 'taming'")
    assert "\n" not in str(caught.value)


def changed_mask(arrays):
    return {**arrays, "transformer.blocks.0.attn.mask": np.ones((1, 1, 16, 16), np.float32)}


@pytest.mark.parametrize(
    ("change", "stage", "message"),
    [
        (changed_mask, STAGES["class"], "mask that is not causal"),
        (
            lambda x: {**x, "permuter.forward_shuffle_idx": np.arange(16)[::-1]},
            STAGES["class"],
            "in another order",
        ),
        (lambda x: x, {"target": "taming.modules.misc.coord.CoordStage"}, "conditional on 'taming"),
        (lambda x: x, None, "needs the YAML file of its training"),
    ],
)
def test_wrong_transformers_are_an_error(change, stage, message, stored, first_stage):
    weights = weights_of(stored, "class", net2net_config("class"))
    config = {"model": {"params": {"transformer_config": TRANSFORMER}}}
    if stage:
        config["model"]["params"]["cond_stage_config"] = stage
    wrong = Weights(weights.path, change(weights.arrays), config)
    with pytest.raises(InputError, match=message):
        read(wrong, "generator", first_stage)
