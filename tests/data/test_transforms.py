import functools

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.conditions import cut_record
from maskgit_jax.data.folder import FolderSource, LabelledPath
from maskgit_jax.data.tfds import PreparedSource
from maskgit_jax.data.transforms import (
    CHANCES,
    Square,
    choose_square,
    cut_array,
    cut_square,
    middle_square,
)
from maskgit_jax.images import as_array


def choose(width, height, crop="resized", flip=True):
    """A square that is neither in the middle nor unmirrored."""
    return choose_square(width, height, crop, flip, np.array([0.3, 0.9, 0.6, 0.1]))


def picture(size=(60, 40), mode="RGB") -> Image.Image:
    """A smooth picture without any symmetry."""
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    colours = [200 * across, 250 * down**2, 120 * (across + down)]
    return Image.fromarray(np.stack(colours, -1).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("crop", ["center", "random", "resized"])
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 9), (16, 16)])
def test_crops_are_square_inside_and_keep_a_constant_image(crop, size):
    image = Image.new("RGB", size, (9, 8, 7))
    for chances in (*np.random.default_rng(0).random((20, CHANCES)), np.zeros(CHANCES)):
        square = choose_square(*size, crop, True, chances)
        left, top, right, bottom = square.box
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        assert right - left == pytest.approx(bottom - top)
        array = as_array(cut_square(image, square, 16))
        assert array.shape == (16, 16, 3) and (array == [9, 8, 7]).all()


def test_areas_and_places_are_those_of_the_chances():
    square = functools.partial(choose_square, 60, 40, flip=False)
    np.testing.assert_allclose(square("resized", chances=np.zeros(4)).side ** 2, 40**2 / 3)
    np.testing.assert_allclose(square("resized", chances=np.full(4, 0.5)).side ** 2, 40**2 / 1.5)
    assert square("random", chances=np.array([0.5, 0.25, 0.5, 0.0])).box == (5, 0, 45, 40)
    assert square("center", chances=np.ones(4)).box == (10, 0, 50, 40)


def test_flips_come_half_of_the_time():
    image = Image.new("L", (4, 4))
    image.putpixel((0, 0), 255)
    rng = np.random.default_rng(0)
    squares = [choose_square(4, 4, "center", True, rng.random(4)) for _ in range(400)]
    flipped = [as_array(cut_square(image, square, 4))[0, 3, 0] == 255 for square in squares]
    assert 0.4 < np.mean(flipped) < 0.6


def test_an_array_of_the_right_size_is_only_mirrored():
    array = as_array(picture((16, 16)))
    whole = middle_square(16, 16)
    assert cut_array(array, whole, 16) is array
    for square in (whole, whole._replace(mirrored=True)):
        expected = as_array(cut_square(Image.fromarray(array), square, 16))
        np.testing.assert_array_equal(cut_array(array, square, 16), expected)


def test_quick_squares_look_as_others():
    image = picture((90, 80)).rotate(20)
    for side in (20.0, 32.0, 40.0, 76.0):  # to 32 pixels: enlarged, as it is, scaled down
        square = Square((4.5, 2.0, 4.5 + side, 2.0 + side))
        exact, quick = (
            as_array(cut_square(image, s, 32)).astype(int)
            for s in (square, square._replace(quick=True))
        )
        assert np.abs(exact - quick).mean() < 1
        assert (exact == quick).all() == (side < 35)
    assert choose(90, 80).quick and not choose(90, 80, "center").quick


def save(path, **changes):
    options = dict(image=picture(), orientation=1, quality=95) | changes
    exif = Image.Exif()
    exif[0x0112] = options["orientation"]
    options["image"].save(path, exif=exif, quality=options["quality"])


KINDS = {
    "plain.png": {},
    "plain.jpg": {},
    "grey.jpg": dict(image=picture(mode="L")),
    "print.jpg": dict(image=picture(mode="CMYK")),
    "palette.gif": dict(image=picture(mode="P")),
    "clear.webp": dict(image=picture(mode="RGBA")),
    "large.jpg": dict(image=picture((600, 420))),
    "large.png": dict(image=picture((600, 420))),
    **{f"turned{way}.jpg": dict(orientation=way) for way in range(2, 9)},
    **{f"turned{way}.{kind}": dict(orientation=way) for way in (3, 6) for kind in ("tif", "png")},
    "turned.large.jpg": dict(image=picture((600, 420)), orientation=6),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_is_that_of_the_whole_picture(tmp_path, name, channels):
    save(tmp_path / name, **KINDS[name])
    # Of this size nothing is decoded at a fraction when the whole picture is read.
    source = FolderSource([LabelledPath(tmp_path / name, 5)], 1000, channels)
    prepared = PreparedSource([{"image": (tmp_path / name).read_bytes()}], "tfds:x", channels)
    np.testing.assert_array_equal(prepared[0]["image"], source[0]["image"])
    for square in (choose, middle_square):
        expected = cut_record(source[0], square, 16)
        found = source.cut(0, square, 16)
        assert found.keys() == expected.keys() and found["label"] == expected["label"] == 5
        assert found["image"].shape == (16, 16, channels)
        difference = np.abs(found["image"].astype(int) - expected["image"].astype(int))
        assert difference.max() <= (5 if name.endswith("jpg") else 0)
        np.testing.assert_array_equal(prepared.cut(0, square, 16)["image"], found["image"])


def test_jpeg_is_decoded_at_a_fraction_that_leaves_enough_pixels(tmp_path, monkeypatch):
    save(tmp_path / "large.jpg", image=picture((512, 400)))
    source = FolderSource([LabelledPath(tmp_path / "large.jpg", 0)], 16, 3)
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, *a, **k: (sizes.append(self.size), resize(self, *a, **k))[1],
    )
    for side in (127.0, 128.0, 255.0, 256.0):
        source.cut(0, lambda *_, side=side: Square((10.0, 20.0, 10 + side, 20 + side)), 64)
    assert sizes == [(512, 400), (256, 200), (256, 200), (128, 100)]


def test_a_damaged_prepared_record_is_named():
    source = PreparedSource([{"image": b"no image"}], "tfds:x, split train", 3)
    for read in (lambda: source[0], lambda: source.cut(0, middle_square, 16)):
        with pytest.raises(InputError, match="image 0 of tfds:x, split train cannot be read"):
            read()


def test_prepared_arrays_are_pictures_too():
    array = as_array(picture())
    source = PreparedSource([{"image": array}], "tfds:x", 3)
    np.testing.assert_array_equal(source[0]["image"], array)
    assert source[0]["label"] == 0
