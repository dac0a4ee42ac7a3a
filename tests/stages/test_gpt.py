"""GPT as a stage: images larger than in training, and condition images."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.arrays import normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.settings import SlidingWindowSettings
from maskgit_jax.stages import gpt, stage_module
from tests.example import preset, tiny_config
from tests.stages.test_autoregressive import (
    BATCH,
    CODES,
    build_stage,
    cached_stage,
    grey_batch,
    grey_stage,
    labels,
    sample,
    tokens_in,
)

TALL = (32, 16)


def test_larger_images_start_as_those_of_the_training_size():
    image, tall = (sample("gpt", labels(), size=size) for size in (None, TALL))
    assert tall.shape == (BATCH, *TALL, 1)
    np.testing.assert_array_equal(image, sample("gpt", labels(), size=(16, 16)))
    # The window of rows 0 to 2 starts at row 0, that of row 3 at row 1.
    tokens, tall_tokens = (tokens_in(x, (4, 4)) for x in (image, tall))
    np.testing.assert_array_equal(tokens[:, :3], tall_tokens[:, :3])
    assert not np.array_equal(tokens[:, 3], tall_tokens[:, 3])
    assert len(np.unique(tall_tokens)) > 8
    assert not np.array_equal(tall, sample("gpt", labels(), seed=1, size=TALL))


def test_larger_images_keep_unmasked_pixels():
    image = grey_batch(TALL)["image"]
    mask = np.zeros((BATCH, *TALL), bool)
    mask[:, 12:, 4:] = True
    result = sample("gpt", {**labels(), "image": image, "mask": mask}, size=TALL)
    original = np.asarray(normalize(jnp.asarray(image)))
    np.testing.assert_array_equal(result[~mask], original[~mask])
    changed = tokens_in(result, (4, 4)) != tokens_in(image, (4, 4))
    assert not changed[:, :3].any()
    assert not changed[:, :, 0].any()
    assert changed[:, 3:, 1:].mean() > 0.5


@pytest.mark.parametrize("size", [(30, 16), (16, 18), (8, 16), (32, 12), (0, 16)])
def test_impossible_sizes_are_refused(size):
    check = cached_stage("gpt")[0].exports.check_settings
    message = f"size is {size[0]}x{size[1]}; both must be multiples of .* 4 pixels, and at least 16"
    with pytest.raises(InputError, match=message):
        check(SlidingWindowSettings(size=size))
    for possible in (None, (16, 16), (16, 20), (64, 32)):
        check(SlidingWindowSettings(size=possible))


# Condition images.

EDGES = dict(data__condition="edges", condition_tokenizer="x")


def conditional_stage(grid=(4, 4)):
    return build_stage("gpt", grey_stage(grid), **EDGES)


def change_condition(batch, first, last):
    """The batch with other pixels in these rows of its condition."""
    condition = batch["condition"].copy()
    condition[:, first:last] = (condition[:, first:last] + 1) % CODES
    return {**batch, "condition": condition}


def test_losses_and_metrics_depend_on_the_condition():
    stage, config, variables = conditional_stage()
    stage_module("gpt").validate(config)
    runs = {"tokenizer": config.tokenizer, "condition_tokenizer": "x"}
    assert stage_module("gpt").needs(config) == runs
    assert stage.exports.needs == ("condition",)
    assert variables.params["prior"]["position_embedding"].shape == (16 + 16, 16)

    @jax.jit
    def compute(batch):
        losses = stage.losses(variables, batch, jax.random.key(0), jnp.int32(0))[0]
        return losses["prior"], stage.evaluate(variables, batch, jax.random.key(0))

    batch = grey_batch()
    first, second = compute(batch), compute(change_condition(batch, 0, 16))
    assert np.isfinite([first[0], second[0]]).all()
    assert abs(first[0] - second[0]) > 1e-4
    assert (abs(first[1]["bits_per_token"] - second[1]["bits_per_token"]) > 1e-4).all()


@pytest.mark.parametrize("grid", [(4, 4), (8, 8)])
def test_a_window_is_conditioned_on_its_own_part_of_the_condition(grid):
    stage, config, variables = conditional_stage(grid)
    compiled = jax.jit(stage.exports.sample, static_argnums=3)
    settings = replace(stage.exports.settings, size=TALL, top_k=1)

    keys = jax.random.split(jax.random.key(0), BATCH)

    def sample_tokens(batch):
        inputs = {name: batch[name] for name in ("label", "condition")}
        return tokens_in(compiled(variables, inputs, keys, settings), (4, 4))

    batch = grey_batch(TALL)
    tall = sample_tokens(batch)
    network = gpt.network(config, grey_stage(grid).exports)
    apply = jax.jit(network.apply)
    params = {"params": variables.params["prior"]}
    condition, expected = tokens_in(batch["condition"], grid), np.zeros((BATCH, 8, 4), np.int32)
    scale = grid[0] // 4
    for row, top in enumerate((0, 0, 0, 1, 2, 3, 4, 4)):  # the first row of each row's window
        part = condition[:, top * scale : (top + 4) * scale].reshape(BATCH, -1)
        for column in range(4):
            window = expected[:, top : top + 4].reshape(BATCH, -1)
            logits = apply(params, window, batch["label"], part)[:, 4 * (row - top) + column]
            expected[:, row, column] = logits.argmax(axis=-1)
    np.testing.assert_array_equal(tall, expected)
    # The windows of rows 0 to 3 end at row 4 of the condition, which is pixels 16 to 19.
    np.testing.assert_array_equal(
        sample_tokens(change_condition(batch, 20, 32))[:, :4], tall[:, :4]
    )
    assert not np.array_equal(sample_tokens(change_condition(batch, 0, 32)), tall)


def test_previews_show_condition_original_and_two_samples():
    stage, _, variables = conditional_stage()
    batch = grey_batch()
    (images,) = jax.jit(stage.preview)(variables, batch, jax.random.key(0)).values()
    assert images.shape == (BATCH, 4, 16, 16, 1)
    np.testing.assert_array_equal(images[:, 0], normalize(jnp.asarray(batch["condition"])))
    np.testing.assert_array_equal(images[:, 1], normalize(jnp.asarray(batch["image"])))
    assert not np.array_equal(images[:, 2], images[:, 3])


@pytest.mark.parametrize(
    "condition", [grey_stage((4, 4), any_size=False), grey_stage((2, 2))], ids=["levels", "coarser"]
)
def test_condition_tokenizers_without_windows_refuse_only_larger_images(condition):
    check = build_stage("gpt", condition, **EDGES)[0].exports.check_settings
    check(SlidingWindowSettings())
    check(SlidingWindowSettings(size=(16, 16)))
    with pytest.raises(InputError, match="larger than those of training need at least as many"):
        check(SlidingWindowSettings(size=TALL))


def test_a_condition_tokenizer_that_is_none_is_refused():
    frozen = {"tokenizer": grey_stage((4, 4)), "condition_tokenizer": cached_stage("gpt")[0]}
    with pytest.raises(InputError, match="condition_tokenizer x is no run of a tokenizer"):
        gpt.build(tiny_config("gpt", **EDGES), frozen)


def test_imagenet_gpt_has_the_parameter_count_of_its_formula():
    network = gpt.network(preset("gpt", "imagenet256").unlock())
    assert (network.num_classes, network.codebook_size) == (1000, 1024)
    inputs = jnp.zeros((1, network.num_tokens), jnp.int32), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    width, layers, length, rows, codes = 1024, 24, 256, 2048, 1024  # 2024 rows, padded
    layer = (
        4 * (width**2 + width)  # query, key, value, out
        + (width * 4 * width + 4 * width) + (4 * width * width + width)  # MLP
        + 2 * 2 * width  # two norms
    )  # fmt: skip
    assert layer == 12 * width**2 + 13 * width
    total = rows * width + length * width + layers * layer + 2 * width + width * codes
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total == 305_719_296
