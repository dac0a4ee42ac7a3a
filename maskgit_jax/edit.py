"""Edits images with a MaskGIT: `python -m maskgit_jax.edit COMMAND --workdir=RUN --image=FILE`.

Commands
    inpaint --mask=FILE                                 generates the white part of the mask
    outpaint --right=64                                 extends (--left, --right, --top, --bottom)
    replace --box=TOP,LEFT,HEIGHT,WIDTH --label=NAME    generates a box as another class
                                                        (not left,top,right,bottom as in PIL)
    variations --keep=0.5                               keeps a random share of the tokens
    interpolate --other=FILE                            interpolates between two images
`held_out:3` is held-out image 3. Writes the image and its candidates in one file and each candidate
in a file of its own, or a single one (--num=1).
"""

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.command_line import POSITIVE
from maskgit_jax.images import IMAGE_OUTPUTS, write_animation
from maskgit_jax.model import load
from maskgit_jax.pipelines.canvas import BOX_ORDER
from maskgit_jax.pipelines.inputs import open_image
from maskgit_jax.pipelines.outputs import write_candidates
from maskgit_jax.runs.summary import announce

SIDES = ("left", "right", "top", "bottom")
FLAGS_OF = {
    "inpaint": ("mask", "dilate", "blend"),
    "outpaint": (*SIDES, "blend"),
    "replace": ("box", "blend"),
    "variations": ("keep",),
    "interpolate": ("other", "columns", "resample_fraction"),
}
REQUIRED = {"inpaint": ["mask"], "replace": ["box", "label"], "interpolate": ["other"]}
FLAGS = (
    (str, "workdir", "runs/maskgit-digits", "Run directory of a MaskGIT or its critic."),
    (str, "image", "", "Image to edit: a file, or held_out:NUMBER."),
    (str, "other", None, "Second image of interpolate: a file, or held_out:NUMBER."),
    (str, "mask", None, "Image of the same size, white where to generate; transparent is not."),
    (str, "data", "", "Images, as in config.data.source, for held_out:NUMBER; by default those of "
     "the run."),
    (int, "dilate", None, "Tokens by which the mask is dilated; default 0."),
    (list, "box", None, BOX_ORDER),
    *((int, side, None, "Number of pixels to add on this side.") for side in SIDES),
    (float, "keep", None, "Share of the tokens that variations keeps; default 0.5."),
    (POSITIVE, "columns", None, "Steps from one image to the other; default 8."),
    (float, "resample_fraction", None, "Share of tokens generated half way; default 0.5."),
    (str, "blend", None, "membrane: unmasked pixels are preserved exactly, and the colors of the "
     "result are shifted to agree with them at the edge of the mask; or official: the encoder sees "
     "the whole image, and the result is blended in by the blurred mask, beyond its edge too; "
     "default membrane."),
    (str, "label", None, "Class to generate, by number or name; default: none."),
    (POSITIVE, "num", 4, "Number of candidates."),
    (int, "seed", 0, "Random seed."),
    (str, "checkpoint", "latest", "Step of the checkpoint, or latest."),
    (str, "out", "edited.png", "File to write, such as .png: the image and its candidates; each "
     "candidate is also written by itself, to edited-1.png, edited-2.png, ..."),
    (str, "trajectory", "", "GIF file to write: every decoding step."),
)  # fmt: skip
command_line.define_flags(FLAGS)
SETTINGS = command_line.define_sampling_flags()


def main(command: str) -> None:
    """Edits the image that the flags describe."""
    given, options = flags.FLAGS, command_line.command_options(command, FLAGS_OF, REQUIRED)
    if "box" in options:
        options["box"] = command_line.numbers("box", 4, int)
    out = command_line.output_file("out", *IMAGE_OUTPUTS)
    trajectory = command_line.output_file("trajectory", ".gif") if given.trajectory else None
    model = load(given.workdir, given.checkpoint, data=given.data, guide=given.guide)
    announce(model.run, model.workdir, out)
    image = open_image(given.image, model.config.data)
    if "other" in options:
        options["other"] = open_image(options["other"], model.config.data)
    options |= {"num": given.num, "seed": given.seed, "frames": bool(given.trajectory)}
    result = getattr(model, command)(image, **options, label=given.label, **SETTINGS())
    height, width = model.editor.working_size(image)
    if height < image.shape[0]:
        print(f"{image.shape[1]}x{image.shape[0]} is edited at {width}x{height}, the resolution of "
              "the run; the generated part is enlarged")  # fmt: skip
    columns = len(result.images) // given.num if command == "interpolate" else None
    paths = write_candidates(out, image, result, columns)
    print(f"wrote {given.num} to {', '.join(map(str, paths))}")
    if trajectory is not None and result.frames is not None:
        write_animation(trajectory, result.frames)
        print(f"wrote {len(result.frames)} frames to {trajectory}")


if __name__ == "__main__":
    command_line.run(main, tuple(FLAGS_OF))
