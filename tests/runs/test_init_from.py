"""Trainings that start from the parameters of another run."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.priors.maskgit import resize_positions
from maskgit_jax.runs.directory import (
    Run,
    abstract_variables,
    copy_frozen,
    load_run,
    read_config,
    write_config,
)
from maskgit_jax.runs.fit import fit
from maskgit_jax.runs.init_from import (
    class_rows,
    load_source,
    match_entries,
    match_network,
    plan_start,
    start_training,
    take_entries,
    take_variables,
)
from maskgit_jax.runs.resume import check_resumable
from maskgit_jax.stage import Layout, Variables
from maskgit_jax.stages import stage_module
from maskgit_jax.training.loop import Trainer
from maskgit_jax.training.sharding import make_mesh, path_name, tree_shardings
from maskgit_jax.training.step import make_create_state
from maskgit_jax.training.variables import (
    checkpoint_folder,
    restore_model,
    save_untrained,
    saved_steps,
)
from tests.example import TOKENIZER_NAMES, digits_batch, tiny_config

MESH = make_mesh(tiny_config("vqgan").mesh, jax.devices()[:1])


def table(num_rows, width=2, start=0.0):
    return jnp.arange(start, start + num_rows * width).reshape(num_rows, width)


def rows_layout(codes, classes, **more):
    return Layout("word_embedding", 0, {"codes": codes, "classes": classes, **more})


def test_rows_that_mean_the_same_are_kept():
    old = rows_layout(3, 2, mask=1, **{"null class": 0, "condition codes": 2})
    new = rows_layout(4, 3, mask=1, **{"null class": 1, "condition codes": 1})
    entries = match_entries(new, old, 16, classes=(1, -1, 0))
    expected = [0, 1, 2, -1, 4, -1, 3, 5, -1, 6, *[-1] * 6]
    np.testing.assert_array_equal(entries.rows, expected)
    kept = {"codes": (3, 4), "classes": (2, 3), "mask": (1, 1), "null class": (0, 1)}
    assert entries.parts == {**kept, "condition codes": (1, 1)}
    before, array = table(8), table(16, start=100.0)
    taken = take_entries(array, before, entries)
    for number, source in enumerate(expected):
        row = array[number] if source < 0 else before[source]
        np.testing.assert_array_equal(taken[number], row)


def test_positions_of_another_grid_are_interpolated_and_a_longer_condition_keeps_what_fits():
    old = Layout("p", 0, {"class": 1, "map": (2, 2), "condition map 0": (1, 2)})
    new = Layout("p", 0, {"class": 1, "map": (4, 2), "condition map 0": (1, 2), "more": (1, 1)})
    entries = match_entries(new, old, 12, ())
    before, array = table(7, 3), table(12, 3, 100.0)
    taken = take_entries(array, before, entries)
    np.testing.assert_array_equal(taken[0], before[0])
    np.testing.assert_array_equal(taken[1:9], resize_positions(before[1:5], (2, 2), (4, 2)))
    np.testing.assert_array_equal(taken[9:11], before[5:7])
    np.testing.assert_array_equal(taken[11], array[11])


def test_arrays_are_matched_by_name_shape_and_meaning():
    layouts = (Layout("head/(kernel|bias)", -1, {"codes": 3}), rows_layout(3, 2))
    wider = (Layout("head/(kernel|bias)", -1, {"codes": 4}), rows_layout(4, 2))
    old = {"head": {"kernel": table(2, 3), "bias": jnp.ones(3)}, "word_embedding": table(5),
           "dense": {"kernel": table(2), "bias": jnp.ones(2)}}  # fmt: skip
    new = {"head": {"kernel": jnp.zeros((2, 4)), "bias": jnp.zeros(4)},
           "word_embedding": jnp.zeros((6, 2)), "more": jnp.zeros(1),
           "dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}  # fmt: skip
    taken = match_network(new, old, wider, layouts, (0, 1))
    assert {*taken} == {"head/kernel", "head/bias", "word_embedding", "dense/bias"}
    assert taken["dense/bias"] is None
    kernel = take_entries(new["head"]["kernel"], old["head"]["kernel"], taken["head/kernel"])
    np.testing.assert_array_equal(kernel, [[0, 1, 2, 0], [3, 4, 5, 0]])
    same = match_network(old, old, layouts, layouts, (0, 1))
    assert len(same) == 5 and not any(same.values()), "all arrays are taken as they are"
    swapped = match_network(old, old, layouts, layouts, (1, 0))
    entries = swapped["word_embedding"]
    assert entries is not None and entries.rows.tolist() == [0, 1, 2, 4, 3]


def test_classes_are_matched_by_name_or_by_number():
    def config(names, count=0):
        count = count or len(names)
        return tiny_config("maskgit", data__class_names=names, data__num_classes=count)

    old = config(("dog", "caf\u00e9"))
    assert class_rows(config(("cafe\u0301", "ant", "dog")), old) == (1, -1, 0)
    assert class_rows(config((), 3), old) == (0, 1, -1), "one of them knows no names"


def test_running_statistics_follow_the_codebook_and_usage_starts_anew():
    def variables(value, size, ema=True):
        codebook = jnp.full((size, 2), value)
        usage = {"idle": jnp.full(size, int(value))}
        means = {"ema": {"counts": jnp.full(size, value), "means": codebook}} if ema else {}
        params = {"autoencoder": {"quantizer": {"codebook": codebook}}}
        return Variables(params, {"usage": usage, "lecam": jnp.full((), value), **means}, {})

    def start(old, new):
        own, other = (
            (Layout("quantizer/codebook", 0, {"codes": len(each.state["usage"]["idle"])}),)
            for each in (new, old)
        )
        trees = (new.params["autoencoder"], old.params["autoencoder"])
        taken = {"autoencoder": match_network(*trees, own, other, ())}
        state = take_variables(new, old, taken).state
        assert state["lecam"] == 1 and (state["usage"]["idle"] == 0).all()
        return state["ema"]

    equal = start(variables(1.0, 3), variables(0.0, 3))
    assert (equal["means"] == 1).all() and (equal["counts"] == 1).all()
    longer = start(variables(1.0, 3), variables(0.0, 4))
    np.testing.assert_array_equal(longer["means"], [[1, 1], [1, 1], [1, 1], [0, 0]])
    without = start(variables(1.0, 3, ema=False), variables(0.0, 3))
    assert (without["means"] == 1).all() and (without["counts"] == 0).all()


def filled(shapes, seed=0):
    """Random arrays of these shapes: what the initialization gives does not matter here."""
    generator = np.random.default_rng(seed)

    def array(leaf):
        numbers = generator.normal(size=leaf.shape)
        return jnp.asarray(numbers, leaf.dtype)

    return jax.tree.map(array, shapes)


def built(name, **changes):
    """A stage on the tokens of a VQ-VAE, and its configuration."""
    config, stages = tiny_config(name, **changes), {}
    if name not in TOKENIZER_NAMES:
        stages["tokenizer"] = built("vqvae2" if name == "pixelsnail" else "vqvae")[0]
    if name == "token_critic":
        stages["generator"] = built("maskgit", losses__label_dropout_rate=0.1)[0]
    return stage_module(name).build(config, stages), config


def run_of(name, **changes) -> Run:
    stage, config = built(name, **changes)
    return Run(config, stage, filled(abstract_variables(stage, config), seed=3), 4, {})


@pytest.fixture(scope="module")
def generator():
    return run_of("maskgit", losses__label_dropout_rate=0.1)


def test_a_critic_starts_from_a_generator_and_the_reverse(generator):
    critic = run_of("token_critic", init_from="runs/a")
    start = plan_start(critic.config, critic.stage, generator, {}, MESH)
    assert "critic/head_logit/bias, critic/head_logit/kernel: started anew" in start.report
    assert "critic/word_embedding" not in start.report, "taken as it is"
    back = plan_start(generator.config, generator.stage, critic, {}, MESH)
    assert "prior/head_codes/bias, prior/head_codes/kernel: started anew" in back.report


@pytest.mark.parametrize("name", ["vqvae2", "gpt", "pixelcnn", "pixelsnail", "maskgit"])
def test_layouts_describe_the_parameters(name):
    head = {"model__head": "tied"} if name == "maskgit" else {}
    run = run_of(name, **head)
    leaves = jax.tree_util.tree_leaves_with_path(run.variables.params)
    unused = {"head_codes/(kernel|bias)"} if head else set()
    for layout in run.stage.layouts:
        found = [
            leaf for path, leaf in leaves if re.search(f"/{layout.parameters}$", path_name(path))
        ]
        assert bool(found) == (layout.parameters not in unused), layout
        length = sum(int(np.prod(size)) for size in layout.parts.values())
        assert all(0 <= leaf.shape[layout.axis] - length < 128 for leaf in found)
    more, config = built(name, data__num_classes=11, data__class_names=(), **head)
    report = plan_start(config, more, run, {}, MESH).report
    assert ("classes 10 of 11" in report) == (name != "vqvae2")


@pytest.mark.parametrize(("conditioning", "length"), [("token", 10), ("none", 9)])
def test_positions_of_a_gpt_with_a_condition(conditioning, length):
    gpt = GPT(8, 1, (2, 2), condition_codebook_size=4, condition_grids=((2, 3),), width=8,
              layer_options=LayerOptions(conditioning=conditioning))  # fmt: skip
    positions = gpt.layouts[1].parts
    assert sum(int(np.prod(size)) for size in positions.values()) == length
    assert gpt.start + gpt.num_tokens == length and positions["map"] == (2, 2)


def test_one_device_equals_eight_and_only_new_rows_are_new(generator):
    changes = {"data__num_classes": 11, "data__class_names": (*"9876543210", "new")}
    stage, config = built("maskgit", **changes)
    state = jax.eval_shape(make_create_state(stage, config), jax.random.key(0), digits_batch(), {})
    before, plan = filled(state, seed=5), plan_start(config, stage, generator, {}, MESH)
    states = []
    for devices, axes in ((1, {}), (8, {"fsdp": 2, "tensor": 2})):
        with config.unlocked():
            config.mesh.update(axes)
        mesh = make_mesh(config.mesh, jax.devices()[:devices])
        start = plan._replace(variables=placed(plan.variables, mesh))
        states.append(start_training(placed(before, mesh), start, mesh))
        expected = tree_shardings(state, mesh)
        equal = jax.tree.map(lambda leaf, place: leaf.sharding == place, states[-1], expected)
        assert jax.tree.all(equal)
    one, eight = jax.device_get(states)
    jax.tree.map(np.testing.assert_array_equal, one, eight)
    jax.tree.map(np.testing.assert_array_equal, one.averages, one.params)
    jax.tree.map(np.testing.assert_array_equal, one.optimizers, jax.device_get(before.optimizers))
    old, new, random = (
        each["prior"]["word_embedding"]
        for each in (generator.variables.params, one.params, before.params)
    )
    np.testing.assert_array_equal(new[:26], old[jnp.asarray([*range(16), *range(25, 15, -1)])])
    np.testing.assert_array_equal(new[27], old[26])  # mask
    np.testing.assert_array_equal(new[26], random[26])  # the new class


def placed(tree, mesh):
    return jax.device_put(tree, tree_shardings(tree, mesh))


def write_run(folder, name, **changes):
    """A run whose checkpoint has no training state, like one of imported weights."""
    stage, config = built(name, **changes)
    variables = filled(abstract_variables(stage, config), seed=3)
    save_untrained(folder, variables.params, variables.state, json.loads(config.to_json()))
    write_config(folder, config)
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer, and a MaskGIT of three classes on its tokens."""
    root = tmp_path_factory.mktemp("runs")
    tokenizer = write_run(root / "vqvae", "vqvae")
    classes = {"data__num_classes": 3, "data__class_names": ("5", "x", "1")}
    write_run(root / "maskgit", "maskgit", tokenizer=tokenizer, **classes)
    copy_frozen(tokenizer, root / "maskgit/frozen/tokenizer", MESH)
    return root


