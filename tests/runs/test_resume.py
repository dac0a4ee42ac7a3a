"""What may change when a run is resumed: random changes are right, or refused in one line."""

import random

import pytest

from maskgit_jax.config_keys import flat_values
from maskgit_jax.configuration import InputError, apply_changes, resolve_cadences
from maskgit_jax.runs.directory import write_config
from maskgit_jax.runs.resume import MAY_CHANGE, MUST_STAY, check_resumable
from tests.example import STAGE_NAMES, preset

STEP = 8


def stored(folder, stage="vqgan", **changes):
    """The configuration of a run that was stopped at `STEP`."""
    config = apply_changes(preset(stage, "digits").unlock(), {"training.num_steps": 100, **changes})
    resolve_cadences(config)
    write_config(folder, config)
    (folder / f"checkpoints/{STEP}").mkdir(parents=True)
    return config.unlock()


def changed(value, rng: random.Random):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + rng.choice([1, 2, 5])
    return (*value, 1) if isinstance(value, tuple) else f"{value}x"


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_random_changes_are_reported_or_refused_by_name(stage, tmp_path):
    rng = random.Random(stage)
    config = stored(tmp_path, stage, **{"data.source": "folder:images"})
    before = (tmp_path / "config.json").read_bytes()
    names = {"stage", "tokenizer", "generator", "condition_tokenizer"}
    names |= {"data.class_names", "data.num_classes"}  # these are compared by their content
    keys = [key for key in flat_values(config) if key not in names]
    for _ in range(60):
        new, chosen = config.copy_and_resolve_references().unlock(), rng.sample(keys, 3)
        values = {key: changed(flat_values(config)[key], rng) for key in chosen}
        apply_changes(new, values)
        try:
            reported = check_resumable(new, tmp_path)
        except InputError as error:
            text = str(error)
            assert "\n" not in text and "another --workdir" in text
            named = [key for key in chosen if f"config.{key} was " in text]
            assert named and not set(named) & set(MAY_CHANGE)
            assert all(f"and is {values[key]!r}" in text for key in named)
        else:
            assert sorted(reported) == sorted(
                f"config.{key} was {flat_values(config)[key]!r} and is {flat_values(new)[key]!r}"
                for key in chosen
            )
    assert (tmp_path / "config.json").read_bytes() == before
    assert check_resumable(config, tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "config.seed was 0 and is 1; .*--allow_change=seed$"),
        ({"losses.adversarial_weight": 9.0}, "config.losses.adversarial_weight was .* and is 9.0"),
        ({"optimizers.autoencoder.learning_rate": 1.0}, "learning_rate was .* and is 1.0"),
        ({"model.filters": 7}, "holds another model: config.model.filters was .* and is 7; change"),
        ({"optimizers.autoencoder.ema_rate": 0.0}, "another model: .*ema_rate"),
        ({"data.source": "idx:images"}, "config.data.source was 'digits' and is 'idx:images'"),
        ({"training.num_steps": STEP - 1}, "num_steps is 7, but .* is at step 8 already"),
    ],
)
def test_what_is_refused_and_what_to_do(tmp_path, changes, message):
    config = stored(tmp_path)
    with pytest.raises(InputError, match=message):
        check_resumable(apply_changes(config, changes), tmp_path)


def test_a_moved_folder_and_named_keys_may_change(tmp_path):
    config = stored(tmp_path, **{"data.source": f"folder:{tmp_path}/a"})
    apply_changes(config, {"data.source": f"folder:{tmp_path}/b/../a", "training.num_steps": STEP})
    assert len(check_resumable(config, tmp_path)) == 1, "the same folder in other words"
    apply_changes(config.unlock(), {"data.source": f"folder:{tmp_path}/b", "seed": 3})
    with pytest.raises(InputError, match="config.seed was 0 and is 3"):
        check_resumable(config, tmp_path)
    assert len(check_resumable(config, tmp_path, ["config.seed"])) == 3
    assert len(check_resumable(config, tmp_path, ["optimizers", "seed"])) == 3
    with pytest.raises(InputError, match="--allow_change=sead: the configuration has no such key"):
        check_resumable(config, tmp_path, ["sead"])
    with pytest.raises(InputError, match="the checkpoint would not fit another config.model.width"):
        check_resumable(stored(tmp_path / "m", "maskgit"), tmp_path / "m", ["model.width"])


def test_a_run_without_a_checkpoint_may_become_any_other_of_its_stage(tmp_path):
    config = stored(tmp_path)
    (tmp_path / f"checkpoints/{STEP}").rmdir()
    apply_changes(config, {"model.filters": 7, "seed": 9})
    assert check_resumable(config, tmp_path) == []
    with pytest.raises(InputError, match="holds a run of stage 'vqgan', not 'vae'"):
        check_resumable(preset("vae"), tmp_path)


def test_the_tables_are_documented():
    from tests.example import ROOT

    text = (ROOT / "docs/training.md").read_text()
    assert all(f"`{key}`" in text for key in (*MAY_CHANGE, *MUST_STAY))
