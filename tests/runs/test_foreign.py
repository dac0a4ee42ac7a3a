"""Published weights become runs, and runs become files again."""

import json
import pickle

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

import maskgit_jax
from maskgit_jax.configuration import changed_config
from maskgit_jax.interop.imported import vqgan_shapes, vqgan_state
from maskgit_jax.interop.maskgit_export import write_weights
from maskgit_jax.runs.directory import load_variables, read_config
from maskgit_jax.runs.foreign import export_weights, import_run
from maskgit_jax.stage import Variables
from maskgit_jax.training.sharding import make_mesh
from tests.example import tiny_config
from tests.golden_values import golden, recipes
from tests.interop.test_torch_files import zip_file

INPUT = maskgit_jax.InputError
MESH = make_mesh(tiny_config("vqvae").mesh)


def write(path, network: str, **others):
    """Writes the official arrays of a network as published: msgpack of {"params": ...}."""
    shapes = json.loads(str(golden("maskgit")[f"{network}_shapes"]))
    tree = unflatten_dict(recipes.flax_arrays(shapes), sep="/")
    path.write_bytes(msgpack_serialize({"params": tree, **others}))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tokenizer and a transformer as published, and the run that was made of them."""
    place = tmp_path_factory.mktemp("foreign")
    write(place / "tokenizer", "tokenizer")
    write(place / "transformer", "transformer", step=np.zeros(()))
    maskgit_jax.load_foreign(place / "tokenizer", place / "transformer", place / "run")
    return place


def same(first, second):
    first, second = (load_variables(run, MESH) for run in (first, second))
    for ours, theirs in ((first.params, second.params), (first.state, second.state)):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_run_samples(place):
    model = maskgit_jax.load(place / "run")
    images = model.sample(labels=[2], num=2, steps=2)
    assert images.shape == (2, 16, 16, 3) and model.config.dtype == "float32"
    assert model.run.step == 0 and model.config.data.num_classes == 3
    provenance = json.loads((place / "run/import.json").read_text())
    assert provenance["generator"]["dropped"] == ["step"]
    assert provenance["tokenizer"]["format"] == "maskgit"
    assert len(provenance["tokenizer"]["sha256"]) == 64
    assert read_config(place / "run/frozen/tokenizer").data.image_size == 16


@pytest.mark.parametrize("format", ["maskgit", "safetensors"])
def test_an_exported_run_is_imported_bit_for_bit(place, tmp_path, format):
    run, again = place / "run", tmp_path / "again"
    first = export_weights(run / "frozen/tokenizer", tmp_path / "first", format, MESH)
    second = export_weights(run, tmp_path / "second", format, MESH)
    import_run(first, second, again)
    same(run, again)
    same(run / "frozen/tokenizer", again / "frozen/tokenizer")
    config = read_config(again).to_dict()
    assert {**read_config(run).to_dict(), "tokenizer": config["tokenizer"]} == config


def test_a_tokenizer_with_its_discriminator(tmp_path):
    changes = {"data__image_size": 16, "model__filters": 32, "model__channel_multipliers": (1, 2)}
    changes |= {"discriminator__filters": 8, "discriminator__max_width": 16, "dtype": "float32"}
    changes |= {"model__blocks_per_level": 1, "model__mid_blocks": 1, "model__codebook_size": 8}
    config = changed_config("vqgan:imagenet256", changes)
    shapes = flatten_dict(vqgan_shapes(config), sep="/")
    arrays = recipes.flax_arrays({name: leaf.shape for name, leaf in shapes.items()})
    params = unflatten_dict(arrays, sep="/")
    write_weights(config, Variables(params, vqgan_state(params), {}), tmp_path / "first")
    import_run(tmp_path / "first", "", tmp_path / "run")
    variables = load_variables(tmp_path / "run", MESH)
    jax.tree.map(np.testing.assert_array_equal, dict(variables.params), params)
    export_weights(tmp_path / "run", tmp_path / "own", "safetensors", MESH)
    import_run(tmp_path / "own", "", tmp_path / "again")
    same(tmp_path / "run", tmp_path / "again")


def test_runs_that_a_format_cannot_hold(place, tmp_path):
    for key, value, message in (
        ("model.norm", "pre", "config.model.norm is 'pre', but networks of format 'maskgit' have"),
        ("losses.label_dropout_rate", 0.1, "label_dropout_rate is 0.1"),
    ):
        config = read_config(place / "run").unlock()
        group, _, leaf = key.rpartition(".")
        config[group][leaf] = value
        with pytest.raises(INPUT, match=message):
            write_weights(config, load_variables(place / "run", MESH), tmp_path / "x")
    with pytest.raises(INPUT, match="written as: maskgit, safetensors"):
        export_weights(place / "run", tmp_path / "x", "other", MESH)


def test_directories_that_hold_something_are_refused(place, tmp_path):
    with pytest.raises(INPUT, match="holds a run already"):
        import_run(place / "tokenizer", "", place / "run")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(INPUT, match="is not empty"):
        import_run(place / "tokenizer", "", tmp_path)
    with pytest.raises(INPUT, match="--workdir is needed"):
        import_run(place / "tokenizer", "", "")


def test_files_that_are_no_weights_are_refused(place, tmp_path):
    whole = (place / "tokenizer").read_bytes()
    content = {
        "cut": whole[: len(whole) // 2],
        "text": b"hello, this is a text",
        "empty": b"",
        "pickle": pickle.dumps({"x": print}),
        "other": msgpack_serialize({"params": {"dense": {"kernel": np.zeros((3, 4))}}}),
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "cut.safetensors")
    cut = (tmp_path / "cut.safetensors").read_bytes()[:-4]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    hostile = zip_file(tmp_path, pickle.dumps({"x": print}, protocol=2))
    for file, message in (
        (tmp_path / "cut", "is no msgpack file of flax, or is damaged"),
        (tmp_path / "text", "is none of: msgpack of flax, torch file, safetensors"),
        (tmp_path / "empty", "is none of"),
        (tmp_path / "pickle", "is a pickle, but not one of torch|only tensors"),
        (hostile, "only tensors can be read"),
        (tmp_path / "cut.safetensors", "is no safetensors file, or is damaged"),
        (tmp_path / "other", r"no tokenizer of a known format \(maskgit.*params/dense/kernel"),
        (place / "transformer", "is a generator of format 'maskgit'.*give it with --generator"),
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is a folder without config.json"),
    ):
        with pytest.raises(INPUT, match=message) as error:
            import_run(file, "", tmp_path / "run")
        assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    with pytest.raises(INPUT, match="--format is 'x'; the formats are: auto, maskgit"):
        import_run(place / "tokenizer", "", tmp_path / "run", "x")
