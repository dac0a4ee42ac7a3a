import numpy as np
import pytest

from maskgit_jax.configuration import InputError, condition_channels, validate
from maskgit_jax.data.conditions import derive_condition, prepare_record, select_input
from maskgit_jax.data.cropping import choose_center, crop_record
from maskgit_jax.data.image_sets import CenterCropped
from maskgit_jax.data.in_memory import ArraySource
from maskgit_jax.data.sources import open_sources
from tests.example import preset


def step(height: int, width: int, column: int, low: int, high: int, channels: int = 1):
    """An image that is `low` left of `column` and `high` from there on."""
    image = np.full((height, width, channels), low, np.uint8)
    image[:, column:] = high
    return image


def changed(**changes):
    config = preset("vqgan").unlock()
    for key, value in changes.items():
        config.data[key] = value
    return config


@pytest.mark.parametrize(("low", "high"), [(0, 255), (255, 0), (100, 150)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_edge_of_a_step_is_one_line_on_its_left_or_upper_side(low, high, channels):
    expected = np.zeros((7, 9, 1), np.uint8)
    expected[:, 3] = 255
    image = step(7, 9, 4, low, high, channels)
    np.testing.assert_array_equal(derive_condition(image, "edges"), expected)
    upright = derive_condition(image.transpose(1, 0, 2), "edges")
    np.testing.assert_array_equal(upright, expected.transpose(1, 0, 2))


def test_a_bright_line_has_two_edges():
    image = step(16, 16, 6, 0, 200)
    image[:, 10:] = 0
    columns = np.flatnonzero(derive_condition(image, "edges")[8, :, 0])
    np.testing.assert_array_equal(columns, [5, 9])


def test_weak_edges_count_only_if_they_touch_strong_ones():
    assert not derive_condition(step(12, 12, 6, 100, 149), "edges").any()
    image = step(12, 12, 6, 100, 149)
    image[8:, 6:] = 200
    edges = derive_condition(image, "edges")[..., 0]
    assert (edges[:6, 5] == 255).all() and edges[:6].sum() == 6 * 255
    image[:8, 6:] = 124
    assert not derive_condition(image, "edges")[:6].any(), "below 25 levels there is no edge at all"


def test_edges_of_a_disc_are_a_thin_closed_ring():
    rows, columns = np.indices((28, 28)) - 13.5
    radius = np.hypot(rows, columns)
    image = np.where(radius < 9, 220, 20).astype(np.uint8)[..., None]
    ring = derive_condition(image, "edges")[..., 0] == 255
    assert ((radius[ring] > 7.5) & (radius[ring] < 10)).all()
    sectors = np.round(np.arctan2(rows, columns)[ring] / (2 * np.pi) * 36) % 36
    assert len(np.unique(sectors)) == 36
    assert ring.sum() < 2 * np.pi * 9 * 1.5


@pytest.mark.parametrize("kind", ["edges", "low_resolution", "grey_levels"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 7, 3), (7, 5, 1), (28, 28, 1)])
def test_conditions_of_a_constant_image_are_constant(kind, shape):
    condition = derive_condition(np.full(shape, 170, np.uint8), kind)
    channels = shape[2] if kind == "low_resolution" else 1
    assert condition.dtype == np.uint8 and condition.shape == (*shape[:2], channels)
    assert (condition == (0 if kind == "edges" else 170)).all()


def test_low_resolution_is_the_mean_of_each_block():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :4, 0] = 40
    image[:4, 4:6, 1] = 100  # one half of its block
    image[7, 7, 2] = 160  # a sixteenth
    expected = np.zeros((2, 2, 3), np.uint8)
    expected[0, 0, 0], expected[0, 1, 1], expected[1, 1, 2] = 40, 50, 10
    condition = derive_condition(image, "low_resolution")
    np.testing.assert_array_equal(condition, expected.repeat(4, 0).repeat(4, 1))
    np.testing.assert_array_equal(derive_condition(condition, "low_resolution"), condition)


def test_seven_pixels_become_two_by_two():
    image = np.arange(49, dtype=np.uint8).reshape(7, 7, 1) * 5
    assert len(np.unique(derive_condition(image, "low_resolution"))) == 4


def test_grey_levels_are_the_nearest_of_four():
    image = np.array([[0, 42, 43, 127, 128, 212, 213, 255]], np.uint8)[..., None]
    levels = derive_condition(image, "grey_levels")[0, :, 0]
    np.testing.assert_array_equal(levels, [0, 0, 85, 85, 170, 170, 255, 255])


