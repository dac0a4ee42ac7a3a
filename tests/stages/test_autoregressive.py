"""PixelCNN, PixelSNAIL and GPT as stages: exact likelihoods, sampling, inpainting, refusals."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.arrays import normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.autoregressive import decode_with_cache
from maskgit_jax.decoding.settings import AutoregressiveSettings
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.priors.pixelcnn import PixelCNN
from maskgit_jax.priors.pixelsnail import PixelSNAIL
from maskgit_jax.stage import Stage, Tokenizer, Variables, join_levels, split_levels
from maskgit_jax.stages import gpt, pixelcnn, pixelsnail, stage_module
from maskgit_jax.stages.token_priors import token_grids
from tests.example import tiny_config
from tests.priors.test_autoregressive import random_params

NAMES = ("gpt", "pixelcnn", "pixelsnail")
BATCH = 4


# Exact likelihoods on maps so small that all of them can be listed.

SMALL = {
    "gpt": GPT(3, 2, (2, 2), width=8, num_layers=1, num_heads=2, mlp_width=8, remat=False),
    "pixelcnn": PixelCNN(2, 2, (2, 3), features=4, num_layers=2, head_features=4),
    "pixelsnail": PixelSNAIL(
        2, 2, (3, 2), features=4, hidden_channels=4, num_blocks=1, num_layers=1, kernel_radius=1,
        num_heads=2, num_output_layers=1,
    ),
}  # fmt: skip


@cache
def all_maps(name):
    """Parameters, every token map and the log-probability of each for label 1."""
    network = SMALL[name]
    codes, length = network.codebook_size, network.grid[0] * network.grid[1]
    maps = np.indices((codes,) * length).reshape(length, -1).T.astype(np.int32)
    label = np.ones(len(maps), np.int32)
    params = random_params(jax.eval_shape(network.init, jax.random.key(0), maps, label))["params"]
    apply = jax.jit(lambda params: network.apply({"params": params}, maps, label))
    size = np.std(apply(params))  # scales the logits to deviation 1
    params = {**params, "head_logit": jax.tree.map(lambda x: x / size, params["head_logit"])}
    logits = np.asarray(apply(params), np.float64)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    log_probability = np.take_along_axis(log_softmax, maps[..., None], -1).sum(axis=(1, 2))
    return {"params": params}, maps, log_probability


@pytest.mark.parametrize("name", SMALL)
def test_the_probabilities_of_all_maps_sum_to_one(name):
    _, maps, log_probability = all_maps(name)
    assert len(maps) in (64, 81)
    np.testing.assert_allclose(np.exp(log_probability).sum(), 1.0, atol=1e-5)
    assert log_probability.std() > 0.3  # far from uniform
    assert np.exp(log_probability).max() < 0.5


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_sampled_as_often_as_their_probabilities(name):
    network, count = SMALL[name], 3000
    params, maps, log_probability = all_maps(name)

    def decode_step(cache, previous, index):
        return network.apply(params, cache, previous, index, method="decode_step")

    @jax.jit
    def decode(keys):
        cache = network.apply(params, jnp.ones(count, jnp.int32), method="init_cache")
        tokens = jnp.zeros((count, maps.shape[1]), jnp.int32)
        mask = jnp.ones_like(tokens, bool)
        return decode_with_cache(decode_step, cache, tokens, mask, keys, AutoregressiveSettings())

    samples = np.asarray(decode(jax.random.split(jax.random.key(4), count)))
    numbers = np.ravel_multi_index(samples.T, (network.codebook_size,) * maps.shape[1])
    np.testing.assert_array_equal(maps[numbers], samples)
    nll = -log_probability[numbers]
    entropy = -(np.exp(log_probability) * log_probability).sum()
    assert abs(nll.mean() - entropy) < 4 * nll.std() / np.sqrt(count)
    expected = count * np.exp(log_probability)
    counts = np.bincount(numbers, minlength=len(maps))
    common = expected >= 5  # the rare ones are one class together
    counts, expected = (np.append(x[common], x[~common].sum()) for x in (counts, expected))
    chi_square = ((counts - expected) ** 2 / np.maximum(expected, 1)).sum()
    degrees = len(counts) - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


# Stages on tokenizers whose codes are the grey levels of patches, so that samples show their
# tokens. The parameters are random, because all codes are about equally likely at initialization.

CODES = 16


def grey_stage(*grids, codes=CODES, any_size=True):
    """A stage that exports a tokenizer.

    Its codes are the first pixel of each patch, modulo 16; with two levels the coarser ones are
    that pixel divided by 16.
    """
    patches = [16 // grid[0] for grid in grids]
    divisors = [codes ** (len(grids) - 1 - number) for number in range(len(grids))]

    def encode_maps(image):
        grey = jnp.round((image[..., 0] + 1) * 127.5).astype(jnp.int32)
        levels = zip(patches, divisors, strict=True)
        return [grey[:, ::patch, ::patch] // divisor % codes for patch, divisor in levels]

    def decode_maps(maps):
        grey = sum(
            jnp.repeat(jnp.repeat(tokens * divisor, patch, axis=1), patch, axis=2)
            for tokens, patch, divisor in zip(maps, patches, divisors, strict=True)
        )
        return grey[..., None] / 127.5 - 1

    exports = Tokenizer(
        lambda _, image: join_levels(tuple(encode_maps(image))),
        lambda _, tokens: decode_maps(split_levels(tokens, grids)),
        codes,
        grids,
        lambda _: (),
        (lambda _, image: encode_maps(image)[0]) if any_size else None,
        (lambda _, tokens: decode_maps([tokens])) if any_size else None,
    )
    return Stage(None, None, None, None, exports)


def build_stage(name, condition=None, **changes):
    """A tiny stage on such tokenizers, its configuration and variables."""
    config = tiny_config(name, **changes)
    frozen = {"tokenizer": grey_stage(*token_grids(config))}
    if condition is not None:
        frozen["condition_tokenizer"] = condition
    stage = stage_module(name).build(config, frozen)
    shapes = jax.eval_shape(stage.init, jax.random.key(0), grey_batch(), {})
    empty = dict.fromkeys(frozen, Variables({}, {}, {}))
    return stage, config, Variables(random_params(shapes.params), {}, empty)


def labels(first=0):
    return {"label": (np.arange(BATCH, dtype=np.int32) + first) % 10}


def grey_batch(size=(16, 16), levels=1):
    """Random pixels, each of which could be the first one of a patch."""
    rng = np.random.default_rng(0)
    shape = (BATCH, *size, 1)
    image, condition = (rng.integers(0, CODES**levels, shape).astype(np.uint8) for _ in range(2))
    return {"image": image, "condition": condition, **labels()}


def tokens_in(image, grid, divisor=1):
    """The codes [B, h, w] in uint8 pixels or in [-1, 1]; `grid` is that of 16 pixels."""
    grey = np.asarray(image)
    if grey.dtype != np.uint8:
        grey = np.round((grey + 1) * 127.5)
    patch = 16 // grid[0]
    return grey[:, ::patch, ::patch, 0].astype(int) // divisor % CODES


cached_stage = cache(build_stage)


@cache
def sampler(name):
    return jax.jit(cached_stage(name)[0].exports.sample, static_argnums=3)


def sample(name, inputs, seed=0, **settings):
    stage, _, variables = cached_stage(name)
    settings = replace(stage.exports.settings, **settings)
    keys = jax.random.split(jax.random.key(seed), len(inputs["label"]))
    return np.asarray(sampler(name)(variables, inputs, keys, settings))


@cache
def sample_class(name, label=0, seed=0):
    return sample(name, labels(label), seed)


def levels_of(name):
    """(network, rows and columns, divisor of grey levels) of each map, coarsest first."""
    if name == "pixelsnail":
        return [("top", (4, 4), CODES), ("bottom", (8, 8), 1)]
    return [("prior", (4, 4), 1)]


def network_of(name, config, level):
    if name == "pixelsnail":
        return pixelsnail.network(config, level)
    return {"gpt": gpt, "pixelcnn": pixelcnn}[name].network(config)


@cache
def losses_and_metrics(name):
    """Losses and metrics without and with noise, and the networks' logits, from one program."""
    stage, config, variables = cached_stage(name)
    noisy, _, _ = build_stage(name, losses__keep_rate=0.5)
    batch, tokens = grey_batch(levels=len(levels_of(name))), true_tokens(name)

    @jax.jit
    def compute(variables, batch, tokens):
        losses, metrics, logits = [], [], []
        for each in (stage, noisy):
            losses.append(each.losses(variables, batch, jax.random.key(1), jnp.int32(0))[0])
            metrics.append(each.evaluate(variables, batch, jax.random.key(2)))
        for number, (network, _, _) in enumerate(levels_of(name)):
            params = {"params": variables.params[network]}
            inputs = (tokens[number], batch["label"], tokens[0] if number else None)
            logits.append(network_of(name, config, number).apply(params, *inputs))
        return losses, metrics, logits

    return jax.tree.map(np.asarray, compute(variables, batch, tokens))


