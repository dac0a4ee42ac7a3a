"""The public commands, run as a user runs them; bad input ends with one clear line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from tests.commands import (
    TINY_CRITIC,
    TINY_MASKGIT,
    TINY_TOKENIZER,
    metrics,
    refused,
    run,
    start,
    succeed,
)
from tests.example import CLASSIFIER_CACHE, ROOT


def train_tokenizer(workdir: Path, steps: int, *more: str) -> str:
    steps_flag = f"--config.training.num_steps={steps}"
    return succeed("train", *TINY_TOKENIZER, steps_flag, f"--workdir={workdir}", *more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer and a MaskGIT, both tiny, trained by the public commands."""
    place = tmp_path_factory.mktemp("runs")
    train_tokenizer(place / "tokenizer", 6)
    tokenizer = f"--config.tokenizer={place / 'tokenizer'}"
    succeed("train", *TINY_MASKGIT, tokenizer, f"--workdir={place / 'maskgit'}")
    return place


def test_training_writes_metrics_previews_and_checkpoints(runs):
    lines = metrics(runs / "tokenizer")
    assert lines[-1]["split"] == "eval" and 0 < lines[-1]["codebook_usage"] <= 1
    assert list((runs / "tokenizer/previews").glob("*.png"))
    assert list((runs / "tokenizer/tensorboard").iterdir())
    assert (runs / "maskgit/frozen/tokenizer/config.json").exists(), "self-contained"


def test_sample_writes_arrays_and_images_of_a_moved_run(runs, tmp_path):
    shutil.copytree(runs / "maskgit", tmp_path / "moved")
    sample = ("sample", f"--workdir={tmp_path / 'moved'}", "--num=7", "--labels=0,3,7", "--steps=2")
    succeed(*sample, f"--out={tmp_path / 'a.npz'}")
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].shape == (7, 16, 16, 1) and file["images"].dtype == np.uint8
        assert file["labels"].tolist() == [0, 3, 7, 0, 3, 7, 0]
        assert file["labels"].dtype == np.int32
    succeed(*sample, "--guidance=1.5", f"--out={tmp_path / 'a.png'}")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 64


def test_edit_writes_candidates_and_a_trajectory(runs, tmp_path):
    generator = f"--config.generator={runs / 'maskgit'}"
    succeed("train", *TINY_CRITIC, generator, f"--workdir={tmp_path / 'critic'}")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 44, 4), np.uint8)
    image[..., 3] = 255
    Image.fromarray(image).save(tmp_path / "mine.png")  # RGBA; the mask has 16 bits
    mask = np.zeros((30, 44), np.uint16)
    mask[:, 20:] = 65535
    Image.fromarray(mask).save(tmp_path / "mask.png")
    edit = ("edit", "inpaint", f"--workdir={tmp_path / 'critic'}", f"--image={tmp_path}/mine.png",
            f"--mask={tmp_path}/mask.png", "--steps=3")  # fmt: skip
    out = tmp_path / "out.png"
    succeed(*edit, "--num=1", "--label=7", f"--out={out}")
    with Image.open(out) as edited, Image.open(tmp_path / "mine.png") as original:
        assert edited.size == (44, 30)
        grey = np.asarray(original.convert("L"))
        np.testing.assert_array_equal(np.asarray(edited)[:, :20], grey[:, :20])
        assert (np.asarray(edited)[:, 30:] != grey[:, 30:]).any()
    trajectory = tmp_path / "trajectory.gif"
    succeed("edit", "outpaint", f"--workdir={runs / 'maskgit'}", "--image=held_out:5", "--left=20",
            "--num=2", f"--trajectory={trajectory}", "--decoder=self_critic",
            f"--out={out}")  # fmt: skip
    with Image.open(trajectory) as animation, Image.open(out) as edited:
        assert animation.n_frames > 8 and edited.width > 3 * 36
    with Image.open(tmp_path / "out-2.png") as candidate:
        assert candidate.size == (36, 16)
    assert "--keep has no effect on 'inpaint'; remove it" in refused(*edit, "--keep=0.5")
    replace = ("edit", "replace", f"--workdir={runs / 'maskgit'}", "--image=held_out:0")
    assert "'replace' needs --label: Class to generate" in refused(*replace, "--box=0,0,4,4")
    message = refused("train", *TINY_CRITIC, f"--config.generator={runs / 'tokenizer'}",
                      f"--workdir={tmp_path / 'other'}")  # fmt: skip
    assert "holds no tokenizer; give a run of configs/maskgit.py" in message


