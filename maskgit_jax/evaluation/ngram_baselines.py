"""What tokens cost without a network: by counting them. A prior that learnt anything costs less."""

from itertools import accumulate
from typing import Any

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from maskgit_jax.data.image_sets import random_subset
from maskgit_jax.data.reading import read_batches
from maskgit_jax.evaluation.report import Metric
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import Run

WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
"""Of the smoothing; the one that suits the held-out tokens best is taken, in their favour."""


def unigram_bits(
    train: np.ndarray, held_out: np.ndarray, labels: tuple[np.ndarray, np.ndarray], codes: int
) -> float:
    """Returns the bits per token of p(token | class), the same at all places.

    Args:
        train: Tokens of one map, int [N, L], that are counted.
        held_out: Tokens that are predicted, int [M, L].
        labels: Their classes, [N] and [M].
        codes: K.
    """
    classes = int(max(labels[0].max(), labels[1].max())) + 1
    rows = [
        np.repeat(own, tokens.shape[1])
        for own, tokens in zip(labels, (train, held_out), strict=True)
    ]
    return _bits((rows[0], train.ravel()), (rows[1], held_out.ravel()), classes, codes)


def bigram_bits(train: np.ndarray, held_out: np.ndarray, codes: int) -> float:
    """Returns the bits per token of p(token | the token before it, rows first).

    The first token of a map is predicted by how often each code comes first.

    Args:
        train: Tokens of one map, int [N, L], that are counted.
        held_out: Tokens that are predicted, int [M, L].
        codes: K.
    """
    # Code K stands before the first token.
    before = [
        np.concatenate([np.full((len(tokens), 1), codes), tokens[:, :-1]], axis=1).ravel()
        for tokens in (train, held_out)
    ]
    return _bits((before[0], train.ravel()), (before[1], held_out.ravel()), codes + 1, codes)


def _bits(
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    num_rows: int,
    codes: int,
) -> float:
    """Returns the mean of -log2 p(token | row) where counts are smoothed by those of all rows."""
    rows, tokens = (np.asarray(part, np.int64) for part in train)
    counts = np.bincount(rows * codes + tokens, minlength=num_rows * codes)
    counts = counts.reshape(num_rows, codes).astype(np.float64)
    every = (counts.sum(axis=0) + 1.0) / (counts.sum() + codes)
    return min(_cost(counts, every, weight, held_out) for weight in WEIGHTS)


def _cost(
    counts: np.ndarray, every: np.ndarray, weight: float, held_out: tuple[np.ndarray, np.ndarray]
) -> float:
    total = counts.sum(axis=1, keepdims=True) + weight
    probability = (counts + weight * every) / total
    return float(-np.log2(probability[held_out[0], held_out[1]]).mean())


def baseline_bits(
    train: np.ndarray,
    held_out: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
    sizes: tuple[int, ...],
    codes: int,
) -> dict[str, float]:
    """Returns name -> bits per token over all maps, each of which is counted by itself.

    Args:
        train: Tokens int [N, L] of all maps one after another.
        held_out: The same, [M, L].
        labels: Their classes, [N] and [M].
        sizes: Tokens of each map; L is their sum.
        codes: K.
    """
    found = {"unigram_bits_per_token": 0.0, "bigram_bits_per_token": 0.0}
    for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
        own, other = train[:, start : start + size], held_out[:, start : start + size]
        share = size / train.shape[1]
        found["unigram_bits_per_token"] += share * unigram_bits(own, other, labels, codes)
        found["bigram_bits_per_token"] += share * bigram_bits(own, other, codes)
    return found


def token_metrics(
    run: Run, training: Any, held_out: Any, mesh: Mesh, batch_size: int, most: int
) -> list[Metric]:
    """Returns the baselines of a run that learns the tokens of a frozen tokenizer.

    Args:
        run: Of the prior.
        training: Squares of training images, with labels.
        held_out: Squares of held-out images.
        mesh: Devices.
        batch_size: Images at a time; a multiple of the data shards.
        most: Training images that are counted, at most; a fixed random choice.
    """
    stage = run.stages["tokenizer"]
    tokenizer = AutoencoderPipeline(
        run._replace(stage=stage, variables=run.variables.frozen["tokenizer"]), mesh
    )

    def encoded(source: Any, title: str) -> tuple[np.ndarray, np.ndarray]:
        tokens, labels = [], []
        total = -(-len(source) // batch_size)
        batches = read_batches(source, batch_size)
        for batch in tqdm(batches, desc=title, total=total, unit="batch", disable=None):
            tokens.append(tokenizer.encode(batch.image)[: batch.count])
            labels.append(batch.label[: batch.count])
        return np.concatenate(tokens), np.concatenate(labels)

    train, train_labels = encoded(random_subset(training, most), "tokens to count")
    other, other_labels = encoded(held_out, "held-out tokens")
    sizes = tuple(height * width for height, width in stage.exports.grids)
    labels = (train_labels, other_labels)
    found = baseline_bits(train, other, labels, sizes, stage.exports.codebook_size)
    return [
        Metric(name, value, "", count=len(other), reference_count=len(train),
               source="counts, smoothed")
        for name, value in found.items()
    ]  # fmt: skip
