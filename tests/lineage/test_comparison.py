"""What the page says of figures."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.lineage.comparison import number, sentences, table
from maskgit_jax.lineage.measure import Pictures, Result
from maskgit_jax.lineage.report import Page, markdown_table, write_page
from maskgit_jax.lineage.systems import SYSTEMS


def result(name: str, tokens: int = 0, passes: int | None = 1, **figures) -> Result:
    seconds = None if passes is None else 0.002 * passes
    own = {key: (value, 0.5 if key == "recall" else None) for key, value in figures.items()}
    return Result(
        name, own, 1000, tokens, passes, seconds, {name: 2.0}, {}, 100, "here", "", {}, {}
    )


RESULTS = {
    "autoencoder": result("autoencoder", passes=None, reconstruction_mse=0.01),
    "vae": result(
        "vae",
        reconstruction_mse=0.02,
        bits_per_dimension=7.0,
        frechet_distance=40.0,
        recall=0.6,
        copies=0,
    ),
    "vqgan_gpt": result(
        "vqgan_gpt",
        49,
        50,
        reconstruction_mse=0.005,
        token_bits_per_dimension=0.3,
        bits_per_token=4.0,
        frechet_distance=10.0,
        recall=0.604,
        copies=0,
    ),
    "vqgan_maskgit": result(
        "vqgan_maskgit",
        49,
        9,
        reconstruction_mse=0.005,
        bits_per_token_bound=5.0,
        frechet_distance=12.0,
        recall=0.7,
        copies=0,
    ),
}
CELLS = {title: cells for _, title, cells in table(RESULTS)}


def test_a_step_is_told_with_what_it_gained_and_what_it_lost():
    told = sentences(SYSTEMS["vqgan_gpt"], RESULTS)  # the two systems between are not here
    better, worse = told.split("Better than VAE: ")[1].split("Not better: ")
    assert "square error, pixels in [0, 1] 0.005 instead of 0.02" in better
    assert "Frechet distance 10 instead of 40" in better
    assert "network passes an image 50 instead of 1" in worse
    assert "Equal, or nearly: recall." in worse  # within a fiftieth
    assert "copies" not in told  # neither copies anything


def test_a_shared_tokenizer_is_not_told_twice():
    told = sentences(SYSTEMS["vqgan_maskgit"], RESULTS)
    assert "Better than VQGAN + GPT: recall" in told and "square error" not in told
    assert "Frechet distance 12 instead of 10" in told.split("Not better")[1]


def test_what_only_the_later_one_has_is_new():
    told = sentences(SYSTEMS["vae"], RESULTS)
    assert "New: bits per pixel value, at most 7; Frechet distance 40" in told
    assert "Not better: mean square error, pixels in [0, 1] 0.02 instead of 0.01" in told
    assert "Better" not in sentences(SYSTEMS["autoencoder"], RESULTS)


def test_the_best_of_each_row_is_bold_and_what_is_missing_a_dash():
    assert CELLS["Frechet distance"] == ["–", "–", "40", "**10**", "12"]
    assert CELLS["recall"] == ["0.5", "–", "0.6", "0.604", "**0.7**"]
    assert "LPIPS" not in CELLS  # nobody has it
    assert CELLS["parameters"] == ["–", "1,000", "1,000", "1,000", "1,000"]  # no better, no worse


def test_likelihoods_of_tokens_are_none_of_pixels():
    assert CELLS["bits per pixel value, at most"] == ["–", "–", "7", "–", "–"]
    assert CELLS["bits per token (MaskGIT: at most)"] == ["–", "–", "–", "4", "5"]
    assert CELLS["bits of an image's tokens"] == ["–", "–", "–", "196", "245"]


@pytest.mark.parametrize(
    "value, text",
    [(None, "–"), (float("nan"), "–"), (0, "0"), (0.01234, "0.0123"), (196.04, "196"),
     (1389553, "1,389,553"), (0.9999, "1")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 8, 8, 3), np.uint8)
    pictures = {
        name: Pictures(images[:10], images[10:], None if name == "autoencoder" else images)
        for name in RESULTS
    }
    folder = tmp_path_factory.mktemp("page")
    write_page(folder, Page("A & B", ["On <this> day."], RESULTS, pictures, ["GPT"], ["python"]))
    return folder


def test_the_page_needs_no_other_file(page):
    text = (page / "lineage.html").read_text()
    pictures = re.findall(r'src="([^"]*)"', text)
    assert len(pictures) == 4 + 3  # restored by all, made by all but the autoencoder
    for picture in pictures:
        kind, data = picture.split(",")
        assert kind == "data:image/png;base64"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert shown.shape[2] == 3 and shown.shape[1] > 10 * 48 - 1
    assert "A &amp; B" in text and "On &lt;this&gt; day." in text
    assert "Not evaluated yet: GPT." in text
    assert "<td><b>10</b></td>" in text


def test_markdown_holds_the_same_table_and_picture(page):
    text = (page / "lineage.md").read_text()
    assert markdown_table(RESULTS) in text
    assert "(lineage.png)" in text
    with Image.open(page / "lineage.png") as picture:
        assert picture.width > 1000
