import numpy as np
import pytest

from maskgit_jax.configuration import base_config
from maskgit_jax.data.image_sets import ImageSet
from maskgit_jax.data.sources import open_sources
from maskgit_jax.evaluation.features import FeatureExtractor, classifier_network
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import RealImages
from maskgit_jax.pipelines import classifier
from maskgit_jax.training.sharding import make_mesh

COUNT = 400
"""Training digits that are not in the training set of `real`: they stand in for generated ones."""


@pytest.fixture(scope="session")
def digits():
    return open_sources(base_config().data)


@pytest.fixture(scope="session")
def real(digits):
    train, held_out = digits.train, digits.evaluation
    shape = train.images.shape[1:]
    training = ImageSet("training", train.images[COUNT:], shape, train.labels[COUNT:])
    held_out = ImageSet("held out", held_out.images, shape, held_out.labels)
    return RealImages("digits", training, held_out, 10, {})


@pytest.fixture(scope="session")
def mesh():
    return make_mesh(base_config().mesh)


@pytest.fixture(scope="session")
def options(mesh, tmp_path_factory):
    return EvaluationOptions(mesh, tmp_path_factory.mktemp("cache"), batch_size=80)


@pytest.fixture(scope="session")
def extractor(real, mesh):
    """A classifier of digits; one program for all tests."""
    before, classifier.STEPS = classifier.STEPS, 200
    try:
        trained = classifier.fit_classifier(real.training, 10, mesh)
    finally:
        classifier.STEPS = before
    return FeatureExtractor(classifier_network(trained), mesh, 80)


@pytest.fixture(scope="session")
def generated(digits) -> np.ndarray:
    """Images uint8 [COUNT, H, W, C] of the real distribution."""
    return digits.train.images[:COUNT]
