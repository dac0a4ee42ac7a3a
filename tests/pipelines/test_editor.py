"""Editing with an untrained MaskGIT: properties that hold for any sample."""

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.pipelines.editor import Editor
from maskgit_jax.runs.directory import Run
from maskgit_jax.training.sharding import make_mesh
from tests.example import digits_batch, tiny_stage, tiny_tokenizer


def build_editor(devices: int = 1, **changes) -> Editor:
    stage, config, frozen = tiny_stage("maskgit", **changes)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    run = Run(config, stage, variables, 1, {"tokenizer": tiny_tokenizer()[0]})
    return Editor(run, make_mesh(config.mesh, jax.devices()[:devices]))


@pytest.fixture(scope="module")
def editor() -> Editor:
    return build_editor()


@pytest.fixture
def image() -> np.ndarray:
    return digits_batch()["image"][3]


def lower_half(size: tuple[int, int] = (16, 16)) -> np.ndarray:
    return np.repeat(np.arange(size[0])[:, None] >= size[0] // 2, size[1], axis=1)


def test_unmasked_pixels_are_preserved_and_candidates_differ(editor, image):
    mask = lower_half()
    result = editor.inpaint(image, mask, num=3)
    assert result.images.shape == (3, 16, 16, 1) and result.frames is None
    np.testing.assert_array_equal(result.images[:, :8], np.stack([image[:8]] * 3))
    assert (result.images[0] != result.images[1]).any()
    again = editor.inpaint(image, mask, num=3)
    np.testing.assert_array_equal(again.images, result.images)
    other = editor.inpaint(image, mask, num=3, seed=1)
    assert (other.images != result.images).any()


def test_masked_pixels_do_not_influence_the_result(editor, image):
    mask, changed = lower_half(), image.copy()
    changed[8:] = 255 - changed[8:]
    one, other = (editor.inpaint(photo, mask, num=2).images for photo in (image, changed))
    np.testing.assert_array_equal(one, other)


def test_one_program_for_all_labels_masks_and_sizes(editor, image):
    before = editor.step_decoder.program.cache_size()
    for label, mask in ((None, lower_half()), (3, lower_half().T), (9, ~lower_half())):
        editor.inpaint(image, mask, label=label, num=2)
    editor.replace(image, (4, 4, 4, 4), 5, num=2)
    editor.outpaint(image, right=40, num=2)
    assert editor.step_decoder.program.cache_size() - before <= 1


@pytest.mark.parametrize("shape", [(16, 40), (50, 33), (10, 13)])
def test_images_of_other_sizes(editor, shape):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*shape, 1), np.uint8)
    mask = lower_half(shape)
    result = editor.inpaint(photo, mask, num=2)
    assert result.images.shape == (2, *shape, 1)
    np.testing.assert_array_equal(result.images[:, ~mask], np.stack([photo[~mask]] * 2))
    variations = editor.variations(photo, keep=0.5, num=2)
    assert (
        variations.images.shape == (2, *shape, 1)
        and (variations.images[0] != variations.images[1]).any()
    )


def test_panoramas_and_their_frames(editor, image):
    result = editor.outpaint(image, left=3, right=37, top=8, num=2, frames=True, steps=2)
    assert result.images.shape == (2, 24, 56, 1) and result.mask.sum() == 24 * 56 - 256
    np.testing.assert_array_equal(result.images[:, 8:, 3:19], np.stack([image] * 2))
    steps, rest = result.frames.shape[0], result.frames.shape[1:]
    assert rest == (2, 24, 56, 1) and steps % 2 == 1 and steps > 2 * 4  # windows of 2 steps each
    # The first frame covers all new pixels, the last none.
    assert (result.frames[0] != result.frames[-1]).mean() > 0.3


def test_the_result_is_the_same_with_every_step_shown(editor, image):
    states = []
    outpaint = dict(left=3, right=37, top=8, num=2, steps=2)
    result = editor.outpaint(image, **outpaint, on_step=states.append)
    np.testing.assert_array_equal(result.images, editor.outpaint(image, **outpaint).images)
    windows = states[0].windows
    order = [(0, 0), *((window, step) for window in range(windows) for step in (1, 2))]
    assert windows > 4 and [(state.window, state.step) for state in states] == order
    masked = states[0].mask[0]
    assert masked.shape == (6, 14) and masked.any() and not states[-1].mask.any()
    for state in states:
        np.testing.assert_array_equal(state.tokens[:, ~masked], states[0].tokens[:, ~masked])
        assert (state.confidence[:, ~masked] == 1).all() and not state.mask[:, ~masked].any()
    known = [(~state.mask).sum() for state in states]
    assert known == sorted(known), "windows already generated stay"


def test_an_edit_that_is_stopped_leaves_the_editor_usable(editor, image):
    def stop(state):
        raise RuntimeError(f"stop at {state.step}")

    before = editor.variations(image).images
    with pytest.raises(RuntimeError, match="stop at 0"):
        editor.variations(image, on_step=stop)
    np.testing.assert_array_equal(editor.variations(image).images, before)


def test_working_sizes_are_multiples(editor):
    few = Editor(editor.run, editor.step_decoder.mesh, size_multiple=2)
    photo = np.zeros((100, 170, 1), np.uint8)
    assert editor.working_size(photo) == (16, 28) and few.working_size(photo) == (16, 24)
    assert few.encode(photo).shape == (4, 6)


def test_a_box_is_replaced_with_one_more_token_on_each_side(editor, image):
    result = editor.replace(image, (8, 8, 4, 4), 7, num=2)
    rows, columns = np.nonzero(result.mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 15, 4, 15)
    np.testing.assert_array_equal(
        result.images[:, ~result.mask], np.stack([image[~result.mask]] * 2)
    )


