import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.images import (
    as_array,
    fill_masked_with_nearest,
    image_grid,
    read_image,
    to_pil,
    write_animation,
    write_image_grid,
    write_png,
)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_read(tmp_path, channels):
    half = np.zeros((4, 6), bool)
    half[1:3, 2:] = True
    grey = half.astype(np.uint8) * 255
    opaque = np.full((4, 6), 255, np.uint8)
    images = {
        "grey.png": Image.fromarray(grey),
        "bits.png": Image.fromarray(half),
        "16bit.png": Image.fromarray(half.astype(np.uint16) * 65535),
        "float.tif": Image.fromarray(half.astype(np.float32)),
        "rgb.png": Image.fromarray(np.stack([grey] * 3, -1)),
        "palette.gif": Image.fromarray(grey).convert("P"),
        "cmyk.tif": Image.fromarray(np.stack([grey] * 3, -1)).convert("CMYK"),
        "rgba.png": Image.fromarray(np.stack([grey, grey, grey, opaque], -1)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        array = read_image(tmp_path / name, channels)
        assert array.dtype == np.uint8 and array.shape == (4, 6, channels)
        np.testing.assert_array_equal(array == 255, np.stack([half] * channels, -1), name)
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png", channels) == 255).all(), "composited over white"


def test_the_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (30, 20), "white")
    image.paste("black", (0, 0, 15, 20))  # left half; after orientation 6 the upper half
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    array = read_image(tmp_path / "turned.png", 3)
    assert array.shape == (30, 20, 3) and array[0].max() == 0 and array[-1].min() == 255


def test_files_that_are_not_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="none.png does not exist"):
        read_image(tmp_path / "none.png", 3)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(InputError, match="text.png cannot be read as an image"):
        read_image(tmp_path / "text.png", 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_become_pil_images_and_return(channels):
    array = np.random.default_rng(0).integers(0, 256, (4, 5, channels), np.uint8)[:, ::-1]
    np.testing.assert_array_equal(as_array(to_pil(array)), array)


def test_masked_pixels_are_filled_with_the_nearest_ones():
    image = np.asarray([[10, 20, 30, 40, 50]], np.uint8)[..., None]
    mask = np.asarray([[False, True, True, True, False]])
    filled = fill_masked_with_nearest(image, mask)[0, :, 0].tolist()
    assert filled[0] == filled[1] == 10 and filled[3] == filled[4] == 50 and filled[2] in (10, 50)
    for same in (np.ones_like(mask), np.zeros_like(mask)):
        np.testing.assert_array_equal(fill_masked_with_nearest(image, same), image)


def test_grids_have_gaps_and_small_images_are_enlarged(tmp_path):
    images = np.stack([np.full((2, 2, 1), value, np.uint8) for value in (1, 2, 3)])
    grid = image_grid(images, columns=2)
    assert grid.shape == (7, 7, 1)
    assert (grid[1, 1], grid[1, 4], grid[4, 1], grid[4, 4]) == (1, 2, 3, 255)
    write_png(tmp_path / "a.png", images, 3)
    write_image_grid(tmp_path / "new/b.png", np.stack([images] * 2))  # two rows of three
    sizes = {}
    for name in ("a.png", "new/b.png"):
        with Image.open(tmp_path / name) as image:
            assert image.mode == "L"
            sizes[name] = image.size
    assert sizes == {"a.png": (200, 68), "new/b.png": (200, 134)}


def test_an_animation_has_all_frames_and_rests_on_the_last(tmp_path):
    frames = np.arange(3, dtype=np.uint8).repeat(2 * 4).reshape(3, 2, 2, 2, 1) * 100
    write_animation(tmp_path / "a.gif", frames, milliseconds=50)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3 and image.size == (2 + 2 * 66, 68)
        durations = []
        for frame in range(3):
            image.seek(frame)
            durations.append(image.info["duration"])
    assert durations == [50, 50, 400]
