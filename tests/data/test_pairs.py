from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.image_sets import CenterCropped
from maskgit_jax.data.loader import eval_batches, train_batches
from maskgit_jax.data.sources import open_sources
from tests.example import preset


def data(place: Path, **changes):
    config = preset("vqgan").data.unlock()
    config.source = f"pairs:{place}"
    config.update(changes)
    return config


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pairs(place: Path, count: int = 10, size: tuple[int, int] = (16, 16)) -> None:
    """Pairs in two classes; the condition of an image is its negative."""
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, size, np.uint8)
        name = f"{'ab'[index % 2]}/{index}.part"
        write(place / "image" / f"{name}.png", pixels)
        write(place / "condition" / f"{name}.bmp", 255 - pixels)


def test_pairs_are_read_with_the_splits_and_classes_of_their_images(tmp_path):
    write_pairs(tmp_path)
    pairs = open_sources(data(tmp_path))
    images = open_sources(data(tmp_path, source=f"folder:{tmp_path}/image"))
    assert pairs.class_names == images.class_names == ("a", "b")
    for ours, theirs in ((pairs.train, images.train), (pairs.evaluation, images.evaluation)):
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            record, image = ours[index], theirs[index]
            assert set(record) == {"image", "condition", "label"}
            assert record["label"] == image["label"]
            np.testing.assert_array_equal(record["image"], image["image"])
            np.testing.assert_array_equal(record["condition"], 255 - image["image"])


def test_split_directories(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            for folder in ("image", "condition"):
                pixels = np.full((4, 4), index, np.uint8)
                write(tmp_path / folder / split / f"{index}.png", pixels)
    sources = open_sources(data(tmp_path))
    assert (len(sources.train), len(sources.evaluation)) == (3, 2)


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        (dict(channels=3, condition="paired", condition_channels=1), 1),
        (dict(channels=1, condition="paired", condition_channels=3), 3),
        (dict(channels=3, condition="paired"), 3),
        (dict(channels=3, input="paired"), 3),
    ],
)
def test_conditions_may_have_other_channels(tmp_path, changes, channels):
    write_pairs(tmp_path)
    record = open_sources(data(tmp_path, **changes)).train[0]
    assert record["image"].shape == (16, 16, changes["channels"])
    assert record["condition"].shape == (16, 16, channels)


@pytest.mark.parametrize("crop", ["center", "random", "resized"])
@pytest.mark.parametrize("size", [(16, 16), (16, 40), (25, 16)])
def test_crops_and_flips_keep_image_and_condition_together(tmp_path, crop, size):
    # Both are the same ramp: positions can be compared although only images are interpolated.
    ramp = np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 3).astype(np.uint8)
    for index in range(4):
        for folder in ("image", "condition"):
            write(tmp_path / folder / f"{index}.png", ramp)
    config = data(tmp_path, crop=crop, augmentations="flip", condition="paired")
    iterator = train_batches(open_sources(config).train, config, 3, seed=0)
    batches = [next(iterator) for _ in range(6)]
    image, condition = (
        np.concatenate([batch[name] for batch in batches]).astype(int)
        for name in ("image", "condition")
    )
    assert image.shape == condition.shape == (18, 16, 16, 1)
    assert np.abs(image - condition).max() <= 6, "two pixels of the ramp"
    rising = image[:, 8, 12, 0] > image[:, 8, 4, 0]
    assert 0 < rising.sum() < 18, "some are flipped"


def test_crops_without_resizing_are_the_same_to_the_pixel(tmp_path):
    write_pairs(tmp_path, size=(16, 40))
    config = data(tmp_path, augmentations="flip", condition="paired")  # the center 16 of 40 columns
    batch = next(train_batches(open_sources(config).train, config, 8, seed=0))
    assert batch["image"].dtype == batch["condition"].dtype == np.uint8
    np.testing.assert_array_equal(batch["condition"], 255 - batch["image"])
    for batch in eval_batches(open_sources(config).train, config, 3):
        assert set(batch) == {"image", "condition", "label", "valid"}
        np.testing.assert_array_equal(batch["condition"], 255 - batch["image"])


def test_pairs_without_input_and_condition_are_images(tmp_path):
    write_pairs(tmp_path)
    changes = dict(crop="resized", augmentations="flip")
    ours, theirs = data(tmp_path, **changes), data(tmp_path, **changes)
    theirs.source = f"folder:{tmp_path}/image"
    one, other = (next(train_batches(open_sources(d).train, d, 4, seed=0)) for d in (ours, theirs))
    assert set(one) == {"image", "label"}
    np.testing.assert_array_equal(one["image"], other["image"])
    assert set(next(eval_batches(open_sources(ours).train, ours, 4))) == {"image", "label", "valid"}


def test_the_input_paired_replaces_images_by_conditions(tmp_path):
    write_pairs(tmp_path)
    config = data(tmp_path, input="paired", augmentations="flip")
    source = open_sources(config).evaluation
    assert set(next(train_batches(source, config, 1, seed=0))) == {"image", "label"}
    (batch,) = eval_batches(source, config, len(source))
    evaluated = CenterCropped(source, 16, 1, "paired")
    for index, image in enumerate(batch["image"]):
        np.testing.assert_array_equal(image, source[index]["condition"])
        np.testing.assert_array_equal(image, evaluated[index]["image"])


@pytest.mark.parametrize("folder", ["image", "condition"])
def test_a_pair_with_an_unreadable_file_is_reported_once_and_replaced(tmp_path, folder):
    write_pairs(tmp_path)
    source = open_sources(data(tmp_path)).train
    image = source.files[3].path
    broken = image if folder == "image" else source.conditions[image]
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.warns(UserWarning, match=f"unreadable image {broken}.*1 so far"):
        record = source[3]
    np.testing.assert_array_equal(record["image"], source[4]["image"])
    np.testing.assert_array_equal(record["condition"], source[4]["condition"])
    np.testing.assert_array_equal(source[3]["image"], record["image"])  # and no second warning
    assert source.unreadable == {broken}


def test_a_condition_of_another_size_is_resized_without_interpolation(tmp_path):
    for index in range(2):
        write(tmp_path / "image" / f"{index}.png", np.zeros((6, 8, 3), np.uint8))
        quarters = np.array([[0, 200], [90, 0]], np.uint8)
        write(tmp_path / "condition" / f"{index}.png", quarters.repeat(2, 0).repeat(2, 1))
    record = open_sources(data(tmp_path)).train[0]
    expected = np.array([[0, 200], [90, 0]]).repeat(3, 0).repeat(4, 1)[..., None]
    np.testing.assert_array_equal(record["condition"], expected)


def test_missing_conditions_are_counted_and_the_first_is_named(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "condition/b/3.part.bmp").unlink()
    (tmp_path / "condition/a/2.part.bmp").unlink()
    message = r"image/a/2.part.png has no condition .*condition \(2 of 10 images have none\)"
    with pytest.raises(InputError, match=message):
        open_sources(data(tmp_path))


def test_two_conditions_of_one_image_are_refused(tmp_path):
    write_pairs(tmp_path)
    write(tmp_path / "condition/a/2.part.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"2.part.bmp and .*2.part.png are conditions of one"):
        open_sources(data(tmp_path))


@pytest.mark.parametrize("missing", ["image", "condition"])
def test_a_missing_directory_is_named(tmp_path, missing):
    write_pairs(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"the directory {tmp_path}/{missing} does not exist"):
        open_sources(data(tmp_path))