def test_a_prior_is_trained_on_encoded_tokens(runs, tmp_path):
    out = succeed("encode", f"--workdir={runs / 'tokenizer'}", f"--out={tmp_path / 'tokens'}")
    assert "1437 + 360" in out
    data = f"--config.data.source=tokens:{tmp_path / 'tokens'}"
    tokenizer = f"--config.tokenizer={runs / 'tokenizer'}"
    succeed("train", *TINY_MASKGIT, data, tokenizer, f"--workdir={tmp_path / 'run'}")
    message = refused("train", *TINY_MASKGIT, "--config.model.codebook_size=32", data,
                      f"--workdir={tmp_path / 'other'}")  # fmt: skip
    assert "codebook_size 16" in message and "make them equal" in message


def final_params(workdir: Path, step: int):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(workdir / "checkpoints" / str(step) / "model")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_tokenizer(whole, 24)
    process = start(
        "train", *TINY_TOKENIZER, "--config.training.num_steps=24", f"--workdir={killed}"
    )
    deadline = time.monotonic() + 200
    while not list(killed.glob("checkpoints/[0-9]")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "resuming" in train_tokenizer(killed, 24)
    jax.tree.map(np.testing.assert_array_equal, final_params(whole, 24), final_params(killed, 24))
    steps = [line["step"] for line in metrics(killed)]
    assert steps == sorted(steps) and steps.count(24) == 2  # one training, one evaluation line


@pytest.mark.slow
def test_sigterm_saves_and_exits_cleanly(tmp_path):
    process = start("train", *TINY_TOKENIZER, "--config.training.num_steps=100000",
                    "--config.training.checkpoint_every=100000",
                    f"--workdir={tmp_path / 'run'}")  # fmt: skip
    for line in process.stdout:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    assert "saved" in out
    assert list((tmp_path / "run/checkpoints").glob("[0-9]*"))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    train_tokenizer(tmp_path, 3)
    code, _, err = run("train", *TINY_TOKENIZER, "--config.training.num_steps=30",
                       "--config.optimizers.autoencoder.learning_rate=1e38",
                       "--config.optimizers.autoencoder.warmup_steps=0",
                       "--allow_change=optimizers.autoencoder",
                       f"--workdir={tmp_path}")  # fmt: skip
    assert code == 2, err[-3000:]
    assert "network 'autoencoder' was not finite at step" in err
    assert "the last good checkpoint is step" in err
    assert "--allow_change=optimizers.autoencoder.learning_rate" in err
    for path in (tmp_path / "checkpoints").glob("[0-9]*"):
        params = final_params(tmp_path, int(path.name))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params["params"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/vqgan.py:huge"], "no preset 'huge'; the presets are: digits,"),
        (["--config=configs/vqgan.py", "--config.training.num_step=3"], "num_steps"),
        (["--config=configs/missing.py"], "missing.py"),
        (["--config=configs/vqgan.py", "--config.losses.reconstruction=l3"],
         "losses.reconstruction is 'l3'"),
        (["--config=configs/vqgan.py", "--config.data.image_size=18"], "not a multiple of 4"),
        (["--config=configs/vqgan.py", "--config.training.best_metric=fid"],
         "does not evaluate; choose one of codebook_perplexity,"),
        (["--config=configs/vqgan.py", "--config.losses.perceptual=resnet50_features"],
         "download.pytorch.org/models/resnet50-0676ba61.pth; give the file with"),
        (["--config=configs/vqgan.py", "--config.losses.perceptual=lpips",
          "--config.losses.perceptual_weights=none.ckpt"], "none.ckpt does not exist"),
        (["--config=configs/vae.py", "--config.model.likelihood=student"], "logistic_mixture"),
        (["--config=configs/vqgan.py", "--config.data.source=folder:nowhere"],
         "folder:nowhere: the directory does not exist"),
        (["--config=configs/maskgit.py", "--config.tokenizer=nowhere"], "configs/vqgan.py:digits"),
        (["--config=configs/maskgit.py", "--config.sampling.steps=17"], "number of tokens, 16"),
        (["configs/vqgan.py"], "is not a flag"),
    ],
)  # fmt: skip
def test_training_refuses_bad_input_in_one_line(tmp_path, arguments, message):
    assert message in refused("train", f"--workdir={tmp_path / 'run'}", *arguments)


