"""Edits images with a MaskGIT: `python -m maskgit_jax.edit COMMAND --workdir=RUN --image=FILE`.

Commands
    inpaint --mask=FILE                                 generates the white part of the mask
    outpaint --right=64                                 extends (--left, --right, --top, --bottom)
    replace --box=TOP,LEFT,HEIGHT,WIDTH --label=NAME    generates a box as another class
    variations --keep=0.5                               keeps a random share of the tokens
    interpolate --other=FILE                            interpolates between two images
Images may have any size and mode; `held_out:3` is the run's held-out image number 3. Writes a PNG
with the image and its candidates, or with --num=1 the candidate alone at full size.
"""

from pathlib import Path
from typing import Any

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.configuration import InputError, require
from maskgit_jax.images import write_animation
from maskgit_jax.model import load
from maskgit_jax.pipelines.inputs import open_image
from maskgit_jax.pipelines.outputs import write_candidates

FLAGS_OF = {
    "inpaint": ("mask", "dilate", "feather"),
    "outpaint": ("left", "right", "top", "bottom", "feather"),
    "replace": ("box", "feather"),
    "variations": ("keep",),
    "interpolate": ("other", "columns", "resample_fraction"),
}
REQUIRED = {
    "inpaint": ["mask"],
    "outpaint": [],
    "replace": ["box", "label"],
    "variations": [],
    "interpolate": ["other"],
}
WORKDIR = flags.DEFINE_string("workdir", "runs/maskgit-digits", "Run of a MaskGIT or its critic.")
IMAGE = flags.DEFINE_string("image", "", "Image to edit: a file, or held_out:NUMBER.")
flags.DEFINE_string("other", None, "Second image of interpolate: a file, or held_out:NUMBER.")
flags.DEFINE_string("mask", None, "Image of the same size, white where to generate.")
flags.DEFINE_integer("dilate", None, "Tokens by which the mask is dilated; default 0.")
flags.DEFINE_list("box", None, "top,left,height,width in pixels.")
for side in ("left", "right", "top", "bottom"):
    flags.DEFINE_integer(side, None, "Number of pixels to add on this side.")
flags.DEFINE_float("keep", None, "Share of the tokens that variations keeps; default 0.5.")
flags.DEFINE_integer("columns", None, "Steps from one image to the other; default 8.")
flags.DEFINE_float("resample_fraction", None, "Share of tokens generated half way; default 0.5.")
flags.DEFINE_float(
    "feather",
    None,
    "Number of pixels, inside the mask, over which the result is blended in; unmasked pixels are "
    "preserved exactly. Default: half a token's patch.",
)
LABEL = flags.DEFINE_string("label", None, "Class to generate, by number or name; default: none.")
NUM = flags.DEFINE_integer("num", 4, "Number of candidates.", lower_bound=1)
SETTINGS = command_line.define_sampling_flags()
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Step of the checkpoint, or latest.")
OUT = flags.DEFINE_string("out", "edited.png", "PNG file to write.")
TRAJECTORY = flags.DEFINE_string("trajectory", "", "GIF file to write: every decoding step.")


def command_options(command: str) -> dict[str, Any]:
    """Returns the options of a command that were given.

    Raises:
        InputError: A flag has no effect on the command, or one that it needs is missing.
    """
    names = {name for names in FLAGS_OF.values() for name in names}
    given = {name: flags.FLAGS[name].value for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    unused = sorted(set(given) - set(FLAGS_OF[command]))
    if unused:
        raise InputError(f"--{unused[0]} has no effect on '{command}'; remove it")
    missing = [name for name in REQUIRED[command] if flags.FLAGS[name].value is None]
    if missing:
        raise InputError(f"'{command}' needs --{missing[0]}: {flags.FLAGS[missing[0]].help}")
    if "box" in given:
        given["box"] = command_line.numbers("box", 4, int)
    return given


def main(command: str) -> None:
    """Edits the image that the flags describe."""
    out, options = Path(OUT.value), command_options(command)
    require(out.suffix == ".png", f"--out is {out}; it must end in .png")
    require(
        not TRAJECTORY.value or TRAJECTORY.value.endswith(".gif"),
        f"--trajectory is {TRAJECTORY.value}; it must end in .gif",
    )
    model = load(WORKDIR.value, CHECKPOINT.value)
    image = open_image(IMAGE.value, model.config.data)
    if "other" in options:
        options["other"] = open_image(options["other"], model.config.data)
    options |= {"num": NUM.value, "seed": SEED.value, "frames": bool(TRAJECTORY.value)}
    edit = getattr(model, command)
    result = edit(image, **options, label=LABEL.value, **SETTINGS())
    columns = len(result.images) // NUM.value if command == "interpolate" else None
    write_candidates(out, image, result, columns)
    print(f"wrote {NUM.value} to {out}")
    if result.frames is not None:
        write_animation(Path(TRAJECTORY.value), result.frames)
        print(f"wrote {len(result.frames)} frames to {TRAJECTORY.value}")


if __name__ == "__main__":
    command_line.run(main, tuple(FLAGS_OF))
