"""The public commands, run as a user runs them; bad input ends with one clear line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from tests.example import CLASSIFIER_CACHE, ROOT

TINY_VQGAN = [
    "--config=configs/vqgan.py",
    "--config.model.filters=8",
    "--config.model.codebook_size=16",
    "--config.model.codebook_dim=4",
    "--config.losses.adversarial_weight=0.0",
    "--config.training.batch_size=16",
    "--config.training.log_every=2",
    "--config.training.eval_every=100",
    "--config.training.preview_every=100",
    "--config.training.checkpoint_every=3",
    "--config.training.keep_last=100",
]
TINY_MASKGIT = [
    "--config=configs/maskgit.py",
    "--config.model.codebook_size=16",
    "--config.model.width=16",
    "--config.model.num_layers=1",
    "--config.model.num_heads=2",
    "--config.model.mlp_width=32",
    "--config.training.batch_size=16",
    "--config.training.num_steps=4",
]


TINY_CRITIC = ["--config=configs/token_critic.py", *TINY_MASKGIT[1:]]


def start(module: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"maskgit_jax.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(module: str, *arguments: str) -> tuple[int, str, str]:
    process = start(module, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def train_vqgan(workdir, steps: int, *more: str):
    return run(
        "train", *TINY_VQGAN, f"--config.training.num_steps={steps}", f"--workdir={workdir}", *more
    )


def metrics(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def refused(module: str, *arguments: str) -> str:
    """The one line with which a command refuses its input."""
    code, _, err = run(module, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err, err[-3000:]
    return lines[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer and a MaskGIT, both tiny, trained by the public commands."""
    place = tmp_path_factory.mktemp("runs")
    code, _, err = train_vqgan(place / "vqgan", 6)
    assert code == 0, err[-3000:]
    code, _, err = run(
        "train", *TINY_MASKGIT, f"--config.tokenizer={place / 'vqgan'}",
        f"--workdir={place / 'maskgit'}",
    )  # fmt: skip
    assert code == 0, err[-3000:]
    return place


def test_a_run_writes_metrics_pictures_and_checkpoints(runs):
    lines = metrics(runs / "vqgan")
    assert lines[-1]["split"] == "eval" and 0 < lines[-1]["codebook_usage"] <= 1
    assert list((runs / "vqgan/previews").glob("*.png"))
    assert list((runs / "vqgan/tensorboard").iterdir())
    assert (runs / "maskgit/frozen/tokenizer/config.json").exists(), "self-contained"


def test_sampling_writes_pictures_and_arrays(runs, tmp_path):
    elsewhere = tmp_path / "moved"  # a run depends on no other folder
    shutil.copytree(runs / "maskgit", elsewhere)
    sample = ("sample", f"--workdir={elsewhere}", "--num=7", "--labels=0,3,7", "--steps=2")
    code, _, err = run(*sample, f"--out={tmp_path / 'a.npz'}")
    assert code == 0, err[-3000:]
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].shape == (7, 16, 16, 1) and file["images"].dtype == np.uint8
        assert file["labels"].tolist() == [0, 3, 7, 0, 3, 7, 0]
        assert file["labels"].dtype == np.int32
    code, _, err = run(*sample, "--guidance=1.5", f"--out={tmp_path / 'a.png'}")
    assert code == 0, err[-3000:]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 64


