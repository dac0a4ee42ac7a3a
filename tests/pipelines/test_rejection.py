import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError, base_config
from maskgit_jax.files import write_arrays
from maskgit_jax.networks.classifier import ImageClassifier
from maskgit_jax.pipelines.rejection import (
    candidate_labels,
    class_probabilities,
    most_confident,
    open_classifier,
)
from maskgit_jax.training.sharding import make_mesh


def test_the_most_confident_samples_of_each_class_are_kept():
    candidates = candidate_labels([7, 3, 7], 0.5)
    assert candidates == [7, 7, 7, 7, 3, 3]
    confidence = np.asarray([0.1, 0.9, 0.3, 0.8, 0.2, 0.6])
    assert most_confident(confidence, candidates, [7, 3, 7]) == [1, 5, 3]
    assert most_confident(np.zeros(6), candidates, [3, 7]) == [4, 0], "ties keep their order"
    assert candidate_labels([7, 3, 7], 1.0) == [7, 7, 3]


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5])
def test_share_out_of_range_is_refused(keep):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        candidate_labels([1], keep)


def test_probabilities_of_a_classifier_from_a_file(tmp_path):
    network, shape = ImageClassifier(10), (16, 16, 1)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    leaves = jax.tree.leaves(params)
    path = tmp_path / "classifier.npz"
    write_arrays(path, {f"{number:03d}": leaf for number, leaf in enumerate(leaves)})
    data, mesh = base_config().data, make_mesh(base_config().mesh)
    data.num_classes = 10
    classifier = open_classifier(data, mesh, str(path))
    images = np.random.default_rng(0).integers(0, 256, (11, *shape), np.uint8)
    labels = np.arange(11) % 10
    probabilities = class_probabilities(classifier, images, labels, mesh, 8)
    _, logits = jax.jit(network.apply)({"params": params}, images / np.float32(127.5) - 1)
    expected = jax.nn.softmax(logits)[np.arange(11), labels]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    leaves = {f"{number:03d}": leaf for number, leaf in enumerate(leaves)}
    write_arrays(path, {**leaves, "class_names": np.asarray(list("0123456789"))})
    data.class_names = tuple("0123456789")
    assert open_classifier(data, mesh, str(path)).num_classes == 10
    data.class_names = tuple("012345678x")
    with pytest.raises(InputError, match="a classifier of other classes .missing: 9; new: x"):
        open_classifier(data, mesh, str(path))
    data.num_classes = 7
    with pytest.raises(InputError, match="a classifier of other images or classes"):
        open_classifier(data, mesh, str(path))
    np.savez(path, a=np.zeros(3))
    with pytest.raises(InputError, match="holds no classifier"):
        open_classifier(data, mesh, str(path))
