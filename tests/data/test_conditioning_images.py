import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.conditioning_images import ConditioningImages, ImageFiles
from maskgit_jax.data.conditions import derived
from tests.example import preset


def records(count=3, size=16):
    rng = np.random.default_rng(0)
    return [
        {"image": rng.integers(0, 256, (size, size, 1), np.uint8), "label": number}
        for number in range(count)
    ]


def data(condition=""):
    config = preset("gpt").data.unlock()
    config.condition = condition
    return config


def test_several_images_are_made_from_each_picture():
    source = records()
    given = ConditioningImages(
        source, data("edges"), (16, 16), times=2, kept=0.25, conditioned=True
    )
    rows = given.rows(np.asarray([0, 1, 2, 7]))  # of pictures 0, 0, 1, and 3, which is 0 again
    assert given.names == ("condition", "image", "mask")
    for row, picture in ((1, 0), (2, 1), (3, 0)):
        known = source[picture]["image"][:4]
        np.testing.assert_array_equal(rows["image"][row, :4], known)
        np.testing.assert_array_equal(rows["image"][row, 4:], known[3:].repeat(12, axis=0))
    np.testing.assert_array_equal(rows["condition"][2], derived(source[1]["image"], "edges"))
    assert not rows["mask"][:, :4].any() and rows["mask"][:, 4:].all()
    assert given.labels(4) == [0, 0, 1, 1]


def test_partners_keep_their_values_when_they_are_scaled():
    pair = {"image": np.zeros((8, 8, 1), np.uint8), "condition": np.zeros((8, 8, 1), np.uint8)}
    pair["condition"][:, 4:] = 200
    given = ConditioningImages([pair], data("paired"), (16, 32), conditioned=True)
    condition = given.rows(np.asarray([0]))["condition"]
    assert condition.shape == (1, 16, 32, 1) and set(np.unique(condition)) == {0, 200}


def test_a_users_pictures_are_cut_in_the_middle(tmp_path):
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    files = ImageFiles(str(tmp_path), 1, "image")
    given = ConditioningImages(files, data(), (16, 16), kept=0.5)
    assert len(files) == 1 and given.labels(1) is None
    assert given.rows(np.asarray([0]))["image"].min() > 200


def test_pictures_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="a.png cannot be read"):
        ImageFiles(str(tmp_path), 1, "image")
    with pytest.raises(InputError, match="no such file or folder"):
        ImageFiles(str(tmp_path / "none"), 1, "image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in this folder"):
        ImageFiles(str(tmp_path / "empty"), 1, "image")