def test_pictures_are_edited_and_a_critic_revises(runs, tmp_path):
    code, _, err = run(
        "train", *TINY_CRITIC, f"--config.generator={runs / 'maskgit'}",
        f"--workdir={tmp_path / 'critic'}",
    )  # fmt: skip
    assert code == 0, err[-3000:]
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (30, 44, 4), np.uint8)
    picture[..., 3] = 255
    Image.fromarray(picture).save(tmp_path / "mine.png")  # RGBA; the mask has 16 bits
    mask = np.zeros((30, 44), np.uint16)
    mask[:, 20:] = 65535
    Image.fromarray(mask).save(tmp_path / "mask.png")
    edit = ("edit", "inpaint", f"--workdir={tmp_path / 'critic'}", f"--image={tmp_path}/mine.png",
            f"--mask={tmp_path}/mask.png", "--steps=3")  # fmt: skip
    out = tmp_path / "out.png"
    code, _, err = run(*edit, "--num=1", "--label=7", f"--out={out}")
    assert code == 0, err[-3000:]
    with Image.open(out) as made, Image.open(tmp_path / "mine.png") as original:
        assert made.size == (44, 30)
        grey = np.asarray(original.convert("L"))
        np.testing.assert_array_equal(np.asarray(made)[:, :20], grey[:, :20])
        assert (np.asarray(made)[:, 30:] != grey[:, 30:]).any()
    way = tmp_path / "way.gif"
    code, _, err = run(
        "edit", "outpaint", f"--workdir={runs / 'maskgit'}", "--image=held_out:5", "--left=20",
        "--num=2", f"--trajectory={way}", "--decoder=self_critic", f"--out={out}",
    )  # fmt: skip
    assert code == 0, err[-3000:]
    with Image.open(way) as animation, Image.open(out) as made:
        assert animation.n_frames > 8 and made.width > 3 * 36
    assert "says nothing to 'inpaint'; leave it out" in refused(*edit, "--keep=0.5")
    assert "'replace' needs the class" in refused(
        "edit", "replace", f"--workdir={runs / 'maskgit'}", "--image=held_out:0", "--box=0,0,4,4"
    )
    message = refused(
        "train", *TINY_CRITIC, f"--config.generator={runs / 'vqgan'}",
        f"--workdir={tmp_path / 'other'}",
    )  # fmt: skip
    assert "holds no tokenizer; give a run of configs/maskgit.py" in message


