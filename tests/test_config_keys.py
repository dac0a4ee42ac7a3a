"""Misspelt keys and the listing of a configuration."""

import pytest
from ml_collections import ConfigDict

from maskgit_jax.command_line import describe_config
from maskgit_jax.config_keys import flat_keys, format_config, source_comments, unknown_key
from maskgit_jax.configuration import InputError, apply_changes, load_config
from maskgit_jax.lineage.schedule import Schedule, parse_changes
from maskgit_jax.lineage.systems import TRAININGS
from tests.commands import refused
from tests.example import STAGE_NAMES

CONFIG = {"seed": 0, "model": {"width": 8, "num_layers": 2}, "losses": {"label_smoothing": 0.1}}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("model.witdh", "no key 'config.model.witdh'; the nearest one is config.model.width; "
                        "config.model has num_layers, width"),
        ("num_layer", "the nearest one is config.model.num_layers; config has losses, model, seed"),
        ("losses.smoothing", "the nearest one is config.losses.label_smoothing; config.losses has"),
        ("loss.label_smoothing", "the nearest one is config.losses.label_smoothing; config has"),
        ("qqq", "no key 'config.qqq'; config has losses, model, seed"),
        ("seed.start", "no key 'config.seed.start': config.seed is a value"),
    ],
)  # fmt: skip
def test_a_wrong_key_names_the_nearest_one_and_its_group(key, expected):
    config = ConfigDict(CONFIG)
    assert expected in unknown_key(config, key)
    with pytest.raises(InputError, match=key):
        apply_changes(config, {key: 1})


def test_all_known_keys_and_groups_are_accepted():
    config = ConfigDict(CONFIG)
    assert not any(unknown_key(config, key) for key in [*flat_keys(config), "model", "losses"])


def test_commands_and_lineage_name_the_nearest_key_too(tmp_path):
    expected = "config.training.batchsize'; the nearest one is config.training.batch_size"
    for stage in ("configs/vae.py", "gpt:folder"):
        assert expected in refused(
            "train", f"--config={stage}", "--config.training.batchsize=3", f"--workdir={tmp_path}"
        )
    changes = parse_changes(["vqgan.training.batchsize=3"])
    schedule = Schedule(tmp_path, "digits", "digits", 1.0, changes=changes)
    with pytest.raises(InputError, match=expected):
        schedule.configuration(TRAININGS["vqgan"])


def test_comments_are_read_from_the_source():
    source = """
def get_config():
    config.name = ""  # a name
    # two
    # lines
    config.model = dict(width=8, depth=2)
    config.losses = dict(
        kind="l1",  # l1 | l2
        nested=dict(
            rate=0.5,  # per step
        ),
        plain=1,
    )
    return ConfigDict(dict(seed=0))  # fmt: skip
"""
    assert source_comments(source) == {
        "name": "a name",
        "model": "two lines",
        "losses.kind": "l1 | l2",
        "losses.nested.rate": "per step",
    }
    listing = format_config(ConfigDict(CONFIG), {"model": "The network.", "seed": "Any number."})
    assert listing.splitlines()[0].split() == ["config.seed", "=", "0", "#", "Any", "number."]
    assert "# The network.\nconfig.model.num_layers = 2" in listing


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_listing_has_every_key_and_comments(stage):
    config = load_config(stage)
    lines = [line for line in describe_config(config).splitlines() if line.startswith("config.")]
    assert [line.split()[0] for line in lines] == sorted(
        (f"config.{key}" for key in flat_keys(config)), key=lambda key: key.count(".") > 1
    )
    assert sum("  # " in line for line in lines) > len(lines) / 2
    assert any(line.endswith("# constant | cosine | wsd; the last two end at 0") for line in lines)