def true_tokens(name):
    image = grey_batch(levels=len(levels_of(name)))["image"]
    return [tokens_in(image, *level[1:]).reshape(BATCH, -1) for level in levels_of(name)]


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_those_of_the_network_s_logits(name):
    _, (metrics, _), logits = losses_and_metrics(name)
    bits = []
    for (network, _, _), tokens, level in zip(
        levels_of(name), true_tokens(name), logits, strict=True
    ):
        level = level.astype(np.float64)
        true = np.take_along_axis(level, tokens[..., None], -1)[..., 0]
        bits.append((np.log(np.exp(level).sum(axis=-1)) - true) / np.log(2))
        suffix = f"_{network}" if name == "pixelsnail" else ""
        expected = bits[-1].mean(axis=1)
        np.testing.assert_allclose(metrics[f"bits_per_token{suffix}"], expected, rtol=1e-4)
        accuracy = (level.argmax(axis=-1) == tokens).mean(axis=1)
        np.testing.assert_allclose(metrics[f"token_accuracy{suffix}"], accuracy, rtol=1e-5)
    bits = np.concatenate(bits, axis=1)
    assert metrics["bits_per_token"].shape == (BATCH,)
    np.testing.assert_allclose(metrics["bits_per_token"], bits.mean(axis=1), rtol=1e-4)
    per_dimension = bits.sum(axis=1) / 256
    np.testing.assert_allclose(metrics["token_bits_per_dimension"], per_dimension, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_noisy_in_training_only(name):
    (losses, noisy_losses), (metrics, noisy_metrics), _ = losses_and_metrics(name)
    assert set(losses) == set(cached_stage(name)[1].optimizers)
    for network in losses:
        assert abs(losses[network] - noisy_losses[network]) > 1e-3, network
        # Without noise and dropout the loss is the evaluated cross-entropy.
        bits = metrics[f"bits_per_token_{network}" if len(losses) > 1 else "bits_per_token"]
        np.testing.assert_allclose(losses[network], bits.mean() * np.log(2), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, metrics, noisy_metrics)


def test_finer_levels_are_conditioned_on_true_coarser_tokens():
    """All inputs are noise, so that only the condition depends on the coarser tokens."""
    stage, _, variables = build_stage("pixelsnail", losses__keep_rate=1e-9)
    image = grey_batch(levels=2)["image"]

    @jax.jit
    def bottom_loss(image):
        batch = {**labels(), "image": image}
        return stage.losses(variables, batch, jax.random.key(1), jnp.int32(0))[0]["bottom"]

    changed = (image + CODES).astype(np.uint8)  # other coarser tokens
    assert abs(bottom_loss(image) - bottom_loss(changed)) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_the_same_with_and_without_cache(name):
    image = sample_class(name)
    assert image.shape == (BATCH, 16, 16, 1)
    assert len(np.unique(image)) > 4
    np.testing.assert_array_equal(sample(name, labels(), use_cache=False), image)


@pytest.mark.parametrize("name", NAMES)
def test_samples_depend_on_key_and_label(name):
    image = sample_class(name)
    assert (image != sample_class(name, seed=1)).any(axis=(1, 2, 3)).all()
    assert (image != sample_class(name, label=5)).any(axis=(1, 2, 3)).any()


def test_samples_of_top_k_1_do_not_depend_on_the_key():
    first, second = (sample("pixelcnn", labels(), seed, top_k=1) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_unmasked_pixels_stay_and_condition_the_masked_ones(name):
    image = grey_batch(levels=len(levels_of(name)))["image"]
    mask = np.zeros((BATCH, 16, 16), bool)
    mask[1:, 8:] = True
    num_programs = sampler(name)._cache_size()
    inputs = {**labels(), "image": image, "mask": mask}
    first, second = (sample(name, inputs, seed) for seed in (0, 1))
    original = np.asarray(normalize(jnp.asarray(image)))
    for result in (first, second):
        np.testing.assert_array_equal(result[~mask], original[~mask])
    assert (first != second)[mask].any()
    narrow = np.zeros_like(mask)
    narrow[:, 3:5, 3] = True
    third = sample(name, {**labels(3), "image": image, "mask": narrow})
    np.testing.assert_array_equal(third[~narrow], original[~narrow])
    fourth = sample(name, {**inputs, "image": image[::-1].copy()})
    assert (fourth != first)[mask].any()
    assert sampler(name)._cache_size() <= num_programs + 1, "one program for all labels and masks"


@pytest.mark.parametrize("name", NAMES)
def test_exports(name):
    exports = cached_stage(name)[0].exports
    assert exports.num_classes == 10
    assert exports.needs == ()
    assert exports.accepts == ("image", "mask")
    assert hasattr(exports.settings, "size") == (name == "gpt")
    exports.check_settings(exports.settings)
    with pytest.raises(InputError, match="top_k is 17"):
        exports.check_settings(replace(exports.settings, top_k=17))


def test_sampled_tokens_are_those_of_the_sampled_images():
    exports, variables = cached_stage("pixelsnail")[0].exports, cached_stage("pixelsnail")[2]
    sample_tokens = jax.jit(exports.sample_tokens, static_argnums=3)
    keys = jax.random.split(jax.random.key(0), len(labels()["label"]))
    tokens = sample_tokens(variables, labels(), keys, exports.settings)
    image = sample_class("pixelsnail")
    levels = [tokens_in(image, *level[1:]) for level in levels_of("pixelsnail")]
    np.testing.assert_array_equal(tokens, join_levels(tuple(levels)))


# Refusals.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(losses__keep_rate=0.0), "keep_rate is 0.0; it must be above 0 and at most 1"),
        (dict(losses__keep_rate=1.5), "keep_rate is 1.5"),
        (dict(model__dropout_rate=1.0), "dropout_rate is 1.0"),
        (dict(sampling__temperature=-1.0), "temperature is -1.0"),
        (dict(sampling__top_k=17), "top_k is 17"),
        (dict(sampling__top_p=0.0), "top_p is 0.0"),
    ],
)
def test_values_that_cannot_work_are_refused(name, changes, message):
    stage_module(name).validate(tiny_config(name))
    with pytest.raises(InputError, match=message):
        stage_module(name).validate(tiny_config(name, **changes))


