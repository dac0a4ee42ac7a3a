"""Classification accuracy scores of reconstructions: `python docs/accuracy_scores.py RUN`.

RUN is the run of a tokenizer. The score of its reconstructions bounds the score of samples from
priors on its tokens; the score of as many real images is the reference.
"""

import sys

import numpy as np

from maskgit_jax.configuration import base_config
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.image_sets import ImageSet, Subset, random_subset
from maskgit_jax.evaluation.feature_statistics import compute_statistics
from maskgit_jax.evaluation.features import FeatureExtractor, classifier_network
from maskgit_jax.evaluation.real_images import open_real_images
from maskgit_jax.files import default_cache_directory
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.classifier import fit_cached
from maskgit_jax.runs.directory import load_run
from maskgit_jax.training.sharding import make_mesh

BATCH_SIZE = 250
NUM_REAL, NUM_RECONSTRUCTED = 10_000, 20_000


def main(workdir: str) -> None:
    """Prints a row of a table for each set of images."""
    mesh, cache = make_mesh(base_config().mesh), default_cache_directory()
    run = load_run(workdir, mesh)
    autoencoder = AutoencoderPipeline(run, mesh)
    real, _ = open_real_images(run.config.data)
    assert real.training is not None and real.held_out is not None
    held_out = real.held_out

    def print_score(images: ImageSet | Subset, title: str) -> None:
        classifier = fit_cached(images, real.num_classes, mesh, cache, title)
        extractor = FeatureExtractor(classifier_network(classifier), mesh, BATCH_SIZE)
        statistics = compute_statistics(extractor, held_out, cache, 1000, "held-out images")
        print(f"| {title} | {len(images):,} | {statistics.accuracy:.1%} |", flush=True)

    print_score(random_subset(real.training, NUM_REAL), "training images")
    images, labels = [], []
    for batch in read_batches(random_subset(real.training, NUM_RECONSTRUCTED), BATCH_SIZE):
        images.append(autoencoder.reconstruct(batch.image)[: batch.count])
        labels.append(batch.label[: batch.count])
    pixels = np.concatenate(images)
    reconstructed = ImageSet("reconstructions", pixels, real.training.shape, np.concatenate(labels))
    print_score(reconstructed, "training images, reconstructed")


if __name__ == "__main__":
    main(sys.argv[1])