def test_colours_count_by_their_luminance():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)  # 76, 150 and 29
    np.testing.assert_array_equal(derive_condition(image, "grey_levels")[0, :, 0], [85, 170, 0])


@pytest.mark.parametrize("kind", ["paired", "image", "", "edge"])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(ValueError, match=f"'{kind}' is not derived"):
        derive_condition(np.zeros((4, 4, 1), np.uint8), kind)


@pytest.mark.parametrize("kind", ["edges", "low_resolution", "grey_levels"])
def test_a_record_has_the_input_or_the_condition_of_the_configuration(kind):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    record = {"image": image, "label": 3}
    with_condition = prepare_record(record, changed(condition=kind).data)
    assert set(with_condition) == {"image", "condition", "label"}
    assert with_condition["image"] is image
    np.testing.assert_array_equal(with_condition["condition"], derive_condition(image, kind))
    with_input = prepare_record(record, changed(input=kind).data)
    assert set(with_input) == {"image", "label"}
    np.testing.assert_array_equal(with_input["image"], derive_condition(image, kind))


def test_a_paired_condition_is_selected_kept_or_dropped():
    record = {"image": np.zeros((4, 4, 3)), "condition": np.ones((4, 4, 1)), "label": 3}
    assert prepare_record(record, changed(condition="paired").data) == record
    assert set(prepare_record(record, changed().data)) == {"image", "label"}
    assert prepare_record(record, changed(input="paired").data) == select_input(record, "paired")
    assert select_input(record, "paired") == {"image": record["condition"], "label": 3}
    assert record.keys() == {"image", "condition", "label"}, "the record itself stays"
    derived_instead = prepare_record({**record, "image": np.zeros((4, 4, 3), np.uint8)},
                               changed(condition="edges").data)  # fmt: skip
    assert not derived_instead["condition"].any()


def test_conditions_are_resized_without_interpolation():
    labels = np.array([[0, 200], [200, 0]], np.uint8).repeat(10, 0).repeat(10, 1)[..., None]
    record = crop_record({"image": labels, "condition": labels}, choose_center, 7)
    assert set(np.unique(record["condition"])) == {0, 200}
    assert len(np.unique(record["image"])) > 2


def test_evaluation_reads_the_input():
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 10, 1), np.uint8)
    source = ArraySource(images, np.arange(2))
    plain, grey = CenterCropped(source, 8, 1)[1], CenterCropped(source, 8, 1, "grey_levels")[1]
    np.testing.assert_array_equal(grey["image"], derive_condition(plain["image"], "grey_levels"))
    assert grey["label"] == plain["label"] == 1


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        (dict(channels=3), 0),
        (dict(condition="edges", channels=3), 1),
        (dict(condition="grey_levels", condition_channels=1), 1),
        (dict(condition="low_resolution", channels=3), 3),
        (dict(condition="paired", channels=3, source="pairs:d"), 3),
        (dict(condition="paired", channels=3, source="pairs:d", condition_channels=1), 1),
    ],
)
def test_channels_of_conditions_follow_from_their_kind(changes, channels):
    config = changed(**changes)
    validate(config)
    assert condition_channels(config.data) == channels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(input="edge"), "config.data.input is 'edge'; allowed: image, edges"),
        (dict(condition="image"), "config.data.condition is 'image'; allowed: '' .none., edges"),
        (dict(condition="paired"), "which digits lacks; set config.data.source=pairs:DIR"),
        (dict(input="paired", source="folder:d"), "folder:d lacks; set config.data.source=pairs"),
        (dict(input="edges", channels=3), "set config.data.channels=1"),
        (dict(input="grey_levels", channels=3), "set config.data.channels=1"),
        (dict(input="edges", condition="edges"), "or the condition to train on images"),
        (dict(condition_channels=2), "condition_channels is 2; it must be 0, 1 or 3"),
        (dict(condition="edges", condition_channels=3), "edges of these images have 1"),
        (dict(condition="low_resolution", condition_channels=3), "low_resolution .* have 1"),
        (dict(condition="edges", source="tokens:d"), "tokens:d holds tokens only"),
        (dict(input="paired", source="tokens:d"), "tokens:d holds tokens only"),
    ],
)
def test_unavailable_inputs_and_conditions_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        validate(changed(**changes))


def test_a_source_that_replaces_that_of_a_run_is_validated():
    with pytest.raises(InputError, match="which digits lacks"):
        open_sources(changed(condition="paired").data)
