"""Commands in messages work when they are pasted."""

import random
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from maskgit_jax.config_keys import flat_values
from maskgit_jax.configuration import InputError, apply_changes, resolve_cadences, validate
from maskgit_jax.data.tokens import read_description, write_description
from maskgit_jax.hints import train_command
from maskgit_jax.runs.directory import load_run, write_config
from maskgit_jax.runs.fit import check_token_dataset, copy_frozen_stages, use_tokenizer_of_tokens
from maskgit_jax.stages import stage_module
from maskgit_jax.training.sharding import all_devices
from tests.example import ROOT, STAGE_NAMES, preset

# `load_module`, which ml_collections calls.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FROM_DATA = ("data.num_classes", "data.class_names")


def pasted(message: str):
    """The module and the words of the command at the end of a message."""
    command = re.search(r"python -m maskgit_jax\.(\w+) (.*)$", message)
    assert command, message
    return command[1], shlex.split(command[2])


def parsed_training(words: list[str]):
    """The configuration and --workdir of a pasted training command, parsed as the command does."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    config_flags.DEFINE_config_file("config", flag_values=values)
    file, *others = words
    words = ["", file.replace("configs/", f"{ROOT}/configs/"), *others]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)  # where ml_collections looks for changed keys
        assert values(words) == [""]
    config = values.config
    resolve_cadences(config)
    validate(config)
    stage_module(config.stage).validate(config)
    return config, values.workdir


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_command_of_a_run_gives_its_configuration(stage, tmp_path):
    rng = random.Random(stage)
    sizes = {"data.source": "folder:my images/it's", "seed": 3, "dtype": "bfloat16",
             "data.eval_fraction": 0.25, "data.augmentations": "", "training.batch_size": 24,
             "training.keep_best": False, "training.num_steps": 77, "training.log_every": 3,
             "mesh.layout": "fsdp"}  # fmt: skip
    for _ in range(5):
        config = preset(stage, "digits").unlock()
        chosen = rng.sample(sorted(sizes), 4)
        apply_changes(config, {key: sizes[key] for key in chosen})
        resolve_cadences(config)
        found, workdir = parsed_training(pasted(train_command(config, tmp_path))[1])
        assert workdir == str(tmp_path)
        ours, theirs = flat_values(config), flat_values(found)
        assert {key: theirs[key] for key in ours if key not in FROM_DATA} == {
            key: ours[key] for key in ours if key not in FROM_DATA
        }


def test_a_run_without_a_checkpoint_names_the_command_that_trains_it(tmp_path):
    config = preset("vqgan", "digits").unlock()
    apply_changes(config, {"data.source": "folder:pics", "model.channel_multipliers": (1, 2)})
    resolve_cadences(config)
    write_config(tmp_path, config)
    with pytest.raises(InputError, match="has no checkpoint yet; wait for its first one") as error:
        load_run(tmp_path, all_devices())
    module, words = pasted(str(error.value))
    found, workdir = parsed_training(words)
    assert module == "train" and workdir == str(tmp_path)
    assert found.data.source == "folder:pics" and found.model.channel_multipliers == (1, 2)
    (tmp_path / "variables").mkdir()
    with pytest.raises(InputError, match="copy of a finished stage inside another run"):
        load_run(tmp_path, all_devices())


@pytest.mark.parametrize(("stage", "missing"), [("maskgit", "vqgan"), ("token_critic", "maskgit"),
                                                ("gpt", "vqgan"), ("pixelcnn", "vqvae"),
                                                ("pixelsnail", "vqvae2")])  # fmt: skip
def test_a_missing_stage_names_a_command_that_fits_the_prior(stage, missing, tmp_path):
    config = preset(stage, "digits").unlock()
    key = "generator" if stage == "token_critic" else "tokenizer"
    run = str(tmp_path / f"{missing}-mine")
    changes = {"data.source": "folder:my pics", "data.channels": 3, "model.codebook_size": 96,
               "data.eval_fraction": 0.2, key: run}  # fmt: skip
    apply_changes(config, changes)
    with pytest.raises(InputError, match=f"the {key} is missing: {run} holds no run") as error:
        copy_frozen_stages(config, tmp_path / "run", all_devices())
    found, workdir = parsed_training(pasted(str(error.value))[1])
    assert (found.stage, workdir) == (missing, run)
    assert found.data.source == "folder:my pics" and found.data.channels == 3
    assert found.data.eval_fraction == 0.2 and found.model.codebook_size == 96


def test_a_copy_inside_another_run_is_never_a_workdir_to_train(tmp_path):
    config = preset("maskgit", "digits").unlock()
    config.tokenizer = f"{tmp_path}/other/frozen/tokenizer"
    with pytest.raises(InputError, match="set --config.tokenizer=RUN to the run of") as error:
        copy_frozen_stages(config, tmp_path / "run", all_devices())
    assert "python -m" not in str(error.value)


def test_a_token_dataset_knows_its_tokenizer(tmp_path):
    config = preset("maskgit", "digits").unlock()
    config.data.source = f"tokens:{tmp_path / 'to kens'}"
    own = tmp_path / "vqgan"
    (own / "checkpoints/4").mkdir(parents=True)
    (own / "config.json").touch()
    with pytest.raises(InputError, match="tokens.json is missing") as error:
        check_token_dataset(config)
    assert "python -m" not in str(error.value), "no tokenizer is known that could write it"
    config.tokenizer = str(own)
    with pytest.raises(InputError, match="tokens.json is missing") as error:
        check_token_dataset(config)
    assert pasted(str(error.value)) == (
        "encode", [f"--workdir={own}", f"--out={tmp_path / 'to kens'}"]
    )  # fmt: skip
    described = {"codebook_size": 128, "grids": [[4, 4]], "input": "image", "data": "digits"}
    (tmp_path / "to kens").mkdir()
    write_description(tmp_path / "to kens", {**described, "tokenizer": str(own)})
    default = preset("maskgit", "digits").unlock()
    default.data.source = config.data.source
    use_tokenizer_of_tokens(default)
    assert default.tokenizer == str(own)
    config.tokenizer = "runs/mine"
    use_tokenizer_of_tokens(config)
    assert config.tokenizer == "runs/mine", "one that the user names stays"
    old = {"codebook_size": 2, "tokenizer": "runs/a b", "data": "folder:x"}
    write_description(tmp_path / "to kens", old)
    with pytest.raises(InputError, match="earlier version; write it again with") as error:
        read_description(str(tmp_path / "to kens"))
    words = ["--workdir=runs/a b", "--data=folder:x", f"--out={tmp_path / 'to kens'}"]
    assert pasted(str(error.value)) == ("encode", words)
