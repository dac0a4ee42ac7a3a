import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.conditioning_images import ConditioningImages, ImageFiles
from maskgit_jax.data.conditions import derive_condition
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


def test_several_images_are_generated_from_each_input():
    source = records()
    inputs = ConditioningImages(
        source, data("edges"), (16, 16), num_per_input=2, keep_top=0.25, conditioned=True
    )
    batch = inputs.read_batch(np.asarray([0, 1, 2, 7]))  # records 0, 0, 1, and 3, which is 0 again
    assert inputs.keys == ("condition", "image", "mask") and set(batch) == set(inputs.keys)
    for row, record in ((1, 0), (2, 1), (3, 0)):
        known = source[record]["image"][:4]
        np.testing.assert_array_equal(batch["image"][row, :4], known)
        np.testing.assert_array_equal(batch["image"][row, 4:], known[3:].repeat(12, axis=0))
    edges = derive_condition(source[1]["image"], "edges")
    np.testing.assert_array_equal(batch["condition"][2], edges)
    assert not batch["mask"][:, :4].any() and batch["mask"][:, 4:].all()
    assert inputs.labels(4) == [0, 0, 1, 1]


def test_paired_conditions_are_resized_without_interpolation():
    pair = {"image": np.zeros((8, 8, 1), np.uint8), "condition": np.zeros((8, 8, 1), np.uint8)}
    pair["condition"][:, 4:] = 200
    inputs = ConditioningImages([pair], data("paired"), (16, 32), conditioned=True)
    condition = inputs.read_batch(np.asarray([0]))["condition"]
    assert condition.shape == (1, 16, 32, 1) and set(np.unique(condition)) == {0, 200}


def test_image_files_are_center_cropped(tmp_path):
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    for place in (tmp_path, tmp_path / "wide.png"):
        files = ImageFiles(str(place), 1, "image")
        inputs = ConditioningImages(files, data(), (16, 16), keep_top=0.5)
        assert len(files) == 1 and inputs.labels(1) is None
        assert inputs.read_batch(np.asarray([0]))["image"].min() > 200


def test_unusable_files_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match="a.png cannot be read"):
        ImageFiles(str(tmp_path), 1, "image")
    with pytest.raises(InputError, match="none does not exist"):
        ImageFiles(str(tmp_path / "none"), 1, "image")


def test_directories_with_names_of_classes_give_the_labels(tmp_path):
    for name in ("dog/1.png", "cat/2", "cat/deep/3.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 9).save(tmp_path / name, "WEBP")

    def labels(*class_names: str):
        files = ImageFiles(str(tmp_path), 1, "image", class_names)
        return ConditioningImages(files, data(), (16, 16), 2, keep_top=0.5).labels(6)

    assert labels("ant", "cat", "dog") == [1, 1, 1, 1, 2, 2]
    assert labels("ant", "cat") is None and labels() is None
