import os

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.image_sets import (
    ImageSet,
    fingerprint,
    open_images,
    random_subset,
    read_statistics,
)
from maskgit_jax.data.sample_store import SampleStore


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("keys", [("images", "labels"), ("arr_0", "arr_1")])
def test_an_npz_is_read_row_by_row(tmp_path, images, save, keys):
    labels = np.arange(7)
    save(tmp_path / "a.npz", **dict(zip(keys, (images, labels), strict=True)))
    opened = open_images(tmp_path / "a.npz")
    assert len(opened) == 7 and opened.shape == (6, 5, 3)
    for index in (6, 0, 3):
        np.testing.assert_array_equal(opened[index]["image"], images[index])
        assert opened[index]["label"] == index


def test_statistics_of_a_reference_file_are_read(tmp_path, images):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3), arr_0=images)
    assert set(read_statistics(tmp_path / "a.npz")) == {"mu", "sigma"}
    assert read_statistics(tmp_path) == {}


def test_a_directory_is_read_with_its_classes(tmp_path, images):
    for index, image in enumerate(images):
        place = tmp_path / "ab"[index % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")
    opened = open_images(tmp_path)
    assert opened.class_names == ("a", "b") and opened.labels.tolist() == [0] * 4 + [1] * 3
    np.testing.assert_array_equal(opened[4]["image"], images[1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((3, 4, 4, 1), np.float32)}, "uint8, from 0 to 255"),
        ({"images": np.ones((3, 4, 4, 1), np.uint8)}, "no pixel of the first images is above 1"),
        ({"images": np.full((3, 4, 4, 4), 9, np.uint8)}, "images are"),
        ({"other": np.zeros(3)}, "neither `images` nor `arr_0`"),
        ({"images": np.full((3, 4, 4, 1), 9, np.uint8), "labels": np.zeros(2, int)}, "3 images"),
    ],
)
def test_an_npz_that_holds_something_else_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        open_images(tmp_path / "a.npz")


def test_missing_damaged_and_uneven_images_are_refused(tmp_path, images):
    with pytest.raises(InputError, match="none.npz does not exist"):
        open_images(tmp_path / "none.npz")
    (tmp_path / "b.npz").write_bytes(b"something else")
    with pytest.raises(InputError, match="is not an NPZ file"):
        open_images(tmp_path / "b.npz")
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.fromarray(images[0]).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"broken")
    Image.fromarray(images[0, :4]).save(folder / "2.png")
    with pytest.raises(InputError, match="1.png cannot be read .*repair or replace it"):
        open_images(folder)
    whole = (folder / "0.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    opened = open_images(folder)
    with pytest.raises(InputError, match="1.png cannot be read .*repair or replace it"):
        opened[1]
    with pytest.raises(InputError, match="2.png is 5x4 pixels, but .*0.png is 5x6"):
        opened[2]


def test_batches_come_in_order_and_the_last_one_is_filled_up(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(7))
    batches = list(read_batches(open_images(tmp_path / "a.npz"), 3, start=3))
    assert [batch.start for batch in batches] == [3, 6]
    assert [batch.count for batch in batches] == [3, 1]
    assert batches[1].label.tolist() == [6, 6, 6]
    np.testing.assert_array_equal(batches[0].image, images[3:6])


def test_an_interrupted_store_continues(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2500, 2, 2, 1), np.uint8)
    store = SampleStore(tmp_path / "s", np.arange(2500), (2, 2, 1), batch_size=300)
    assert store.num_stored() == 0

    def batches(start: int, stop: int):
        for first in range(start, stop, 300):
            yield images[first : min(first + 300, 2500)]

    store.fill(batches(0, 1500))  # interrupted after 1500: one file of 1200 is complete
    assert store.num_stored() == 1200
    again = SampleStore(tmp_path / "s", np.arange(2500), (2, 2, 1), batch_size=300)
    again.fill(batches(1200, 2500))
    assert again.num_stored() == 2500
    for index in (0, 1199, 1200, 2499):
        np.testing.assert_array_equal(again[index]["image"], images[index])


def test_fingerprints_distinguish_sets(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images)
    whole = open_images(tmp_path / "a.npz")
    assert fingerprint(whole) == fingerprint(whole)
    assert fingerprint(random_subset(whole)) != fingerprint(whole)
    assert fingerprint(random_subset(whole, 6)) != fingerprint(random_subset(whole))


def test_a_fingerprint_changes_with_any_file_and_label(tmp_path, images):
    for number in range(200):
        Image.fromarray(images[0, ..., 0]).save(tmp_path / f"{number}.bmp")
    whole = open_images(tmp_path)
    before = fingerprint(random_subset(whole))
    assert fingerprint(random_subset(open_images(tmp_path))) == before
    os.utime(tmp_path / "1.bmp", (1, 1))  # replaced by a file of the same size
    assert fingerprint(random_subset(open_images(tmp_path))) != before
    arrays, labels = np.repeat(images[:1], 200, axis=0), np.zeros(200, np.int32)
    sets = [ImageSet("a", arrays.copy(), images.shape[1:], labels.copy()) for _ in range(3)]
    sets[1].images[1, 0, 0, 0] ^= 1
    sets[2].labels[1] = 1
    assert len({fingerprint(each) for each in sets}) == 3


def test_a_store_ignores_files_of_another_batch_size(tmp_path):
    images = np.arange(2000, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(2, axis=1)
    store = SampleStore(tmp_path / "s", np.arange(2000), (2, 1, 1), batch_size=500)
    store.fill([images])
    assert store.num_stored() == 2000
    other = SampleStore(tmp_path / "s", np.arange(2000), (2, 1, 1), batch_size=300)
    assert other.num_stored() == 0
    other.fill([images])
    np.testing.assert_array_equal(other[1300]["image"], images[1300])


def test_a_subset_keeps_its_labels(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(7))
    chosen = random_subset(open_images(tmp_path / "a.npz"), 4)
    assert chosen.labels.tolist() == [chosen[place]["label"] for place in range(4)]