@pytest.mark.slow
def test_a_run_is_fine_tuned_to_other_classes(runs, tmp_path, monkeypatch, capsys):
    def save_only(trainer):
        trainer._save(int(trainer.state.step), None)
        trainer.checkpoints.close()

    monkeypatch.setattr(Trainer, "run", save_only)
    source = f"{shutil.copytree(runs / 'maskgit', tmp_path / 'source')}"
    changes = {"tokenizer": f"{runs}/vqvae", "init_from": f"{source}@0", "seed": 1}
    config = tiny_config("maskgit", **{"data.num_classes": 0, "data.class_names": ()}, **changes)
    workdir = fit(config, tmp_path / "run")
    assert "classes 2 of 10" in capsys.readouterr().err
    assert read_config(workdir).init_from == f"{source}@0" and saved_steps(workdir) == [0]
    model = restore_model(checkpoint_folder(workdir) / "0", MESH)
    old, new = load_run(source, MESH).variables.params["prior"], model["params"]["prior"]
    rows = ([16 + 5, 16 + 1, 16 + 10, 3], [16 + 0, 16 + 2, 16 + 3, 3])  # classes, mask, a code
    pairs = zip((new, old), rows, strict=True)
    tables = [each["word_embedding"][jnp.asarray(numbers)] for each, numbers in pairs]
    np.testing.assert_array_equal(*tables)
    jax.tree.map(np.testing.assert_array_equal, new["layers"], old["layers"])
    jax.tree.map(np.testing.assert_array_equal, new, model["averages"]["prior"])
    shutil.rmtree(source)
    fit(config, workdir)
    assert "parameters from" not in capsys.readouterr().err, "a resumed run goes on"


def test_what_cannot_be_a_start_is_refused(runs, generator):
    def refuse(stage, place, message):
        with pytest.raises(InputError, match=message):
            load_source(tiny_config(stage, init_from=place), MESH)

    refuse("maskgit", f"{runs}/none", "config.init_from: .*/none holds no run")
    refuse("maskgit", f"{runs}/maskgit@7", "has no checkpoint '7'; there are: latest, 0")
    other = "is a run of stage 'vqvae', whose networks are not those of stage"
    refuse("maskgit", f"{runs}/vqvae", f"{other} 'maskgit'; give a run of configs/maskgit.py")
    refuse("vqgan", f"{runs}/vqvae", f"{other} 'vqgan'")
    stage, config = built("maskgit", init_from="runs/a", model__width=24)
    with pytest.raises(InputError, match="config.model.width is 24 here and 16 there"):
        plan_start(config, stage, generator, {}, MESH)
    message = "holds weights that were not trained there; train on from them by --config.init_from="
    with pytest.raises(InputError, match=message):
        check_resumable(read_config(runs / "vqvae"), runs / "vqvae")
