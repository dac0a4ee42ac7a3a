"""Unigram and bigram baselines for priors over tokens, from counts alone."""

from itertools import accumulate

import numpy as np

from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.image_sets import random_subset
from maskgit_jax.data.protocol import Source
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import RealImages
from maskgit_jax.evaluation.report import Metric
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.runs.progress import progress_bar
from maskgit_jax.stage import Tokenizer

SMOOTHING_WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
"""The weight that suits the held-out tokens best is chosen, in favour of the baseline."""

Labels = tuple[np.ndarray, np.ndarray]
"""Labels of training [N] and held-out images [M]."""


def unigram_bits(
    train: np.ndarray, held_out: np.ndarray, labels: Labels, codebook_size: int
) -> float:
    """Returns the bits per token of p(token | class), the same at all positions.

    Args:
        train: Tokens of one map, int [N, L], to count.
        held_out: Tokens to predict, int [M, L].
        labels: Classes of both.
        codebook_size: K.
    """
    num_classes = int(max(labels[0].max(), labels[1].max())) + 1
    train_rows, held_out_rows = (
        np.repeat(label, tokens.shape[1])
        for label, tokens in zip(labels, (train, held_out), strict=True)
    )
    return _conditional_bits(
        (train_rows, train.ravel()), (held_out_rows, held_out.ravel()), num_classes, codebook_size
    )


def bigram_bits(train: np.ndarray, held_out: np.ndarray, codebook_size: int) -> float:
    """Returns the bits per token of p(token | previous token in raster order).

    The first token of a map is predicted by the frequencies of first tokens.

    Args:
        train: Tokens of one map, int [N, L], to count.
        held_out: Tokens to predict, int [M, L].
        codebook_size: K.
    """

    def previous(tokens: np.ndarray) -> np.ndarray:
        start = np.full((len(tokens), 1), codebook_size)  # code K precedes the first token
        return np.concatenate([start, tokens[:, :-1]], axis=1).ravel()

    return _conditional_bits(
        (previous(train), train.ravel()),
        (previous(held_out), held_out.ravel()),
        codebook_size + 1,
        codebook_size,
    )


def _conditional_bits(
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    num_rows: int,
    codebook_size: int,
) -> float:
    """Returns the mean of -log2 p(token | row), smoothed by the counts of all rows.

    Args:
        train: Rows and tokens to count.
        held_out: Rows and tokens to predict.
        num_rows: Number of rows, the values of the condition.
        codebook_size: K.
    """
    rows, tokens = (np.asarray(part, np.int64) for part in train)
    counts = np.bincount(rows * codebook_size + tokens, minlength=num_rows * codebook_size)
    counts = counts.reshape(num_rows, codebook_size).astype(np.float64)
    marginal = (counts.sum(axis=0) + 1.0) / (counts.sum() + codebook_size)

    def mean_bits(weight: float) -> float:
        total = counts.sum(axis=1, keepdims=True) + weight
        probability = (counts + weight * marginal) / total
        return float(-np.log2(probability[held_out[0], held_out[1]]).mean())

    return min(mean_bits(weight) for weight in SMOOTHING_WEIGHTS)


def baseline_bits(
    train: np.ndarray,
    held_out: np.ndarray,
    labels: Labels,
    sizes: tuple[int, ...],
    codebook_size: int,
) -> dict[str, float]:
    """Returns {metric: bits per token} over all maps, each of which has its own counts.

    Args:
        train: Tokens of all maps, one after another, int [N, L].
        held_out: The same, [M, L].
        labels: Classes of both.
        sizes: Tokens of each map; L is their sum.
        codebook_size: K.
    """
    bits = {"unigram_bits_per_token": 0.0, "bigram_bits_per_token": 0.0}
    for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
        maps = train[:, start : start + size], held_out[:, start : start + size]
        share = size / train.shape[1]
        bits["unigram_bits_per_token"] += share * unigram_bits(*maps, labels, codebook_size)
        bits["bigram_bits_per_token"] += share * bigram_bits(*maps, codebook_size)
    return bits


def ngram_metrics(run: Run, real: RealImages, options: EvaluationOptions) -> list[Metric]:
    """Returns the n-gram baselines of a prior over the tokens of a frozen tokenizer."""
    assert real.training is not None and real.held_out is not None
    tokenizer = run.stages["tokenizer"].exports
    assert isinstance(tokenizer, Tokenizer)
    autoencoder = AutoencoderPipeline(run, options.mesh)

    def encode(source: Source, title: str) -> tuple[np.ndarray, np.ndarray]:
        tokens, labels = [], []
        with progress_bar(len(source), title, "image") as bar:
            for batch in read_batches(source, options.batch_size):
                tokens.append(autoencoder.encode(batch.image)[: batch.count])
                labels.append(batch.label[: batch.count])
                bar.update(batch.count)
        return np.concatenate(tokens), np.concatenate(labels)

    chosen = random_subset(real.training, options.num_reference)
    train, train_labels = encode(chosen, "encoding training images")
    held_out, held_out_labels = encode(real.held_out, "encoding held-out images")
    sizes = tuple(height * width for height, width in tokenizer.grids)
    labels = train_labels, held_out_labels
    bits = baseline_bits(train, held_out, labels, sizes, tokenizer.codebook_size)
    return [
        Metric(name, value, count=len(held_out), reference_count=len(train),
               source="counts, smoothed")
        for name, value in bits.items()
    ]  # fmt: skip
