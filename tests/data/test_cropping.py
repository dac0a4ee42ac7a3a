import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.augmentation import resized
from maskgit_jax.data.cropping import (
    Crop,
    choose_center,
    crop_array,
    crop_image,
    crop_record,
)
from maskgit_jax.data.folder import FolderSource, LabelledPath
from maskgit_jax.data.tfds import TFDSSource
from maskgit_jax.images import as_array


def choose_random(width, height):
    """The same crop for every image of a size; not the center."""
    return resized(width, height, np.random.default_rng(0))


def smooth_image(size=(60, 40), mode="RGB") -> Image.Image:
    """An image without any symmetry."""
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    colours = [200 * across, 250 * down**2, 120 * (across + down)]
    return Image.fromarray(np.stack(colours, -1).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 9), (16, 16)])
def test_crops_keep_the_values_of_a_constant_image(size):
    image = Image.new("RGB", size, (9, 8, 7))
    for choose in (choose_random, choose_center):
        array = as_array(crop_image(image, choose(*size), 16))
        assert array.shape == (16, 16, 3) and (array == [9, 8, 7]).all()


def test_an_array_of_the_right_size_is_returned_as_it_is():
    array = as_array(smooth_image((16, 16)))
    assert crop_array(array, choose_center(16, 16), 16) is array
    part = Crop((2.0, 3.0, 10.0, 11.0))
    np.testing.assert_array_equal(crop_array(array, part, 8), array[3:11, 2:10])


def test_fast_crops_differ_little_and_only_if_downscaled():
    image = smooth_image((90, 80)).rotate(20)
    for side in (20.0, 32.0, 40.0, 76.0):  # to 32 pixels: enlarged, as it is, scaled down
        crop = Crop((4.5, 2.0, 4.5 + side, 2.0 + side))
        exact, fast = (
            as_array(crop_image(image, c, 32)).astype(int) for c in (crop, crop._replace(fast=True))
        )
        assert np.abs(exact - fast).mean() < 1
        assert (exact == fast).all() == (side < 35)


def save(path, **changes):
    options = dict(image=smooth_image(), orientation=1, quality=95) | changes
    exif = Image.Exif()
    exif[0x0112] = options["orientation"]
    options["image"].save(path, exif=exif, quality=options["quality"])


KINDS = {
    "plain.png": {},
    "plain.jpg": {},
    "grey.jpg": dict(image=smooth_image(mode="L")),
    "print.jpg": dict(image=smooth_image(mode="CMYK")),
    "palette.gif": dict(image=smooth_image(mode="P")),
    "clear.webp": dict(image=smooth_image(mode="RGBA")),
    "large.jpg": dict(image=smooth_image((600, 420))),
    "large.png": dict(image=smooth_image((600, 420))),
    **{f"turned{way}.jpg": dict(orientation=way) for way in range(2, 9)},
    **{f"turned{way}.{kind}": dict(orientation=way) for way in (3, 6) for kind in ("tif", "png")},
    "turned.large.jpg": dict(image=smooth_image((600, 420)), orientation=6),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_crop_of_a_file_is_that_of_the_whole_image(tmp_path, name, channels):
    save(tmp_path / name, **KINDS[name])
    # At this size nothing is decoded at a fraction when the whole image is read.
    source = FolderSource([LabelledPath(tmp_path / name, 5)], 1000, channels)
    prepared = TFDSSource([{"image": (tmp_path / name).read_bytes()}], "tfds:x", channels)
    np.testing.assert_array_equal(prepared[0]["image"], source[0]["image"])
    for choose in (choose_random, choose_center):
        expected = crop_record(source[0], choose, 16)
        cropped = source.read_cropped(0, choose, 16)
        assert cropped.keys() == expected.keys() and cropped["label"] == expected["label"] == 5
        assert cropped["image"].shape == (16, 16, channels)
        difference = np.abs(cropped["image"].astype(int) - expected["image"].astype(int))
        assert difference.max() <= (5 if name.endswith("jpg") else 0)
        np.testing.assert_array_equal(
            prepared.read_cropped(0, choose, 16)["image"], cropped["image"]
        )


def test_jpeg_is_decoded_at_a_fraction_that_leaves_enough_pixels(tmp_path, monkeypatch):
    save(tmp_path / "large.jpg", image=smooth_image((512, 400)))
    source = FolderSource([LabelledPath(tmp_path / "large.jpg", 0)], 16, 3)
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, *a, **k: (sizes.append(self.size), resize(self, *a, **k))[1],
    )
    for side in (127.0, 128.0, 255.0, 256.0):
        source.read_cropped(0, lambda *_, side=side: Crop((10.0, 20.0, 10 + side, 20 + side)), 64)
    assert sizes == [(512, 400), (256, 200), (256, 200), (128, 100)]


def test_a_damaged_tfds_record_is_named():
    source = TFDSSource([{"image": b"no image"}], "tfds:x, split train", 3)
    for read in (lambda: source[0], lambda: source.read_cropped(0, choose_center, 16)):
        with pytest.raises(InputError, match="image 0 of tfds:x, split train cannot be read"):
            read()


def test_tfds_arrays_are_images_too():
    array = as_array(smooth_image())
    source = TFDSSource([{"image": array}], "tfds:x", 3)
    np.testing.assert_array_equal(source[0]["image"], array)
    assert source[0]["label"] == 0