def test_training_refuses_another_kind_of_run_or_tokenizer(runs, tmp_path):
    assert "holds a run of stage 'vqvae'" in refused(
        "train", *TINY_MASKGIT, f"--workdir={runs / 'tokenizer'}"
    )
    assert "config.model.filters was 8 and is 12" in refused(
        "train", *TINY_TOKENIZER, "--config.model.filters=12", f"--workdir={runs / 'tokenizer'}"
    )
    maskgit = ("train", *TINY_MASKGIT, f"--config.tokenizer={runs / 'tokenizer'}",
               f"--workdir={tmp_path / 'run'}")  # fmt: skip
    assert "has 16 codes, but config.model.codebook_size is 64" in refused(
        *maskgit, "--config.model.codebook_size=64"
    )
    assert "data.image_size 16, but this run needs 32" in refused(
        *maskgit, "--config.data.image_size=32"
    )


def test_a_finished_run_stays_as_it_is(runs, tmp_path):
    config = (runs / "tokenizer/config.json").read_bytes()
    assert "is finished: step 6 of 6; nothing is trained" in train_tokenizer(runs / "tokenizer", 6)
    more = ("--config.training.num_steps=6", f"--workdir={runs / 'tokenizer'}")
    assert "--allow_change=seed" in refused("train", *TINY_TOKENIZER, "--config.seed=1", *more)
    assert (runs / "tokenizer/config.json").read_bytes() == config
    shutil.copytree(runs / "tokenizer", tmp_path / "other")
    maskgit = ("train", *TINY_MASKGIT, f"--config.tokenizer={tmp_path / 'other'}",
               f"--workdir={runs / 'maskgit'}")  # fmt: skip
    assert "is finished" in succeed(*maskgit), "a copy of the tokenizer"
    shutil.rmtree(tmp_path / "other/checkpoints/6")
    assert "other, with other weights; change it back" in refused(*maskgit)
    assert str(runs / "tokenizer") in (runs / "maskgit/config.json").read_text()


@pytest.mark.parametrize(
    ("module", "arguments", "flag"),
    [
        ("train", ["--config=configs/vae.py", "--workdir=PLACE/x"], "--workdir"),
        ("sample", ["--workdir=RUNS/maskgit", "--out=PLACE/x.png"], "--out"),
        ("edit", ["variations", "--workdir=RUNS/maskgit", "--image=held_out:0",
                  "--trajectory=PLACE/x.gif"], "--trajectory"),
        ("encode", ["--workdir=RUNS/tokenizer", "--out=PLACE/x"], "--out"),
        ("evaluate", ["--workdir=RUNS/tokenizer", "--cache=PLACE"], "--cache"),
        ("evaluate", ["--write_reference=PLACE/x.npz", "--data=digits"], "--write_reference"),
        ("lineage", ["--workdir=PLACE/x"], "--workdir"),
    ],
)  # fmt: skip
def test_outputs_are_checked_first(runs, tmp_path, monkeypatch, module, arguments, flag):
    place = tmp_path / "file"
    place.touch()
    monkeypatch.chdir(tmp_path)
    words = [word.replace("PLACE", str(place)).replace("RUNS", str(runs)) for word in arguments]
    assert re.search(f"error: {flag}=.* cannot be written: .*; choose another place",
                     refused(module, *words))  # fmt: skip


