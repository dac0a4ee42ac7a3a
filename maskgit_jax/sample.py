"""Samples images: `python -m maskgit_jax.sample --workdir=runs/maskgit-digits --num=64`.

Writes a PNG grid, or an NPZ with `images` uint8 [N, H, W, C] and `labels` int32 [N] (if there are
classes). `--keep_top=0.5` completes images whose upper half is kept; a run trained on conditions
generates images from other images. Both use held-out images, or those of `--input`, and the grid
shows them beside the samples. `--mode=interpolations` and `--mode=traversals` show the latents of
an autoencoder or a VAE.
"""

from absl import flags

from maskgit_jax import command_line, distributed
from maskgit_jax.command_line import POSITIVE
from maskgit_jax.configuration import InputError, require
from maskgit_jax.images import IMAGE_OUTPUTS, write_image_grid
from maskgit_jax.model import Model, load
from maskgit_jax.pipelines.outputs import write_samples
from maskgit_jax.runs.summary import announce

MODES = ("samples", "interpolations", "traversals")
FLAGS = (
    (str, "workdir", "runs/maskgit-digits", "Run directory of the generator."),
    (MODES, "mode", "samples", "Samples; of an autoencoder or VAE also walks through its latents."),
    (POSITIVE, "num", None, "Number of images, by default 64 or one per label; of walks, 8."),
    (list, "labels", [], "Classes (numbers or names), an image each; repeated to --num images."),
    (str, "input", "", "Images to start from: a file, a folder, or held_out (the default if the "
     "run or --keep_top needs images)."),
    (str, "data", "", "Images, as in config.data.source, for held_out and the classifier of "
     "--rejection_keep; by default those of the run."),
    (float, "keep_top", None, "Share of the rows of an input image to keep; the rest is sampled."),
    (POSITIVE, "num_per_input", 4, "Number of samples for each input image."),
    (float, "rejection_keep", 1.0, "Share of the samples of each class to keep: those of which a "
     "classifier is most confident."),
    (str, "classifier", "", "File of the classifier of --rejection_keep; by default one is trained "
     "on the run's images and cached."),
    (int, "seed", 0, "Random seed; --batch_size and --num do not change image i."),
    (POSITIVE, "batch_size", 64, "Number of images per batch."),
    (str, "checkpoint", "latest", "Step of the checkpoint, or latest."),
    (str, "out", "samples.png", "File to write: an image such as .png, or .npz."),
)  # fmt: skip
command_line.define_flags(FLAGS)
SETTINGS = command_line.define_sampling_flags()


def write_latent_walks(model: Model, given: flags.FlagValues) -> None:
    """Writes the images of --mode=interpolations or --mode=traversals."""
    out = command_line.output_file("out", *IMAGE_OUTPUTS)
    unused = [*SETTINGS(), *(n for n in ("labels", "input", "keep_top") if given[n].value)]
    if unused:
        raise InputError(f"--{unused[0]} has no effect on --mode={given.mode}; remove it")
    images = model.latent_walks(given.mode, given.num or 8, given.seed, given.batch_size)
    write_image_grid(out, images)
    print(f"wrote {len(images)} {given.mode} to {out}")


def main() -> None:
    """Writes the samples that the flags describe."""
    given, out = flags.FLAGS, command_line.output_file("out", *IMAGE_OUTPUTS, ".npz")
    require(
        not distributed.has_peers() or (given.mode == "samples" and given.rejection_keep == 1),
        f"--mode={given.mode} and --rejection_keep run in one process; remove --coordinator",
    )
    model = load(given.workdir, given.checkpoint, data=given.data, guide=given.guide)
    announce(model.run, model.workdir, out)
    if given.mode != "samples":
        write_latent_walks(model, given)
        return
    settings, num = SETTINGS(), given.num or len(given.labels) or 64
    inputs = model.conditioning_images(
        given.input, num, given.keep_top, given.num_per_input, given.seed, settings.get("size")
    )
    labels = model.labels(given.labels, num, inputs)
    images = model.sample(
        given.labels, num, given.seed, given.batch_size, inputs, given.rejection_keep,
        given.classifier, **settings,
    )  # fmt: skip
    if distributed.is_main():
        known = labels if model.generator.num_classes else None
        write_samples(out, images, known, inputs, model.class_names)
        print(f"wrote {len(images)} images to {out}")


if __name__ == "__main__":
    command_line.run(main, distributed=True)