def test_the_official_blend_encodes_the_whole_image_and_blurs_the_mask(editor, image):
    changed = image.copy()
    changed[8:12, 8:12] = 255 - changed[8:12, 8:12]  # the box
    one, other = (
        editor.replace(photo, (8, 8, 4, 4), 7, num=2, blend="official", start_step=1, frames=True)
        for photo in (image, changed)
    )
    assert (one.frames[0] != other.frames[0]).any(), "masked pixels influence the known tokens"
    assert len(one.frames) == 3, "two steps of three, and the result"
    rows, _ = np.nonzero(one.mask)
    assert rows.min() in (2, 3), "the weight rises before the first masked row, 4"
    np.testing.assert_array_equal(one.images[:, :2], np.stack([image[:2]] * 2))


def test_interpolations_start_and_end_with_the_reconstructions(editor, image):
    other = digits_batch()["image"][5]
    result = editor.interpolate(image, other, columns=4, num=2)
    assert result.images.shape == (8, 16, 16, 1)
    for column, photo in ((0, image), (3, other)):
        tokens = editor.encode(photo)
        reconstruction = editor.step_decoder.images(tokens[None])[0]
        np.testing.assert_array_equal(result.images[column], reconstruction)
        np.testing.assert_array_equal(result.images[4 + column], reconstruction)


def test_a_candidate_is_the_same_for_any_number_of_candidates(editor):
    photo = np.random.default_rng(0).integers(0, 256, (16, 40, 1), np.uint8)
    calls = (
        lambda num: editor.inpaint(photo, lower_half((16, 40)), num=num, seed=3),
        lambda num: editor.variations(photo, num=num, seed=3),
        lambda num: editor.interpolate(photo, photo[::-1].copy(), columns=2, num=num, seed=3),
    )
    for call in calls:
        few, many = (call(num).images.astype(int) for num in (1, 3))
        np.testing.assert_allclose(many[: len(few)], few, atol=1)


def test_eight_devices_give_the_same_images(editor, image):
    many = build_editor(8)
    settings = dict(num=8, steps=1, temperature=1e-4)  # no randomness
    one, eight = (each.inpaint(image, lower_half(), **settings) for each in (editor, many))
    np.testing.assert_allclose(
        eight.images.astype(int), one.images.astype(int), atol=1, err_msg="rounding only"
    )


def test_without_a_null_label_the_label_is_required(image):
    editor = build_editor(losses__label_dropout_rate=0.0)
    with pytest.raises(InputError, match="give the label of one of its 10 classes"):
        editor.inpaint(image, lower_half())
    assert editor.step_decoder.label_number(2) == 2


def test_a_run_without_classes_takes_no_label(image):
    editor = build_editor(data__num_classes=0, data__class_names=())
    with pytest.raises(InputError, match="has no classes; remove the label"):
        editor.inpaint(image, lower_half(), label=0)
    assert editor.step_decoder.label_number(None) in (0, 1)  # the only class, or the null label


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, i: e.inpaint(i, np.zeros((16, 16), bool)), "black everywhere"),
        (lambda e, i: e.inpaint(i, np.ones((16, 16), bool)), "white everywhere"),
        (lambda e, i: e.inpaint(i, lower_half((8, 16))), "the mask is 16x8 pixels"),
        (lambda e, i: e.inpaint(i, lower_half(), label=10), "label 10 is out of range"),
        (lambda e, i: e.inpaint(i, lower_half(), num=0), "num is 0"),
        (lambda e, i: e.inpaint(i, lower_half(), dilate=-1), "dilate is -1"),
        (lambda e, i: e.inpaint(i, lower_half(), blend="none"), "one of: membrane, official"),
        (lambda e, i: e.inpaint(i, lower_half(), speed=3), "has no setting 'speed'"),
        (lambda e, i: e.inpaint(i, lower_half(), decoder="token_critic"), "trained critic"),
        (lambda e, i: e.inpaint(i.repeat(3, axis=2), lower_half()), r"uint8 \[H, W, 1\]"),
        (lambda e, i: e.replace(i, (10, 0, 8, 8), 1), "is not inside .*give top,left,height,width"),
        (
            lambda e, i: e.replace(i, (2, 2, 0, 4), 1),
            "2,2,0,4 is empty; .*not left,top,right,bottom",
        ),
        (lambda e, i: e.replace(i, (2, 2, 4), 1), "2,2,4 is not a box; give top,left,height,width"),
        (lambda e, i: e.replace(i, (-1, 2, 4, 4), 1), "-1,2,4,4 is not inside the image"),
        (lambda e, i: e.inpaint(i, lower_half(), seed=2**32), "seed is 4294967296"),
        (lambda e, i: e.variations(i, seed=-1), "seed is -1"),
        (lambda e, i: e.outpaint(i), "no pixels are added"),
        (lambda e, i: e.variations(i, keep=1.0), "keep is 1.0"),
        (lambda e, i: e.interpolate(i, i[:8]), "bring them to one size"),
        (lambda e, i: e.interpolate(i, i, columns=1), "columns is 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(editor, image, call, message):
    with pytest.raises(InputError, match=message):
        call(editor, image)


def test_a_run_that_cannot_fill_in_tokens_is_refused():
    stage, config, frozen = tiny_stage("gpt")
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    run = Run(config, stage, variables, 1, {"tokenizer": tiny_tokenizer()[0]})
    with pytest.raises(
        InputError, match="stage 'gpt'; editing .* need a class-conditional MaskGIT"
    ):
        Editor(run, make_mesh(config.mesh, jax.devices()[:1]))