THREE_GRIDS = ((2, 2), (4, 4), (8, 8))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt", dict(model__num_heads=3), "width 16 is not a multiple of .*num_heads 3"),
        ("gpt", dict(data__condition="edges"), "set both"),
        ("gpt", dict(condition_tokenizer="x"), "set both"),
        ("pixelcnn", dict(model__kernel_radius=0), "kernel_radius is 0; it must be at least 1"),
        ("pixelcnn", dict(model__num_layers=0), "num_layers is 0"),
        ("pixelcnn", dict(data__condition="edges"), "on classes only; train configs/maskgit.py or"),
        ("pixelsnail", dict(data__condition="edges"), "conditional on classes only"),
        ("pixelsnail", dict(model__kernel_radius=0), "kernel_radius is 0"),
        ("pixelsnail", dict(model__num_heads=(2,)), "a number for each of the 2 maps"),
        ("pixelsnail", dict(model__num_heads=(2, 0, 0)), "a number for each of the 2 maps"),
        (
            "pixelsnail",
            dict(model__num_heads=(3, 0)),
            "hidden_channels 8 is not a multiple of the 3 heads",
        ),
        ("pixelsnail", dict(model__num_heads=(-1, 0)), "not a multiple of the -1 heads"),
        ("pixelsnail", dict(model__grids=((8, 8), (4, 4))), "put the coarsest first"),
        ("pixelsnail", dict(model__grids=((4, 4), (8, 6))), "cannot be divided into"),
        ("pixelsnail", dict(model__grids=((4, 4),), model__num_heads=(2,)), "1 maps need top"),
        (
            "pixelsnail",
            dict(model__grids=THREE_GRIDS, model__num_heads=(2, 0, 0)),
            "3 maps need top, middle, bottom",
        ),
        (
            "pixelsnail",
            dict(model__grids=((1, 1), *THREE_GRIDS), model__num_heads=(2, 0, 0, 0)),
            "has 4 maps; it must have 1 to 3",
        ),
    ],
)
def test_configurations_that_do_not_fit_are_refused(name, changes, message):
    with pytest.raises(InputError, match=message):
        stage_module(name).validate(tiny_config(name, **changes))


@pytest.mark.parametrize(
    ("name", "tokenizer", "message"),
    [
        ("gpt", grey_stage((8, 8)), r"a grid of .*8, 8.* tokens"),
        ("pixelcnn", grey_stage((4, 4), codes=32), "has 32 codes"),
        ("pixelsnail", grey_stage((4, 4)), r"a grid of .*4, 4"),
    ],
)
def test_tokenizers_that_do_not_fit_are_refused(name, tokenizer, message):
    with pytest.raises(InputError, match=message):
        stage_module(name).build(tiny_config(name), {"tokenizer": tokenizer})
