import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from maskgit_jax.configuration import InputError
from maskgit_jax.images import (
    ReadingRules,
    as_array,
    fill_masked_with_nearest,
    image_grid,
    read_image,
    set_reading_rules,
    to_channels,
    to_pil,
    write_animation,
    write_image,
    write_image_grid,
    write_png,
)

SRGB = ImageCms.createProfile("sRGB")


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


def test_filled_pixels_have_the_value_of_an_unmasked_pixel_at_the_smallest_distance():
    rng = np.random.default_rng(0)
    image = np.arange(9 * 11, dtype=np.uint8).reshape(9, 11, 1)  # each value once
    mask = np.zeros((9, 11), bool)
    mask[2:7, 3:9] = rng.random((5, 6)) < 0.8
    mask[0, 0] = True
    places = np.argwhere(~mask)
    for row, column in np.argwhere(mask):
        distances = ((places - (row, column)) ** 2).sum(axis=1)
        nearest = {image[*place, 0] for place in places[distances == distances.min()]}
        assert fill_masked_with_nearest(image, mask)[row, column, 0] in nearest


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


def saved(path, image, **options):
    image.save(path, **options)
    return path


SOME = np.random.default_rng(5).integers(0, 256, (5, 7, 3), np.uint8)
MODES = (
    "1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "LA", "La", "PA",
    "I", "F", "I;16", "I;16B",
)  # fmt: skip


def in_mode(mode: str) -> tuple[Image.Image, Image.Image]:
    """SOME in a mode of Pillow, and the RGB image that it is seen as."""
    rgb = Image.fromarray(SOME)
    grey = rgb.convert("L")
    if mode in ("I", "F") or mode.startswith("I;16"):
        values = np.asarray(grey)
        converted = Image.fromarray(
            values / np.float32(255) if mode == "F" else values.astype(np.uint16) * 257
        )
        return converted if mode in ("F", "I;16") else converted.convert("I").convert(mode), grey
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(rgb, SRGB, lab, outputMode="LAB"), rgb
    way = {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA")}.get(mode, (mode,))
    converted = rgb
    for step in way:
        converted = converted.convert(step)
    if mode in ("1", "P", "PA"):
        return converted, converted
    return converted, grey if mode in ("L", "LA", "La") else rgb


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow_is_seen_as_it_is(mode):
    image, seen = in_mode(mode)
    for channels, target in ((1, "L"), (3, "RGB")):
        converted = to_channels(image, channels)
        assert converted.mode == target
        expected = np.asarray(seen.convert("RGB").convert(target)).astype(int)
        assert abs(np.asarray(converted).astype(int) - expected).max() <= (
            20 if mode == "LAB" else 5
        )


@pytest.mark.parametrize("seed", range(8))
def test_floats_of_any_range_are_right_or_refused_by_name(tmp_path, seed):
    rng = np.random.default_rng(seed)
    values = rng.uniform(*sorted(rng.choice([-5.0, -0.1, 0.0, 0.3, 1.0, 1.5, 255.0], 2)), (4, 6))
    values = values.astype(np.float32)
    if rng.random() < 0.3:
        values[1, 2] = rng.choice([np.nan, np.inf, -np.inf])
    path = saved(tmp_path / "x.tif", Image.fromarray(values))
    if (values >= 0).all() and (values <= 1).all():
        expected = np.round(values.astype(np.float64) * 255)
        np.testing.assert_array_equal(read_image(path, 1)[..., 0], expected)
    else:
        with pytest.raises(InputError, match="x.tif cannot be read .*(not finite|values go from)"):
            read_image(path, 1)


def test_a_constant_float_image_keeps_its_level_and_the_range_is_that_of_a_rule(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(np.full((2, 3), 0.784, np.float32)))
    assert (read_image(path, 1) == 200).all()
    set_reading_rules(ReadingRules(float_range=(0.0, 392.0)))
    try:
        path = saved(tmp_path / "b.tif", Image.fromarray(np.full((2, 3), 196, np.float32)))
        assert (read_image(path, 1) == 128).all()
    finally:
        set_reading_rules(ReadingRules())
    with pytest.raises(InputError, match="float_range is 1,1; it must be LOW,HIGH"):
        set_reading_rules(ReadingRules(float_range=(1.0, 1.0)))


def swapped_profile() -> bytes:
    """An sRGB profile whose red and green are exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(SRGB).tobytes())
    tags = {}
    for entry in range(int.from_bytes(profile[128:132])):
        start = 132 + 12 * entry
        tags[bytes(profile[start : start + 4])] = int.from_bytes(profile[start + 4 : start + 8])
    red, green = (slice(tags[name], tags[name] + 20) for name in (b"rXYZ", b"gXYZ"))
    profile[red], profile[green] = profile[green], profile[red]
    return bytes(profile)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_colours_are_converted_from_the_profile_of_the_image(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    profiles = {
        "swapped": swapped_profile(),
        "srgb": ImageCms.ImageCmsProfile(SRGB).tobytes(),
        "damaged": b"no profile",
    }
    read = {}
    for name, profile in profiles.items():
        path = tmp_path / f"{name}{suffix}"
        Image.fromarray(SOME).save(path, icc_profile=profile, **options)
        read[name] = read_image(path, 3).astype(int)
    np.testing.assert_allclose(read["swapped"], SOME[..., [1, 0, 2]], atol=3)
    np.testing.assert_array_equal(read["srgb"], SOME)
    np.testing.assert_array_equal(read["damaged"], SOME)
    clear = Image.fromarray(SOME).convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    path = saved(tmp_path / "clear.png", clear, icc_profile=swapped_profile())
    assert (read_image(path, 3) == 255).all()
    write_image(tmp_path / "out.PNG", Image.fromarray(SOME))
    with Image.open(tmp_path / "out.PNG") as image:
        assert image.format == "PNG" and len(image.info["icc_profile"]) == len(profiles["srgb"])
        assert ImageCms.getProfileDescription(io.BytesIO(image.info["icc_profile"])).strip()


def test_an_image_of_too_many_pixels_is_refused_with_the_flag_that_raises_the_limit(tmp_path):
    path = saved(tmp_path / "wide.png", Image.new("1", (1200, 1000)))
    set_reading_rules(ReadingRules(max_megapixels=1))
    try:
        with pytest.raises(InputError, match="1200x1000 pixels, more than 1 meg.* --max_megapixel"):
            read_image(path, 1)
    finally:
        set_reading_rules(ReadingRules())
    assert read_image(path, 1).shape == (1000, 1200, 1)


def test_titles_stand_above_the_columns(tmp_path):
    images = np.zeros((8, 64, 64, 1), np.uint8)
    write_png(tmp_path / "plain.png", images, 4)
    write_png(tmp_path / "titled.png", images, 4, ["cat", "a very long name of a class", "", "é"])
    plain, titled = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("plain", "titled"))
    np.testing.assert_array_equal(titled[16:], plain)
    dark = (titled[:16] < 128).any(axis=0)
    assert [bool(part.any()) for part in np.array_split(dark, 4)] == [True, True, False, True]