def test_data_elsewhere_are_named_with_data(runs, tmp_path):
    shutil.copytree(runs / "maskgit", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"]["source"] = "folder:/nowhere"
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    sample = ("sample", f"--workdir={tmp_path / 'run'}", "--num=2", "--keep_top=0.5", "--steps=2",
              f"--out={tmp_path / 'a.png'}")  # fmt: skip
    edit = ("edit", "variations", f"--workdir={tmp_path / 'run'}", "--image=held_out:0", "--num=1",
            "--steps=2", f"--out={tmp_path / 'b.png'}")  # fmt: skip
    for command in (sample, edit):
        assert "name them with --data=SOURCE" in refused(*command)
        succeed(*command, "--data=digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels=0,10"], "label 10 is out of range; this run knows the labels 0 to 9"),
        (["--labels=cat"], "label 'cat' is neither a number nor one of: 0, 1"),
        (["--steps=17"], "steps is 17; it must be between 1 and the number of tokens, 16"),
        (["--out=a.txt"], "a.txt; it must end in .png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff or"),
        (["--seed=18446744073709551615"], "seed is 18446744073709551615; it must be between 0"),
        (["--labels=0,1,2", "--num=2"], "--num=2 is smaller than the 3 labels"),
        (["--guidance=1e30"], "guidance is 1e+30; it must be at least 0 and at most 1000"),
        (["--float_range=1"], "--float_range is '1'; it takes 2 numbers with commas: LOW,HIGH"),
        (["--checkpoint=9"], "has no checkpoint '9'; there are: latest, 4"),
        (["--pixels=draw"], "stage 'maskgit' has no setting 'pixels'"),
        (["--size=18x16"], "size is 18x16; both must be multiples of 4 pixels"),
        (["--size=32x32", "--rejection_keep=0.5"], "at the size of the run, so remove it"),
        (["--guide=nowhere", "--guidance=1"], "nowhere holds no run"),
    ],
)
def test_sample_refuses_bad_input_in_one_line(runs, arguments, message):
    assert message in refused("sample", f"--workdir={runs / 'maskgit'}", *arguments)


def test_commands_refuse_the_wrong_kind_of_run(runs, tmp_path):
    tokenizer = ("sample", f"--workdir={runs / 'tokenizer'}")
    assert "generates no images" in refused(*tokenizer)
    assert "needs continuous latents" in refused(*tokenizer, "--mode=interpolations")
    assert "is not a tokenizer" in refused("encode", f"--workdir={runs / 'maskgit'}")
    assert "holds no run" in refused("sample", f"--workdir={tmp_path}")


