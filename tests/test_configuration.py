import subprocess
import sys
from dataclasses import dataclass

import pytest

from maskgit_jax.configuration import (
    InputError,
    apply_changes,
    base_config,
    load_config,
    optimizer,
    resolve_cadences,
    resolve_start_steps,
    validate,
)
from maskgit_jax.settings import check_settings, setting, settings_dict, settings_table
from tests.example import ROOT, STAGE_NAMES

PRESETS = ("digits", "fashion_mnist", "cifar10", "folder", "imagenet256", "imagenet512")


def cadences(**training) -> dict[str, int]:
    config = load_config("vqgan", **{f"training.{key}": each for key, each in training.items()})
    resolve_cadences(config)
    every = ("log", "checkpoint", "eval", "preview")
    return {key: config.training[f"{key}_every"] for key in every}


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_every_preset_is_valid_and_locked(stage):
    for preset in PRESETS:
        config = load_config(f"{stage}:{preset}")
        validate(config)
        resolve_cadences(config)
        validate(config)
        assert (config.stage, config.preset) == (stage, preset)
        assert config.is_locked and config.optimizers and config.training.best_metric


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (8, (1, 100, 500, 500)),
        (560, (28, 140, 420, 420)),
        (4_500, (100, 1_000, 1_000, 1_000)),
        (100_000, (100, 1_000, 2_000, 2_000)),
    ],
)
def test_cadences_derive_from_the_number_of_steps(num_steps, expected):
    assert tuple(cadences(num_steps=num_steps).values()) == expected


def test_given_cadences_are_kept_and_evaluations_coincide_with_checkpoints():
    given = {"log_every": 3, "checkpoint_every": 30, "eval_every": 50, "preview_every": 7}
    assert list(cadences(num_steps=1_000, **given).values()) == [3, 30, 50, 7]
    assert cadences(num_steps=1_000, eval_every=40)["preview"] == 40
    for num_steps in range(1, 12_000, 997):
        for chosen in (0, 300):
            found = cadences(num_steps=num_steps, checkpoint_every=chosen)
            assert found["eval"] % found["checkpoint"] == 0 or found["eval"] < found["checkpoint"]


def test_a_discriminator_starts_at_its_share_of_the_run():
    def start(resumed=None, **changes) -> int:
        config = load_config("vqgan", **changes)
        resolve_start_steps(config, resumed)
        return config.optimizers.discriminator.start_step

    steps, own = "training.num_steps", "optimizers.discriminator.start_step"
    assert (start(), start(**{steps: 30}), start(**{own: 7})) == (200, 15, 7)
    assert start(**{"optimizers.discriminator.start_fraction": 0.0}) == 0
    resumed = load_config("vqgan", **{own: 200})
    assert start(resumed, **{steps: 4_000}) == 200, "a longer run keeps the step of its start"


def test_imagenet_presets_evaluate_rarely():
    config = load_config("maskgit:imagenet256")
    resolve_cadences(config)
    assert (config.training.eval_every, config.training.checkpoint_every) == (20_000, 5_000)


def test_presets_are_loaded_by_file_or_stage_from_any_directory(tmp_path, monkeypatch):
    by_file = load_config("configs/vqgan.py:digits", **{"model.filters": 8})
    monkeypatch.chdir(tmp_path)
    names = ("vqgan", "vqgan:digits", "configs/vqgan.py", f"{ROOT}/configs/vqgan.py:digits")
    for name in names:
        assert load_config(name, **{"model.filters": 8}) == by_file
    own = "from configs.vqgan import get_config as vqgan\n\n\ndef get_config(preset=''):\n"
    (tmp_path / "mine.py").write_text(own + "    return vqgan(preset or 'folder')\n")
    assert load_config("mine.py").preset == "folder"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vq", {}, "no configuration 'vq'; give a file or one of gpt, maskgit, pixelcnn,"),
        ("mine/vqgan.py", {}, "no configuration 'mine/vqgan.py'"),
        ("README.md", {}, "README.md is not a Python file"),
        ("vqgan:huge", {}, "no preset 'huge'; the presets are: digits, fashion_mnist,"),
        ("vqgan", {"model.filter": 8}, "vqgan: there is no key 'config.model.filter'"),
        ("vqgan", {"seed.filter": 8}, "config.seed is a value, not a group"),
        ("vqgan", {"model.filters": "many"}, "filters is 'many'; it must be of type int"),
    ],
)
def test_unknown_presets_and_keys_are_refused(name, changes, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message) as error:
        load_config(name, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dtype", "float16", "config.dtype is 'float16'; allowed: float32, bfloat16"),
        ("mesh.layout", "ring", "config.mesh.layout is 'ring'; allowed: data, fsdp, fsdp_tensor"),
        ("data.channels", 2, "config.data.channels is 2; it must be 1 or 3"),
        ("data.eval_fraction", 1.0, "config.data.eval_fraction is 1.0; it must be in"),
        ("training.num_steps", 0, "config.training.num_steps is 0; it must be at least 1"),
        ("training.log_every", -1, "config.training.log_every is -1; it must be at least 0"),
        ("training.accumulate_steps", 7, "it must be a multiple of config.training.accumulate"),
        ("optimizers.autoencoder.optimizer", "sgd", "optimizer is 'sgd'; allowed: adam, adamw"),
        ("optimizers.autoencoder.ema_rate", 1.0, "ema_rate is 1.0; it must be in"),
        ("optimizers.discriminator.learning_rate", 0.0, "discriminator.learning_rate is 0.0"),
    ],
)
def test_values_out_of_range_are_refused(key, value, message):
    with pytest.raises(InputError, match=message):
        validate(load_config("vqgan", **{key: value}))


def test_changes_of_unknown_keys_are_errors():
    with pytest.raises(InputError, match="momentum"):
        optimizer(momentum=0.9)
    with pytest.raises(InputError, match="data.size"):
        apply_changes(base_config(), {"data.size": 1})


@dataclass(frozen=True)
class Settings:
    rate: float = setting(0.5, "Rate.", above=0, maximum=1)
    kind: str = setting("a", "Kind.", choices=("a", "b"))
    path: str = setting("", "Path.", in_config=False)


def test_a_setting_declares_its_default_check_and_documentation():
    assert settings_dict(Settings) == {"rate": 0.5, "kind": "a"}
    check_settings(Settings(rate=1.0, kind="b"))
    with pytest.raises(InputError, match="rate is 0; it must be above 0 and at most 1"):
        check_settings(Settings(rate=0))
    with pytest.raises(InputError, match="kind is 'c'; it must be one of a, b"):
        check_settings(Settings(kind="c"))
    assert "| `rate` | `0.5` | above 0 and at most 1 | Rate. |" in settings_table(Settings)


def test_loading_a_configuration_imports_no_jax():
    code = (
        "import sys; from maskgit_jax.configuration import load_config; "
        "load_config('maskgit'); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
