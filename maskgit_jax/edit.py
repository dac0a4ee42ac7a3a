"""Edits pictures with a MaskGIT: `python -m maskgit_jax.edit COMMAND --workdir=RUN --image=FILE`.

Commands
    inpaint --mask=FILE            fills what is white in the mask
    outpaint --right=64            adds pixels on sides (--left, --right, --top, --bottom)
    replace --box=TOP,LEFT,HEIGHT,WIDTH --label=NAME    makes a box anew as another class
    variations --keep=0.5          keeps a random share of the tokens
    interpolate --other=FILE       goes from one picture to another
Pictures may have any size and mode; `held_out:3` is the run's held-out image number 3. Writes a
PNG: the picture and its candidates; with --num=1 the candidate alone, in full size.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from maskgit_jax import command_line
from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.sources import image_data, open_sources
from maskgit_jax.data.transforms import center_crop
from maskgit_jax.images import read_image, to_pil, write_animation, write_image_grid
from maskgit_jax.pipelines.canvas import read_mask
from maskgit_jax.pipelines.editor import Editor, EditResult, load
from maskgit_jax.pipelines.generator import label_number
from maskgit_jax.runs.directory import Run

COMMANDS = ("inpaint", "outpaint", "replace", "variations", "interpolate")
OWN_FLAGS = {
    "inpaint": ("mask", "grow", "seam"),
    "outpaint": ("left", "right", "top", "bottom", "seam"),
    "replace": ("box", "seam"),
    "variations": ("keep",),
    "interpolate": ("other", "columns", "made"),
}
WORKDIR = flags.DEFINE_string("workdir", "runs/maskgit-digits", "Run of a MaskGIT or its critic.")
IMAGE = flags.DEFINE_string("image", "", "Picture to edit: a file, or held_out:NUMBER.")
OTHER = flags.DEFINE_string("other", None, "Picture to end with: a file, or held_out:NUMBER.")
MASK = flags.DEFINE_string("mask", None, "Picture of the same size: white is to be filled.")
GROW = flags.DEFINE_integer("grow", None, "Tokens around the mask to draw anew too; default 0.")
BOX = flags.DEFINE_list("box", None, "top,left,height,width in pixels.")
for side in ("left", "right", "top", "bottom"):
    flags.DEFINE_integer(side, None, "Pixels to add on this side.")
KEEP = flags.DEFINE_float("keep", None, "Share of the tokens that stay; default 0.5.")
COLUMNS = flags.DEFINE_integer("columns", None, "Steps from one picture to the other; default 8.")
MADE = flags.DEFINE_float("made", None, "Share of the tokens made anew half way; default 0.5.")
LABEL = flags.DEFINE_string("label", None, "Class, number or name; default: none, where the run "
                            "knows that.")  # fmt: skip
NUM = flags.DEFINE_integer("num", 4, "Candidates.", lower_bound=1)
SEAM = flags.DEFINE_float("seam", None, "Pixels over which what is made fades in; default half a "
                          "patch of a token.")  # fmt: skip
DECODING = command_line.define_sampling_flags()
SEED = flags.DEFINE_integer("seed", 0, "Of the random key.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Step of the checkpoint.")
OUT = flags.DEFINE_string("out", "edited.png", "PNG to write.")
TRAJECTORY = flags.DEFINE_string("trajectory", "", "Animated GIF of every decoding step.")


def open_picture(place: str, run: Run) -> np.ndarray:
    """Returns uint8 [H, W, C] of a file, or of a held-out image as the run saw it.

    Raises:
        InputError: There is no such picture.
    """
    data = image_data(run.config.data)
    kind, _, number = place.partition(":")
    if kind != "held_out":
        require(bool(place), "no picture is given; name a file, or held_out:NUMBER, by --image")
        return read_image(place, data.channels)
    source = open_sources(data).evaluation
    require(
        number.isdigit() and int(number) < len(source),
        f"'{place}' is no held-out image; there are held_out:0 to held_out:{len(source) - 1}",
    )
    return center_crop(source[int(number)]["image"], data.image_size)


def own_flags(command: str) -> dict[str, Any]:
    """Returns the flags that were given and say something to the command.

    Raises:
        InputError: A flag of another command was given.
    """
    values = {name: flags.FLAGS[name].value for names in OWN_FLAGS.values() for name in names}
    given = {name: value for name, value in values.items() if value is not None}
    useless = [name for name in given if name not in OWN_FLAGS[command]]
    if useless:
        raise InputError(f"--{useless[0]} says nothing to '{command}'; leave it out")
    if "box" in given:
        given["box"] = command_line.numbers("box", 4, int)
    return given


def edited(
    editor: Editor, command: str, image: np.ndarray, given: dict[str, Any], **options: Any
) -> EditResult:
    """Returns what a command makes of a picture.

    Raises:
        InputError: Something that the command needs is missing.
    """

    def needed(name: str, what: str) -> Any:
        if name not in given:
            raise InputError(f"'{command}' needs {what}: --{name}")
        return given.pop(name)

    if command == "inpaint":
        mask = read_mask(needed("mask", "a picture that is white where to fill"), image.shape[:2])
        return editor.inpaint(image, mask, **given, **options)
    if command == "replace":
        box = needed("box", "top,left,height,width in pixels")
        require("label" in options, "'replace' needs the class of what is to be made: --label")
        return editor.replace(image, box, **given, **options)
    if command == "interpolate":
        other = open_picture(needed("other", "a second picture"), editor.run)
        return editor.interpolate(image, other, **given, **options)
    return getattr(editor, command)(image, **given, **options)


def write(path: Path, image: np.ndarray, made: EditResult, columns: int | None) -> None:
    """Writes the candidates beside the picture, or a single one alone."""
    images = made.images
    if columns:
        write_image_grid(path, images.reshape(-1, columns, *images.shape[1:]))
    elif len(images) == 1:
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil(images[0]).save(path)
    else:
        shown = np.full_like(images[:1], 127)  # a border that was added begins grey
        if image.shape == images.shape[1:]:
            shown[0] = image
        else:
            rows, cols = np.nonzero(~made.mask)
            shown[0, rows.min() : rows.max() + 1, cols.min() : cols.max() + 1] = image
        write_image_grid(path, np.concatenate([shown, images])[None])


def main(command: str) -> None:
    """Edits what the flags say."""
    out, given = Path(OUT.value), own_flags(command)
    require(out.suffix == ".png", f"--out is {out}; it must end in .png")
    require(
        not TRAJECTORY.value or TRAJECTORY.value.endswith(".gif"),
        f"--trajectory is {TRAJECTORY.value}; it must end in .gif",
    )
    editor = load(WORKDIR.value, CHECKPOINT.value)
    image = open_picture(IMAGE.value, editor.run)
    options = {"num": NUM.value, "seed": SEED.value, "frames": bool(TRAJECTORY.value)}
    if LABEL.value is not None:
        names = editor.run.config.data.class_names
        options["label"] = label_number(LABEL.value, names)
    made = edited(editor, command, image, given, **options, **DECODING())
    columns = len(made.images) // NUM.value if command == "interpolate" else None
    write(out, image, made, columns)
    print(f"wrote {NUM.value} to {out}")
    if made.frames is not None:
        write_animation(Path(TRAJECTORY.value), made.frames)
        print(f"wrote {len(made.frames)} frames to {TRAJECTORY.value}")


if __name__ == "__main__":
    command_line.run(main, COMMANDS)