def test_a_truncated_checkpoint_is_named(runs, tmp_path):
    shutil.copytree(runs / "tokenizer", tmp_path / "run")
    for path in (tmp_path / "run/checkpoints/6/model").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    more = ("--config.training.num_steps=9", f"--workdir={tmp_path / 'run'}")
    message = refused("train", *TINY_TOKENIZER, *more)
    assert "checkpoints/6 cannot be restored" in message and "delete" in message
    assert "checkpoints/6 cannot be restored" in refused("encode", f"--workdir={tmp_path / 'run'}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_runs_are_evaluated_and_an_evaluation_resumes(runs):
    out = succeed("evaluate", f"--workdir={runs / 'tokenizer'}", CLASSIFIER_CACHE)
    for metric in ("reconstruction_mse", "ssim", "reconstruction_frechet_distance",
                   "codebook_perplexity", "skipped: lpips"):  # fmt: skip
        assert metric in out
    evaluate = ("evaluate", f"--workdir={runs / 'maskgit'}", "--num=70", CLASSIFIER_CACHE)
    out = succeed(*evaluate)
    for metric in ("frechet_distance", "inception_score", "kernel_distance", "precision", "recall",
                   "density", "coverage", "sample_duplicates", "novelty_train_copies",
                   "novelty_closer_than_heldout", "classifier_accuracy",
                   "classification_accuracy_score", "bits_per_token_bound"):  # fmt: skip
        assert metric in out
    succeed(*evaluate, "--decoders=halton", "--nfe=4", "--inpaint=0.5")
    assert (runs / "maskgit/evaluation/inpainting.png").exists()
    first = (runs / "maskgit/evaluation.json").read_text()
    succeed(*evaluate)
    assert (runs / "maskgit/evaluation.json").read_text() == first
    out = succeed("evaluate", f"--compare={runs / 'maskgit'},{runs / 'tokenizer'}")
    assert "do not compare them" in out


@pytest.mark.slow
def test_a_reference_file_is_written_and_read(tmp_path):
    succeed("evaluate", f"--write_reference={tmp_path / 'b.npz'}", "--data=digits",
            "--image_size=16", "--channels=1", CLASSIFIER_CACHE)  # fmt: skip
    with np.load(tmp_path / "b.npz") as file:
        assert file["arr_0"].shape == (1437, 16, 16, 1) and file["arr_1"].shape == (1437,)
        np.savez(tmp_path / "a.npz", images=file["arr_0"][:100])
    images = f"--images={tmp_path / 'a.npz'}"
    out = succeed("evaluate", images, f"--reference={tmp_path / 'b.npz'}", CLASSIFIER_CACHE)
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in out.splitlines()
            if line.startswith("|")}  # fmt: skip
    assert rows["novelty_train_copies"] == "100" and rows["precision"] == "1"
    assert "skipped: classifier_accuracy" in out
    assert (tmp_path / "a.evaluation/evaluation.json").exists()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Sets of images that cannot be evaluated, and one that can."""
    place, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    np.savez(place / "large.npz", images=rng.integers(0, 256, (100, 20, 20, 1), np.uint8))
    np.savez(place / "float.npz", images=rng.random((100, 16, 16, 1)))
    np.savez(place / "few.npz", images=rng.integers(0, 256, (20, 16, 16, 1), np.uint8))
    np.savez(place / "good.npz", images=rng.integers(0, 256, (100, 16, 16, 1), np.uint8))
    (place / "folder").mkdir()
    for number in range(70):
        image = Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8))
        image.save(place / f"folder/{number}.png")
    (place / "folder/5.png").write_bytes(b"broken")
    return place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--images=PLACE/float.npz --data=digits", "images are uint8, from 0 to 255"),
        ("--images=PLACE/few.npz --data=digits", "classifier needs at least 65"),
        ("--images=PLACE/large.npz --reference=PLACE/good.npz", "resize one of the sets first"),
        ("--images=PLACE/folder --reference=PLACE/good.npz", "5.png cannot be read"),
        (
            "--images=PLACE/good.npz --data=digits --features=inception:none.pth",
            "the file none.pth is missing",
        ),
        ("--images=PLACE/good.npz --data=digits --features=inception", "pytorch-fid/releases"),
        ("--images=PLACE/good.npz", "needs real images"),
        ("--images=PLACE/good.npz --search=steps", "--decoders and --search need a run"),
        ("", "give either --workdir=RUN or --images"),
    ],
)
def test_evaluate_refuses_bad_input_in_one_line(images, tmp_path, arguments, message):
    words = arguments.replace("PLACE", str(images)).split()
    assert message in refused("evaluate", f"--cache={tmp_path / 'cache'}", *words)


@pytest.mark.parametrize("module", ["train", "sample", "edit", "evaluate", "encode"])
def test_help_shows_the_flags_of_a_command(module):
    code, out, _ = run(module, "--help")
    assert code in (0, 1) and "--workdir" in out
    if module in ("sample", "edit", "evaluate"):
        assert "--guidance" in out and "diffusers' guidance_scale minus 1" in out
        assert "--remask_fraction" in out and "--top_p" in out


def test_sampling_imports_nothing_that_only_training_needs():
    modules = ("optax", "grain", "tensorflow_datasets", "matplotlib", "sklearn", "tensorboardX")
    script = f"import sys, maskgit_jax.sample; print([m for m in {modules} if m in sys.modules])"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.check_output(command, env=environment, text=True).strip() == "[]"


def test_the_package_is_imported_without_jax():
    script = "import sys, maskgit_jax; print('jax' in sys.modules, maskgit_jax.InputError.__name__)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert out.split() == ["False", "InputError"]
