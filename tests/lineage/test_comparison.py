"""The table, the sentences and the page of a lineage."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.lineage.comparison import describe, format_number, table
from maskgit_jax.lineage.measure import Examples, Result
from maskgit_jax.lineage.report import Report, markdown_table, write_report
from maskgit_jax.lineage.systems import SYSTEMS


def result(name: str, tokens: int = 0, nfe: int | None = 1, **metrics) -> Result:
    seconds = None if nfe is None else 0.002 * nfe
    pairs = {key: (value, 0.5 if key == "recall" else None) for key, value in metrics.items()}
    return Result(
        name, pairs, 1000, tokens, nfe, seconds, {name: 2.0}, {}, 100, "machine", "", {}, {}
    )


RESULTS = {
    "autoencoder": result("autoencoder", nfe=None, reconstruction_mse=0.01),
    "vae": result(
        "vae",
        reconstruction_mse=0.02,
        bits_per_dimension=7.0,
        frechet_distance=40.0,
        recall=0.6,
        novelty_train_copies=0,
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
        novelty_train_copies=0,
    ),
    "vqgan_maskgit": result(
        "vqgan_maskgit",
        49,
        9,
        reconstruction_mse=0.005,
        bits_per_token_bound=5.0,
        frechet_distance=12.0,
        recall=0.7,
        novelty_train_copies=0,
    ),
}
CELLS = {title: cells for _, title, cells in table(RESULTS)}


def test_a_system_is_compared_with_the_nearest_evaluated_predecessor():
    text = describe(SYSTEMS["vqgan_gpt"], RESULTS)  # the two systems in between have no result
    better, worse = text.split("Better than VAE: ")[1].split("Worse: ")
    assert "squared error, pixels in [0, 1] 0.005 instead of 0.02" in better
    assert "Frechet distance 10 instead of 40" in better
    assert "network evaluations (NFE) per image 50 instead of 1" in worse
    assert "About equal: recall." in worse  # within 2%
    assert "copies" not in text  # neither system copies anything


def test_a_shared_tokenizer_is_not_compared():
    text = describe(SYSTEMS["vqgan_maskgit"], RESULTS)
    assert "Better than VQGAN + GPT: recall" in text and "squared error" not in text
    assert "Frechet distance 12 instead of 10" in text.split("Worse")[1]


def test_metrics_that_the_predecessor_lacks_are_new():
    text = describe(SYSTEMS["vae"], RESULTS)
    assert "New: bits per dimension (upper bound) 7; Frechet distance 40" in text
    assert "Worse: mean squared error, pixels in [0, 1] 0.02 instead of 0.01" in text
    assert "Better" not in describe(SYSTEMS["autoencoder"], RESULTS)


def test_the_best_remasking_decoder_is_named():
    name = "vqgan_maskgit_remasking"
    distances = {"self_critic": 3.0, "remask:cap": 2.0}
    remasking = RESULTS["vqgan_maskgit"]._replace(
        name=name, decoder="remask:cap, 8 steps", decoder_distances=distances
    )
    text = describe(SYSTEMS[name], {name: remasking})
    assert "Decoder: remask:cap, 8 steps, the best remasking decoder by" in text
    assert "(remask:cap 2, self_critic 3)" in text


def test_the_best_value_of_each_row_is_bold():
    assert CELLS["Frechet distance"] == ["–", "–", "40", "**10**", "12"]
    assert CELLS["recall"] == ["0.5", "–", "0.6", "0.604", "**0.7**"]
    assert "LPIPS" not in CELLS  # no system has it
    assert CELLS["parameters"] == ["–", "1,000", "1,000", "1,000", "1,000"]  # neither is better
    assert CELLS["milliseconds per image"] == ["–", "–", "**2**", "100", "18"]


def test_likelihoods_of_tokens_and_pixels_have_rows_of_their_own():
    assert CELLS["bits per dimension (upper bound)"] == ["–", "–", "7", "–", "–"]
    assert CELLS["bits per token (MaskGIT: upper bound)"] == ["–", "–", "–", "4", "5"]
    assert CELLS["bits per image (tokens)"] == ["–", "–", "–", "196", "245"]


@pytest.mark.parametrize(
    "value, text",
    [(None, "–"), (float("nan"), "–"), (0, "0"), (0.01234, "0.0123"), (196.04, "196"),
     (1389553, "1,389,553"), (0.9999, "1")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert format_number(value) == text


def test_the_page_contains_its_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    examples = {
        name: Examples(images[:10], images[10:], None if name == "autoencoder" else images)
        for name in RESULTS
    }
    write_report(tmp_path, Report("A & B", ["In <this> note."], RESULTS, examples, ["python"]))

    text = (tmp_path / "lineage.html").read_text()
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 4 + 3  # reconstructions of all, samples of all but the autoencoder
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        grid = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert grid.shape[2] == 3 and grid.shape[1] >= 10 * 48
    assert "A &amp; B" in text and "In &lt;this&gt; note." in text
    assert "<td><b>10</b></td>" in text

    text = (tmp_path / "lineage.md").read_text()
    assert markdown_table(RESULTS) in text and "(lineage.png)" in text
    with Image.open(tmp_path / "lineage.png") as figure:
        assert figure.width > 1000