def test_encoded_tokens_can_be_trained_on(runs, tmp_path):
    code, out, err = run("encode", f"--workdir={runs / 'vqgan'}", f"--out={tmp_path / 'tokens'}")
    assert code == 0 and "1437 + 360" in out, err[-3000:]
    code, _, err = run(
        "train", *TINY_MASKGIT, f"--config.data.source=tokens:{tmp_path / 'tokens'}",
        f"--config.tokenizer={runs / 'vqgan'}", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 0, err[-3000:]
    message = refused(
        "train", *TINY_MASKGIT, "--config.model.codebook_size=32",
        f"--config.data.source=tokens:{tmp_path / 'tokens'}", f"--workdir={tmp_path / 'other'}",
    )  # fmt: skip
    assert "codebook_size 16" in message and "make them equal" in message


def final_params(workdir, step):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(workdir / "checkpoints" / str(step) / "model")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_vqgan(whole, 24)[0] == 0
    process = start("train", *TINY_VQGAN, "--config.training.num_steps=24", f"--workdir={killed}")
    deadline = time.monotonic() + 200
    while not list(killed.glob("checkpoints/[0-9]")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, out, err = train_vqgan(killed, 24)
    assert code == 0, err[-3000:]
    assert "resuming" in out
    one, other = final_params(whole, 24), final_params(killed, 24)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    steps = [line["step"] for line in metrics(killed)]
    assert steps == sorted(steps) and steps.count(24) == 2  # one training, one evaluation line


def test_sigterm_saves_and_exits_cleanly(tmp_path):
    process = start(
        "train", *TINY_VQGAN, "--config.training.num_steps=100000",
        "--config.training.checkpoint_every=100000", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    assert "saved" in out
    assert list((tmp_path / "run/checkpoints").glob("[0-9]*"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    assert train_vqgan(tmp_path, 3)[0] == 0
    broken = "--config.optimizers.autoencoder.learning_rate=1e38"
    code, _, err = train_vqgan(
        tmp_path, 30, broken, "--config.optimizers.autoencoder.warmup_steps=0"
    )
    assert code == 2, err[-3000:]
    assert "player 'autoencoder' was not finite at step" in err
    assert "the last good checkpoint is step" in err
    for path in (tmp_path / "checkpoints").glob("[0-9]*"):
        params = final_params(tmp_path, path.name)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params["params"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/vqgan.py:huge"], "no preset 'huge'; the presets are: digits,"),
        (["--config=configs/vqgan.py", "--config.training.num_step=3"], "num_steps"),
        (["--config=configs/missing.py"], "missing.py"),
        (
            ["--config=configs/vqgan.py", "--config.losses.reconstruction=l3"],
            "losses.reconstruction is 'l3'",
        ),
        (["--config=configs/vqgan.py", "--config.data.image_size=18"], "not a multiple of 4"),
        (
            ["--config=configs/vqgan.py", "--config.training.best_metric=fid"],
            "does not evaluate; choose one of codebook_perplexity,",
        ),
        (
            ["--config=configs/vqgan.py", "--config.losses.perceptual=resnet50_features"],
            "download.pytorch.org/models/resnet50-0676ba61.pth; name the file by",
        ),
        (
            [
                "--config=configs/vqgan.py",
                "--config.losses.perceptual=lpips",
                "--config.losses.perceptual_weights=none.ckpt",
            ],
            "none.ckpt does not exist",
        ),
        (["--config=configs/vae.py", "--config.model.likelihood=student"], "logistic_mixture"),
        (["--config=configs/vqgan.py", "--config.data.source=folder:nowhere"], "directory does not exist"),
        (["--config=configs/maskgit.py", "--config.tokenizer=nowhere"], "configs/vqgan.py:digits"),
        (["--config=configs/maskgit.py", "--config.sampling.steps=17"], "number of tokens, 16"),
        (["configs/vqgan.py"], "is not a flag"),
    ],
)
def test_training_refuses_bad_input_in_one_line(tmp_path, arguments, message):
    assert message in refused("train", f"--workdir={tmp_path / 'run'}", *arguments)


def test_training_refuses_a_run_directory_of_another_kind(runs):
    assert "holds a run of stage 'vqgan'" in refused(
        "train", *TINY_MASKGIT, f"--workdir={runs / 'vqgan'}"
    )
    assert "config.model.filters was 8 and is 12" in refused(
        "train", *TINY_VQGAN, "--config.model.filters=12", f"--workdir={runs / 'vqgan'}"
    )


def test_training_refuses_a_tokenizer_that_does_not_fit(runs, tmp_path):
    tokenizer = f"--config.tokenizer={runs / 'vqgan'}"
    workdir = f"--workdir={tmp_path / 'run'}"
    assert "has 16 codes, but config.model.codebook_size is 64" in refused(
        "train", *TINY_MASKGIT, tokenizer, workdir, "--config.model.codebook_size=64"
    )
    assert "data.image_size 16, but this run needs 32" in refused(
        "train", *TINY_MASKGIT, tokenizer, workdir, "--config.data.image_size=32"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels=0,10"], "label 10 is out of range; this run knows the labels 0 to 9"),
        (["--labels=cat"], "label 'cat' is neither a number nor one of: 0, 1"),
        (["--steps=17"], "steps is 17; it must be between 1 and the number of tokens, 16"),
        (["--out=a.jpg"], "must end in .png or .npz"),
        (["--checkpoint=9"], "has no checkpoint '9'; there are: latest, 4"),
    ],
)
def test_sampling_refuses_bad_input_in_one_line(runs, arguments, message):
    assert message in refused("sample", f"--workdir={runs / 'maskgit'}", *arguments)


def test_commands_refuse_the_wrong_kind_of_run(runs, tmp_path):
    assert "generates no images" in refused("sample", f"--workdir={runs / 'vqgan'}")
    assert "stage 'maskgit' has no setting 'pixels'" in refused(
        "sample", f"--workdir={runs / 'maskgit'}", "--pixels=draw"
    )
    assert "is no tokenizer" in refused("encode", f"--workdir={runs / 'maskgit'}")
    assert "holds no run" in refused("sample", f"--workdir={tmp_path}")


def test_tokens_have_no_ways_between_them(runs):
    assert "needs latents that are numbers" in refused(
        "sample", f"--workdir={runs / 'vqgan'}", "--mode=interpolations"
    )


def test_a_truncated_checkpoint_is_named(runs, tmp_path):
    shutil.copytree(runs / "vqgan", tmp_path / "run")
    for path in (tmp_path / "run/checkpoints/6/model").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refused(
        "train", *TINY_VQGAN, "--config.training.num_steps=9", f"--workdir={tmp_path / 'run'}"
    )
    assert "checkpoints/6 cannot be restored" in message and "delete" in message
    assert "checkpoints/6 cannot be restored" in refused("encode", f"--workdir={tmp_path / 'run'}")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_runs_are_evaluated_and_an_evaluation_goes_on(runs):
    code, out, err = run("evaluate", f"--workdir={runs / 'vqgan'}", CLASSIFIER_CACHE)
    assert code == 0, err[-3000:]
    for figure in ("reconstruction_mse", "ssim", "reconstruction_frechet_distance",
                   "codebook_perplexity", "not measured: lpips"):  # fmt: skip
        assert figure in out
    generate = ("evaluate", f"--workdir={runs / 'maskgit'}", "--num=70", CLASSIFIER_CACHE)
    code, out, err = run(*generate)
    assert code == 0, err[-3000:]
    for figure in ("frechet_distance", "inception_score", "kernel_distance", "precision", "recall",
                   "density", "coverage", "duplicates", "copies", "novelty_closer_than_heldout", "recognised",
                   "classification_accuracy_score", "bits_per_token_bound"):  # fmt: skip
        assert figure in out
    table = ("evaluate", f"--workdir={runs / 'maskgit'}", "--num=70", CLASSIFIER_CACHE)
    code, out, err = run(*table, "--decoders=confidence,corrector", "--nfe=4", "--guidances=1")
    assert code == 0, err[-3000:]
    rows = [line.split("|")[1:5] for line in out.splitlines() if line.startswith("| co")]
    assert rows == [[" confidence ", " 4 ", " 4 ", " 1 "], [" corrector ", " 4 ", " 2 ", " 1 "]]
    assert "| real images |" in out
    code, out, err = run(*table, "--decoders=halton", "--nfe=4", "--inpaint=0.5")
    assert code == 0 and "the class not told" in out and "mean of training images" in out, err
    assert (runs / "maskgit/evaluation/inpainting.png").exists()
    first = (runs / "maskgit/evaluation.json").read_text()
    code, _, err = run(*generate)
    assert code == 0, err[-3000:]
    assert (runs / "maskgit/evaluation.json").read_text() == first
    code, out, _ = run("evaluate", f"--compare={runs / 'maskgit'},{runs / 'vqgan'}")
    assert code == 0 and "cannot be compared" in out


def test_a_reference_file_is_written_and_read(tmp_path):
    cache = f"--cache={tmp_path / 'cache'}"
    code, _, err = run(
        "evaluate", f"--write_reference={tmp_path / 'b.npz'}", "--data=digits", "--image_size=16",
        "--channels=1", cache,
    )  # fmt: skip
    assert code == 0, err[-3000:]
    with np.load(tmp_path / "b.npz") as file:
        assert file["arr_0"].shape == (1437, 16, 16, 1) and file["arr_1"].shape == (1437,)
        images = file["arr_0"]
    np.savez(tmp_path / "a.npz", images=images[:100])
    code, out, err = run(
        "evaluate", f"--images={tmp_path / 'a.npz'}", f"--reference={tmp_path / 'b.npz'}", cache
    )
    assert code == 0, err[-3000:]
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in out.splitlines()
            if line.startswith("|")}  # fmt: skip
    assert rows["copies"] == "100" and rows["precision"] == "1"
    assert "not measured: recognised: the judged images have no labels" in out
    assert (tmp_path / "a.evaluation/evaluation.json").exists()


def _bad_images(place):
    rng = np.random.default_rng(0)
    np.savez(place / "large.npz", images=rng.integers(0, 256, (100, 20, 20, 1), np.uint8))
    np.savez(place / "float.npz", images=rng.random((100, 16, 16, 1)))
    np.savez(place / "few.npz", images=rng.integers(0, 256, (20, 16, 16, 1), np.uint8))
    np.savez(place / "good.npz", images=rng.integers(0, 256, (100, 16, 16, 1), np.uint8))
    (place / "folder").mkdir()
    for number in range(70):
        image = Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8))
        image.save(place / f"folder/{number}.png")
    (place / "folder/5.png").write_bytes(b"broken")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images=float.npz", "--data=digits"], "images are uint8, from 0 to 255"),
        (["--images=few.npz", "--data=digits"], "fewer than the 64 features of classifier"),
        (["--images=large.npz", "--reference=good.npz"], "bring them to one size first"),
        (["--images=folder", "--reference=good.npz"], "5.png cannot be read"),
        (["--images=good.npz", "--data=digits", "--features=inception:none.pth"], "no file none"),
        (["--images=good.npz", "--data=digits", "--features=inception"], "pytorch-fid/releases"),
        (["--images=good.npz"], "needs real images"),
        ([], "give either --workdir=RUN or --images"),
    ],
)
def test_evaluation_refuses_bad_input_in_one_line(tmp_path, arguments, message):
    _bad_images(tmp_path)
    placed = [
        argument.replace("=large", f"={tmp_path}/large").replace("=float", f"={tmp_path}/float")
        .replace("=few", f"={tmp_path}/few").replace("=good", f"={tmp_path}/good")
        .replace("=folder", f"={tmp_path}/folder")
        for argument in arguments
    ]  # fmt: skip
    assert message in refused("evaluate", f"--cache={tmp_path / 'cache'}", *placed)
