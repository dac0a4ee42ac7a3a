import numpy as np
import pytest
from PIL import Image

from maskgit_jax.data.conditions import derived
from maskgit_jax.data.loader import eval_batches, train_batches
from maskgit_jax.data.sources import ArraySource
from maskgit_jax.data.transforms import as_array, choose_square, cut_square
from tests.example import preset


def numbered(count: int) -> ArraySource:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2)
    return ArraySource(images, np.arange(count))


def labels(iterator, batches: int) -> list[int]:
    return [label for _ in range(batches) for label in next(iterator)["label"].tolist()]


DATA = preset("vqgan").data


def test_an_epoch_holds_every_image_once_in_a_new_order():
    iterator = train_batches(numbered(12), DATA, 4, seed=0)
    first, second = labels(iterator, 3), labels(iterator, 3)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_batches_are_uint8_nhwc_and_int32():
    batch = next(train_batches(numbered(12), DATA, 4, seed=0))
    assert batch["image"].shape == (4, 16, 16, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


def test_processes_share_the_epoch():
    parts = [labels(train_batches(numbered(12), DATA, 4, 0, index, 2), 3) for index in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(12))


def test_the_seed_decides_the_order():
    one, other, third = (labels(train_batches(numbered(32), DATA, 4, s), 8) for s in (1, 1, 2))
    assert one == other != third


def test_a_restored_iterator_goes_on_where_it_was():
    config = preset("vqgan").data.unlock()
    config.crop, config.flip = "resized", True
    source = ArraySource(
        np.random.default_rng(0).integers(0, 255, (20, 24, 20, 3), np.uint8), np.arange(20)
    )
    iterator = train_batches(source, config, 4, seed=3)
    for _ in range(7):
        next(iterator)
    state, expected = iterator.get_state(), next(iterator)
    other = train_batches(source, config, 4, seed=3)
    other.set_state(state)
    np.testing.assert_array_equal(next(other)["image"], expected["image"])


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_sees_each_image_once_and_pads(processes):
    seen, rows = [], 0
    for index in range(processes):
        for batch in eval_batches(numbered(10), DATA, 4, index, processes):
            rows += len(batch["label"])
            seen += batch["label"][batch["valid"] > 0].tolist()
    assert sorted(seen) == list(range(10))
    assert rows == 12


@pytest.mark.parametrize("crop", ["center", "random", "resized"])
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 9), (16, 16)])
def test_crops_are_square_and_keep_a_constant_image(crop, size):
    rng = np.random.default_rng(0)
    image = Image.new("RGB", size, (9, 8, 7))
    square = cut_square(image, choose_square(*size, crop, True, rng), 16)
    assert as_array(square).shape == (16, 16, 3)
    assert (as_array(square) == [9, 8, 7]).all()


def test_flips_come_half_of_the_time():
    image = Image.new("L", (4, 4))
    image.putpixel((0, 0), 255)
    rng = np.random.default_rng(0)
    squares = [choose_square(4, 4, "center", True, rng) for _ in range(400)]
    flipped = [as_array(cut_square(image, square, 4))[0, 3, 0] == 255 for square in squares]
    assert 0.4 < np.mean(flipped) < 0.6


def test_without_view_and_condition_batches_keep_their_keys():
    assert set(next(train_batches(numbered(8), DATA, 4, seed=0))) == {"image", "label"}
    assert set(next(eval_batches(numbered(8), DATA, 4))) == {"image", "label", "valid"}


@pytest.mark.parametrize("kind", ["edges", "low_resolution", "grey_levels"])
def test_conditions_are_of_the_augmented_image_and_views_stand_in_its_place(kind):
    source = ArraySource(
        np.random.default_rng(0).integers(0, 256, (20, 24, 20, 1), np.uint8), np.arange(20)
    )
    plain, condition, view = (preset("vqgan").data.unlock() for _ in range(3))
    for config in (plain, condition, view):
        config.crop, config.flip = "resized", True
    condition.condition, view.view = kind, kind
    for batches in (
        [next(train_batches(source, config, 4, seed=3)) for config in (plain, condition, view)],
        [next(eval_batches(source, config, 4)) for config in (plain, condition, view)],
    ):
        images, with_condition, with_view = batches
        expected = np.stack([derived(image, kind) for image in images["image"]])
        np.testing.assert_array_equal(with_condition["image"], images["image"])
        np.testing.assert_array_equal(with_condition["condition"], expected)
        assert set(with_condition) - set(images) == {"condition"}
        np.testing.assert_array_equal(with_view["image"], expected)
        assert set(with_view) == set(images)
