"""Samples images: `python -m maskgit_jax.sample --workdir=runs/maskgit-digits --num=64`.

Writes a PNG grid, or an NPZ with `images` uint8 [N, H, W, C] and `labels` int32 [N] (if there are
classes). `--keep_top=0.5` completes images whose upper half is kept; a run trained on conditions
generates images from other images. Both use held-out images, or those of `--input`, and the grid
shows them beside the samples. `--mode=interpolations` and `--mode=traversals` show the latents of
an autoencoder or a VAE.
"""

from absl import flags

from maskgit_jax import command_line, distributed
from maskgit_jax.configuration import InputError, require
from maskgit_jax.images import IMAGE_OUTPUTS, write_image_grid
from maskgit_jax.model import Model, load
from maskgit_jax.pipelines.outputs import write_samples
from maskgit_jax.runs.summary import announce

WORKDIR = flags.DEFINE_string("workdir", "runs/maskgit-digits", "Run directory of the generator.")
MODE = flags.DEFINE_enum(
    "mode",
    "samples",
    ["samples", "interpolations", "traversals"],
    "Samples; or, of an autoencoder or a VAE, walks through its latents.",
)
NUM = flags.DEFINE_integer(
    "num", None, "Number of images, by default 64 or one per label; of walks, 8.", lower_bound=1
)
LABELS = flags.DEFINE_list(
    "labels", [], "Classes (numbers or names), an image each; repeated to --num images."
)
INPUT = flags.DEFINE_string(
    "input",
    "",
    "Images to start from: a file, a folder, or held_out (the default if the run or --keep_top "
    "needs images).",
)
DATA = flags.DEFINE_string(
    "data", "", "Images, as in config.data.source, for held_out and the classifier of "
    "--rejection_keep; by default those of the run.")  # fmt: skip
KEEP_TOP = flags.DEFINE_float(
    "keep_top", None, "Share of the rows of an input image to keep; the rest is sampled."
)
NUM_PER_INPUT = flags.DEFINE_integer(
    "num_per_input", 4, "Number of samples for each input image.", lower_bound=1
)
REJECTION_KEEP = flags.DEFINE_float(
    "rejection_keep",
    1.0,
    "Share of the samples of each class to keep: those of which a classifier is most confident.",
)
CLASSIFIER = flags.DEFINE_string(
    "classifier",
    "",
    "File of the classifier of --rejection_keep; by default one is trained on the run's images "
    "and cached.",
)
SETTINGS = command_line.define_sampling_flags()
SEED = flags.DEFINE_integer("seed", 0, "Random seed; --batch_size and --num do not change image i.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Number of images per batch.", lower_bound=1)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Step of the checkpoint, or latest.")
OUT = flags.DEFINE_string("out", "samples.png", "File to write: an image such as .png, or .npz.")


def write_latent_walks(model: Model) -> None:
    """Writes the images of --mode=interpolations or --mode=traversals."""
    out = command_line.output_file("out", *IMAGE_OUTPUTS)
    others = {"labels": LABELS.value, "input": INPUT.value, "keep_top": KEEP_TOP.value}
    unused = [*SETTINGS(), *(name for name, value in others.items() if value)]
    if unused:
        raise InputError(f"--{unused[0]} has no effect on --mode={MODE.value}; remove it")
    images = model.latent_walks(MODE.value, NUM.value or 8, SEED.value, BATCH_SIZE.value)
    write_image_grid(out, images)
    print(f"wrote {len(images)} {MODE.value} to {out}")


def main() -> None:
    """Writes the samples that the flags describe."""
    out, num = command_line.output_file("out", *IMAGE_OUTPUTS, ".npz"), NUM.value
    require(
        not distributed.has_peers() or (MODE.value == "samples" and REJECTION_KEEP.value == 1),
        f"--mode={MODE.value} and --rejection_keep run in one process; remove --coordinator",
    )
    model = load(WORKDIR.value, CHECKPOINT.value, data=DATA.value)
    announce(model.run, model.workdir, out)
    if MODE.value != "samples":
        write_latent_walks(model)
        return
    settings = SETTINGS()
    num = num or len(LABELS.value) or 64
    inputs = model.conditioning_images(
        INPUT.value, num, KEEP_TOP.value, NUM_PER_INPUT.value, SEED.value, settings.get("size")
    )
    labels = model.labels(LABELS.value, num, inputs)
    images = model.sample(
        LABELS.value, num, SEED.value, BATCH_SIZE.value, inputs, REJECTION_KEEP.value,
        CLASSIFIER.value, **settings,
    )  # fmt: skip
    if distributed.is_main():
        known = labels if model.generator.num_classes else None
        write_samples(out, images, known, inputs, model.class_names)
        print(f"wrote {len(images)} images to {out}")


if __name__ == "__main__":
    command_line.run(main, distributed=True)
