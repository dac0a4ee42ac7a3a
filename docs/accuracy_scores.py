"""Scores of classifiers of real and restored images: `python docs/accuracy_scores.py RUN`.

RUN is a tokenizer's. A classification accuracy score of samples cannot be expected to be above
that of the tokenizer's reconstructions; that of as many real images says what the number costs.
"""

import sys

import numpy as np

from maskgit_jax.configuration import base_config
from maskgit_jax.data.image_sets import ImageSet, random_subset
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.evaluate import default_cache_directory
from maskgit_jax.evaluation.feature_statistics import summarize
from maskgit_jax.evaluation.features import Extractor, small_classifier
from maskgit_jax.evaluation.generation import accuracy, real_images
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.classifier import fit_cached
from maskgit_jax.runs.directory import load_run
from maskgit_jax.training.sharding import make_mesh

BATCH = 250
REAL, RESTORED = 10_000, 20_000


def main(workdir: str) -> None:
    """Prints a row of a table for each set of images."""
    mesh, cache = make_mesh(base_config().mesh), default_cache_directory()
    run = load_run(workdir, mesh)
    autoencoder = AutoencoderPipeline(run, mesh)
    real, _ = real_images(run.config.data)

    def score(images: ImageSet, title: str) -> None:
        pupil = fit_cached(images, real.num_classes, mesh, cache, title)
        extractor = Extractor(small_classifier(pupil), mesh, BATCH)
        value = accuracy(summarize(extractor, real.held_out, cache, 1000, "held-out images"))
        print(f"| {title} | {len(images):,} | {value:.1%} |", flush=True)

    score(random_subset(real.training, REAL), "training images")
    chosen = random_subset(real.training, RESTORED)
    batches = list(read_batches(chosen, BATCH))
    images = np.concatenate([autoencoder.reconstruct(batch.image)[: batch.count] for batch in batches])
    labels = np.concatenate([batch.label[: batch.count] for batch in batches])
    score(ImageSet("restored", images, images.shape[1:], labels), "training images, restored")


if __name__ == "__main__":
    main(sys.argv[1])
