"""PixelCNN, PixelSNAIL and GPT as stages: exact likelihoods, completion, larger images."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.arrays import normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.autoregressive import decode_with_cache
from maskgit_jax.decoding.settings import AutoregressiveSettings, SlidingWindowSettings
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.priors.pixelcnn import PixelCNN
from maskgit_jax.priors.pixelsnail import PixelSNAIL
from maskgit_jax.stage import Stage, Tokenizer, Variables, join_levels, split_levels
from maskgit_jax.stages import STAGES, gpt, pixelcnn, pixelsnail
from maskgit_jax.stages.token_priors import token_grids
from tests.example import preset, tiny_config
from tests.priors.test_autoregressive import random_params

NAMES = ("gpt", "pixelcnn", "pixelsnail")
NETWORKS = {
    "gpt": lambda config, _: gpt.network(config),
    "pixelcnn": lambda config, _: pixelcnn.network(config),
    "pixelsnail": pixelsnail.network,
}
BATCH = 4


# Exact likelihoods on maps so small that all of them can be listed.

SMALL = {
    "gpt": GPT(3, 2, (2, 2), width=8, num_layers=1, num_heads=2, mlp_width=8, remat=False),
    "pixelcnn": PixelCNN(2, 2, (2, 3), features=4, num_layers=2, head_features=4),
    "pixelsnail": PixelSNAIL(
        2, 2, (3, 2), features=4, hidden_channels=4, num_blocks=1, num_layers=1, kernel_radius=1, num_heads=2,
        num_output_layers=1,
    ),
}  # fmt: skip


@cache
def all_maps(name):
    """Parameters, every token map and the probability of each with label 1."""
    network = SMALL[name]
    codes, length = network.codebook_size, network.grid[0] * network.grid[1]
    maps = np.indices((codes,) * length).reshape(length, -1).T.astype(np.int32)
    label = np.ones(len(maps), np.int32)
    params = random_params(jax.eval_shape(network.init, jax.random.key(0), maps, label))["params"]
    apply = jax.jit(lambda params: network.apply({"params": params}, maps, label))
    size = np.std(apply(params))  # then logits deviate by 1
    params = {**params, "head_logit": jax.tree.map(lambda x: x / size, params["head_logit"])}
    logits = np.asarray(apply(params), np.float64)
    log_share = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    log_probability = np.take_along_axis(log_share, maps[..., None], -1).sum(axis=(1, 2))
    return {"params": params}, maps, log_probability


@pytest.mark.parametrize("name", SMALL)
def test_the_probabilities_of_all_maps_sum_to_one(name):
    _, maps, log_probability = all_maps(name)
    assert len(maps) in (64, 81)
    np.testing.assert_allclose(np.exp(log_probability).sum(), 1.0, atol=1e-5)
    assert log_probability.std() > 0.3  # it is no uniform distribution
    assert np.exp(log_probability).max() < 0.5


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_drawn_as_often_as_they_are_likely(name):
    network, count = SMALL[name], 3000
    params, maps, log_probability = all_maps(name)

    def step(memory, previous, index):
        return network.apply(params, memory, previous, index, method="decode_step")

    @jax.jit
    def draw(key):
        memory = network.apply(params, jnp.ones(count, jnp.int32), method="init_cache")
        tokens = jnp.zeros((count, maps.shape[1]), jnp.int32)
        mask = jnp.ones_like(tokens, bool)
        return decode_with_cache(step, memory, tokens, mask, key, AutoregressiveSettings())

    drawn = np.asarray(draw(jax.random.key(4)))
    numbers = np.ravel_multi_index(drawn.T, (network.codebook_size,) * maps.shape[1])
    np.testing.assert_array_equal(maps[numbers], drawn)
    surprise = -log_probability[numbers]
    entropy = -(np.exp(log_probability) * log_probability).sum()
    error = surprise.std() / np.sqrt(count)
    assert abs(surprise.mean() - entropy) < 4 * error
    share = np.exp(log_probability)
    counts = np.bincount(numbers, minlength=len(maps))
    often = count * share >= 5  # the others are one class together
    seen, expected = (np.append(x[often], x[~often].sum()) for x in (counts, count * share))
    square = ((seen - expected) ** 2 / np.maximum(expected, 1)).sum()
    freedom = len(seen) - 1
    assert square < freedom + 5 * np.sqrt(2 * freedom)


# Stages on tokenizers of which a code is the grey level of a patch, so that samples show their
# tokens; with parameters of some size: freshly initialised, all codes are about equally likely.

CODES = 16


def grey_stage(*grids, codes=CODES, sizes=True):
    """A stage that exports a tokenizer.

    Its codes are the first pixel of each patch, modulo 16; with two levels the coarser ones are
    that pixel divided by 16.
    """
    patches = [16 // grid[0] for grid in grids]
    places = [codes ** (len(grids) - 1 - number) for number in range(len(grids))]

    def encode_maps(image):
        grey = jnp.round((image[..., 0] + 1) * 127.5).astype(jnp.int32)
        levels = zip(patches, places, strict=True)
        return [grey[:, ::patch, ::patch] // place % codes for patch, place in levels]

    def decode_maps(maps):
        grey = sum(
            jnp.repeat(jnp.repeat(tokens * place, patch, axis=1), patch, axis=2)
            for tokens, patch, place in zip(maps, patches, places, strict=True)
        )
        return grey[..., None] / 127.5 - 1

    exports = Tokenizer(
        lambda _, image: join_levels(tuple(encode_maps(image))),
        lambda _, tokens: decode_maps(split_levels(tokens, grids)),
        codes,
        grids,
        (lambda _, image: encode_maps(image)[0]) if sizes else None,
        (lambda _, tokens: decode_maps([tokens])) if sizes else None,
    )
    return Stage(None, None, None, None, exports)


def built(name, condition=None, **changes):
    """A tiny stage on such tokenizers, its configuration and variables."""
    config = tiny_config(name, **changes)
    frozen = {"tokenizer": grey_stage(*token_grids(config))}
    if condition is not None:
        frozen["condition_tokenizer"] = condition
    stage = STAGES[name].build(config, frozen)
    shapes = jax.eval_shape(stage.init, jax.random.key(0), grey_batch(), {})
    nothing = dict.fromkeys(frozen, Variables({}, {}, {}))
    return stage, config, Variables(random_params(shapes.params), {}, nothing)


def grey_batch(size=(16, 16), levels=1):
    """Random pixels; each of them could be a first one of a patch."""
    rng = np.random.default_rng(0)
    shape = (BATCH, *size, 1)
    image, condition = (rng.integers(0, CODES**levels, shape).astype(np.uint8) for _ in range(2))
    return {"image": image, "condition": condition, "label": labels()["label"]}


def labels(first=0):
    return {"label": (np.arange(BATCH, dtype=np.int32) + first) % 10}


def tokens_in(image, grid, place=1):
    """The codes of a map in uint8 pixels or in [-1, 1], [B, h, w]; rows 4 pixels or as `grid`."""
    grey = np.asarray(image)
    if grey.dtype != np.uint8:
        grey = np.round((grey + 1) * 127.5)
    patch = 16 // grid[0]
    return grey[:, ::patch, ::patch, 0].astype(int) // place % CODES


@cache
def ready(name):
    return built(name)


@cache
def sampler(name):
    return jax.jit(ready(name)[0].exports.sample, static_argnums=3)


def sample(name, wanted, seed=0, **settings):
    stage, _, variables = ready(name)
    settings = replace(stage.exports.settings, **settings)
    return np.asarray(sampler(name)(variables, wanted, jax.random.key(seed), settings))


@cache
def plain(name, label=0, seed=0):
    return sample(name, labels(label), seed)


def levels_of(name):
    """(player, rows and columns, what grey levels are divided by) of each map, coarsest first."""
    if name == "pixelsnail":
        return [("top", (4, 4), CODES), ("bottom", (8, 8), 1)]
    return [("prior", (4, 4), 1)]


@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_the_network_s_own_logits(name):
    stage, config, variables = ready(name)
    levels = levels_of(name)
    batch = grey_batch(levels=len(levels))
    tokens = [tokens_in(batch["image"], *level[1:]).reshape(BATCH, -1) for level in levels]

    @jax.jit
    def figures_and_logits(variables, tokens):
        logits = [
            NETWORKS[name](config, number).apply(
                {"params": variables.params[player]},
                tokens[number],
                batch["label"],
                tokens[0] if number else None,
            )
            for number, (player, _, _) in enumerate(levels)
        ]
        return stage.evaluate(variables, batch, jax.random.key(0)), logits

    figures, logits = figures_and_logits(variables, tokens)
    bits = []
    for (player, _, _), own, true in zip(levels, logits, tokens, strict=True):
        own = np.asarray(own, np.float64)
        picked = np.take_along_axis(own, true[..., None], -1)[..., 0]
        bits.append((np.log(np.exp(own).sum(axis=-1)) - picked) / np.log(2))
        suffix = f"_{player}" if len(levels) > 1 else ""
        right = (own.argmax(axis=-1) == true).mean(axis=1)
        np.testing.assert_allclose(
            figures[f"bits_per_token{suffix}"], bits[-1].mean(axis=1), rtol=1e-4
        )
        np.testing.assert_allclose(figures[f"token_accuracy{suffix}"], right, rtol=1e-5)
    total = np.concatenate(bits, axis=1)
    assert figures["bits_per_token"].shape == (BATCH,)
    np.testing.assert_allclose(figures["bits_per_token"], total.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(figures["token_bits_per_dimension"], total.sum(axis=1) / 256, rtol=1e-4)
    if name == "pixelsnail":
        weighted = (16 * figures["bits_per_token_top"] + 64 * figures["bits_per_token_bottom"]) / 80
        np.testing.assert_allclose(figures["bits_per_token"], weighted, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_noisy_in_training_only(name):
    stage, config, variables = ready(name)
    noisy, _, _ = built(name, losses__keep_rate=0.5)
    batch = grey_batch(levels=len(levels_of(name)))

    @jax.jit
    def figures(variables, batch):
        losses, bits = [], []
        for own in (stage, noisy):
            losses.append(own.losses(variables, batch, jax.random.key(1), jnp.int32(0))[0])
            bits.append(own.evaluate(variables, batch, jax.random.key(2)))
        return losses, bits

    (loss, noisy_loss), (bits, noisy_bits) = figures(variables, batch)
    assert set(loss) == set(config.optimizers)
    for player in loss:
        assert abs(loss[player] - noisy_loss[player]) > 1e-3, player
        # Without noise and dropout the loss is what is evaluated.
        own = bits[f"bits_per_token_{player}" if len(loss) > 1 else "bits_per_token"]
        np.testing.assert_allclose(loss[player], own.mean() * np.log(2), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, bits, noisy_bits)


def test_finer_levels_learn_from_true_coarser_tokens():
    """Where all that is read is noise, only the condition can tell the coarser tokens."""
    stage, _, variables = built("pixelsnail", losses__keep_rate=1e-9)
    image = grey_batch(levels=2)["image"]

    @jax.jit
    def losses(image):
        batch = {**labels(), "image": image}
        return stage.losses(variables, batch, jax.random.key(1), jnp.int32(0))[0]

    one, other = losses(image), losses((image + CODES).astype(np.uint8))  # other coarser tokens
    assert abs(one["bottom"] - other["bottom"]) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_the_same_with_and_without_a_memory(name):
    image = plain(name)
    assert image.shape == (BATCH, 16, 16, 1)
    assert len(np.unique(image)) > 4
    np.testing.assert_array_equal(sample(name, labels(), use_cache=False), image)


@pytest.mark.parametrize("name", NAMES)
def test_samples_depend_on_key_and_label(name):
    assert (plain(name) != plain(name, seed=1)).any(axis=(1, 2, 3)).all()
    assert (plain(name) != plain(name, label=5)).any(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("name", NAMES)
def test_one_code_only_leaves_nothing_to_the_key(name):
    one, other = (sample(name, labels(), seed, top_k=1) for seed in (0, 1))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_kept_pixels_stay_exactly_and_others_are_made(name):
    image = grey_batch(levels=len(levels_of(name)))["image"]
    mask = np.zeros((BATCH, 16, 16), bool)
    mask[:, 8:] = True
    mask[0] = False  # keep all of the first one
    before = sampler(name)._cache_size()
    one, other = (sample(name, {**labels(), "image": image, "mask": mask}, seed) for seed in (0, 1))
    original = np.asarray(normalize(jnp.asarray(image)))
    for made in (one, other):
        np.testing.assert_array_equal(made[~mask], original[~mask])
    assert (one != other)[mask].any()
    narrow = np.zeros_like(mask)
    narrow[:, 3:5, 3] = True
    third = sample(name, {**labels(3), "image": image, "mask": narrow})
    np.testing.assert_array_equal(third[~narrow], original[~narrow])
    assert sampler(name)._cache_size() <= before + 1, "one program for all labels and regions"
    # What is drawn depends on what was kept.
    fourth = sample(name, {**labels(), "image": image[::-1].copy(), "mask": mask})
    assert (fourth != one)[mask].any()


@pytest.mark.parametrize("name", NAMES)
def test_generators_say_what_they_take(name):
    exports = ready(name)[0].exports
    assert exports.num_classes == 10
    assert exports.needs == ()
    assert exports.accepts == ("image", "mask")
    assert hasattr(exports.settings, "size") == (name == "gpt")
    exports.check_settings(exports.settings)
    with pytest.raises(InputError, match="top_k is 17"):
        exports.check_settings(replace(exports.settings, top_k=17))


# Larger images.


def test_larger_images_begin_as_those_of_the_training_size():
    ordinary, tall = (sample("gpt", labels(), size=size) for size in (None, (32, 16)))
    assert tall.shape == (BATCH, 32, 16, 1)
    np.testing.assert_array_equal(ordinary, sample("gpt", labels(), size=(16, 16)))
    # Rows 0 to 2 of 8 are drawn in the window that begins at row 0; row 3 looks from row 1 on.
    one, other = (tokens_in(image, (4, 4)) for image in (ordinary, tall))
    np.testing.assert_array_equal(one[:, :3], other[:, :3])
    assert not np.array_equal(one[:, 3], other[:, 3])
    assert len(np.unique(other)) > 8
    assert not np.array_equal(tall, sample("gpt", labels(), seed=1, size=(32, 16)))


def test_a_part_of_a_larger_image_is_made_anew():
    image = grey_batch((32, 16))["image"]
    mask = np.zeros((BATCH, 32, 16), bool)
    mask[:, 12:, 4:] = True
    made = sample("gpt", {**labels(), "image": image, "mask": mask}, size=(32, 16))
    original = np.asarray(normalize(jnp.asarray(image)))
    np.testing.assert_array_equal(made[~mask], original[~mask])
    changed = tokens_in(made, (4, 4)) != tokens_in(image, (4, 4))
    assert not changed[:, :3].any()
    assert not changed[:, :, 0].any()
    assert changed[:, 3:, 1:].mean() > 0.5


@pytest.mark.parametrize("size", [(30, 16), (16, 18), (8, 16), (32, 12), (0, 16)])
def test_sizes_that_cannot_be_are_refused(size):
    check = ready("gpt")[0].exports.check_settings
    message = f"size is {size[0]}x{size[1]}; both must be multiples of .* 4 pixels, and at least 16"
    with pytest.raises(InputError, match=message):
        check(SlidingWindowSettings(size=size))
    for fine in (None, (16, 16), (16, 20), (64, 32)):
        check(SlidingWindowSettings(size=fine))


# GPT by condition image.

OF_EDGES = dict(data__condition="edges", condition_tokenizer="x")


def conditioned(grid=(4, 4)):
    return built("gpt", grey_stage(grid), **OF_EDGES)


def changed_rows(batch, first, last):
    """The batch with other pixels in these rows of its condition."""
    condition = batch["condition"].copy()
    condition[:, first:last] = (condition[:, first:last] + 1) % CODES
    return {**batch, "condition": condition}


def test_the_condition_changes_losses_and_bits():
    stage, config, variables = conditioned()
    gpt.validate(config)
    assert STAGES["gpt"].needs(config) == {"tokenizer": config.tokenizer, "condition_tokenizer": "x"}
    assert stage.exports.needs == ("condition",)
    assert variables.params["prior"]["position_embedding"].shape == (16 + 16, 16)

    @jax.jit
    def figures(batch):
        losses = stage.losses(variables, batch, jax.random.key(0), jnp.int32(0))[0]
        return losses["prior"], stage.evaluate(variables, batch, jax.random.key(0))

    batch = grey_batch()
    one, other = figures(batch), figures(changed_rows(batch, 0, 16))
    assert np.isfinite([one[0], other[0]]).all()
    assert abs(one[0] - other[0]) > 1e-4
    bits = [figure["bits_per_token"] for _, figure in (one, other)]
    assert (abs(bits[0] - bits[1]) > 1e-4).all()


@pytest.mark.parametrize("grid", [(4, 4), (8, 8)])
def test_a_window_reads_the_condition_of_its_own_place(grid):
    stage, config, variables = conditioned(grid)
    compiled = jax.jit(stage.exports.sample, static_argnums=3)

    def draw(batch, size=(32, 16)):
        wanted = {name: batch[name] for name in ("label", "condition")}
        settings = replace(stage.exports.settings, size=size, top_k=1)
        return tokens_in(compiled(variables, wanted, jax.random.key(0), settings), (4, 4))

    batch = grey_batch((32, 16))
    tall = draw(batch)
    network = gpt.network(config, grey_stage(grid).exports)
    logits = jax.jit(network.apply)
    read, expected = tokens_in(batch["condition"], grid), np.zeros((BATCH, 8, 4), np.int32)
    scale = grid[0] // 4
    for row, top in enumerate((0, 0, 0, 1, 2, 3, 4, 4)):  # where the windows of the rows begin
        own = read[:, top * scale : (top + 4) * scale].reshape(BATCH, -1)
        for column in range(4):
            seen = expected[:, top : top + 4].reshape(BATCH, -1)
            params = {"params": variables.params["prior"]}
            found = logits(params, seen, batch["label"], own)[:, 4 * (row - top) + column]
            expected[:, row, column] = found.argmax(axis=-1)
    np.testing.assert_array_equal(tall, expected)
    # Rows 0 to 3 see rows 0 to 4 of the condition, which are pixels 0 to 19.
    np.testing.assert_array_equal(draw(changed_rows(batch, 20, 32))[:, :4], tall[:, :4])
    assert not np.array_equal(draw(changed_rows(batch, 0, 32)), tall)


def test_previews_show_condition_original_and_two_samples():
    stage, _, variables = conditioned()
    batch = grey_batch()
    (shown,) = jax.jit(stage.preview)(variables, batch, jax.random.key(0)).values()
    assert shown.shape == (BATCH, 4, 16, 16, 1)
    np.testing.assert_array_equal(shown[:, 0], normalize(jnp.asarray(batch["condition"])))
    np.testing.assert_array_equal(shown[:, 1], normalize(jnp.asarray(batch["image"])))
    assert not np.array_equal(shown[:, 2], shown[:, 3])


@pytest.mark.parametrize(
    "condition", [grey_stage((4, 4), sizes=False), grey_stage((2, 2))], ids=["levels", "coarser"]
)
def test_conditions_that_cannot_be_windowed_refuse_larger_images_only(condition):
    check = built("gpt", condition, **OF_EDGES)[0].exports.check_settings
    check(SlidingWindowSettings())
    check(SlidingWindowSettings(size=(16, 16)))
    with pytest.raises(InputError, match="larger than those of training need at least as many"):
        check(SlidingWindowSettings(size=(32, 16)))


# What is refused.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(losses__keep_rate=0.0), "keep_rate is 0.0; it must be above 0 and at most 1"),
        (dict(losses__keep_rate=1.5), "keep_rate is 1.5"),
        (dict(model__dropout_rate=1.0), "dropout_rate is 1.0"),
        (dict(sampling__temperature=0.0), "temperature is 0.0"),
        (dict(sampling__top_k=17), "top_k is 17"),
        (dict(sampling__top_p=0.0), "top_p is 0.0"),
    ],
)
def test_values_that_cannot_work_are_refused(name, changes, message):
    STAGES[name].validate(tiny_config(name))
    with pytest.raises(InputError, match=message):
        STAGES[name].validate(tiny_config(name, **changes))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt", dict(model__num_heads=3), "width 16 is not a multiple of .*num_heads 3"),
        ("gpt", dict(data__condition="edges"), "need both"),
        ("gpt", dict(condition_tokenizer="x"), "need both"),
        ("pixelcnn", dict(model__kernel_radius=0), "kernel_radius is 0; it must be at least 1"),
        ("pixelcnn", dict(model__num_layers=0), "num_layers is 0"),
        ("pixelcnn", dict(data__condition="edges"), "of a class only; train configs/maskgit.py or"),
        ("pixelsnail", dict(data__condition="edges"), "of a class only"),
        ("pixelsnail", dict(model__kernel_radius=0), "kernel_radius is 0"),
        ("pixelsnail", dict(model__num_heads=(2,)), "a number for each of the 2 maps"),
        ("pixelsnail", dict(model__num_heads=(2, 0, 0)), "a number for each of the 2 maps"),
        ("pixelsnail", dict(model__num_heads=(3, 0)), "masked 8 is not a multiple of the 3 heads"),
        ("pixelsnail", dict(model__num_heads=(-1, 0)), "not a multiple of the -1 heads"),
        ("pixelsnail", dict(model__grids=((8, 8), (4, 4))), "put the coarsest first"),
        ("pixelsnail", dict(model__grids=((4, 4), (8, 6))), "cannot be divided into"),
        (
            "pixelsnail",
            dict(model__grids=((4, 4),), model__num_heads=(2,)),
            "1 maps need top",
        ),
        (
            "pixelsnail",
            dict(model__grids=((2, 2), (4, 4), (8, 8)), model__num_heads=(2, 0, 0)),
            "3 maps need top, middle, bottom",
        ),
        (
            "pixelsnail",
            dict(model__grids=((1, 1), (2, 2), (4, 4), (8, 8)), model__num_heads=(2, 0, 0, 0)),
            "has 4 maps; it must have 1 to 3",
        ),
    ],
)
def test_configurations_that_do_not_fit_are_refused(name, changes, message):
    with pytest.raises(InputError, match=message):
        STAGES[name].validate(tiny_config(name, **changes))


def test_tokenizers_that_do_not_fit_are_refused():
    for name, frozen, message in (
        ("gpt", grey_stage((8, 8)), "a grid of .*8, 8.* tokens"),
        ("pixelcnn", grey_stage((4, 4), codes=32), "has 32 codes"),
        ("pixelsnail", grey_stage((4, 4)), "a grid of .*4, 4"),
    ):
        with pytest.raises(InputError, match=message):
            STAGES[name].build(tiny_config(name), {"tokenizer": frozen})
    config = tiny_config("gpt", **OF_EDGES)
    frozen = {"tokenizer": grey_stage((4, 4)), "condition_tokenizer": ready("gpt")[0]}
    with pytest.raises(InputError, match="condition_tokenizer x holds no tokenizer"):
        gpt.build(config, frozen)


def test_the_imagenet_gpt_has_the_parameters_of_its_formula():
    network = gpt.network(preset("gpt", "imagenet256").unlock())
    assert (network.num_classes, network.codebook_size) == (1000, 1024)
    inputs = jnp.zeros((1, network.num_tokens), jnp.int32), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    width, layers, places, rows, codes = 1024, 24, 256, 2048, 1024  # 2024 rows, padded
    layer = (
        4 * (width**2 + width)  # query, key, value, out
        + (width * 4 * width + 4 * width) + (4 * width * width + width)  # network behind
        + 2 * 2 * width  # two norms
    )  # fmt: skip
    assert layer == 12 * width**2 + 13 * width
    total = rows * width + places * width + layers * layer + 2 * width + width * codes
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total == 305_719_296
