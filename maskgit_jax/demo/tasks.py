"""The tasks of jobs: what a request must hold, and what is done with a loaded run."""

from collections.abc import Callable
from typing import Any

import numpy as np

from maskgit_jax.autoencoders.latent_paths import interpolate_latents
from maskgit_jax.configuration import require
from maskgit_jax.demo.edits import EDITS
from maskgit_jax.demo.fields import LARGEST_SEED, Fields, check_label, shown
from maskgit_jax.demo.loaded import MAX_NUM, LoadedRun
from maskgit_jax.demo.menu import Menu, MenuRun
from maskgit_jax.demo.progress import Progress
from maskgit_jax.demo.request import MAX_COLUMNS, Request, Work, open_stored
from maskgit_jax.demo.settings import read_settings
from maskgit_jax.demo.store import ImageStore
from maskgit_jax.pipelines.inputs import to_images
from maskgit_jax.stage import split_levels

MAX_TRACED = 4  # images with their tokens in each event


def read_job(values: Any, menu: Menu, images: ImageStore) -> tuple[MenuRun, Work]:
    """Returns the run that a request needs, and the function that does what it asks for.

    Raises:
        InputError: A member is missing, unknown, of the wrong type or out of range, or the run
            cannot do this.
    """
    fields = Fields(values)
    run, task = menu.find(fields.text("run")), fields.text("task")
    description = run.described()
    require(task in TASKS, f"there is no task {shown(task)}; there are: {', '.join(TASKS)}")
    tab, read = TASKS[task]
    require(
        tab in description["tabs"],
        f"stage '{run.stage}' of this run cannot do task '{task}'; choose another run",
    )
    settings = fields.take("settings", {})
    request = Request(
        description,
        fields,
        images,
        fields.integer("seed", 0, LARGEST_SEED, 0),
        fields.integer("num", 1, MAX_NUM, 1),
        fields.label(len(description["classes"])),
        read_settings(run.generator, settings) if run.generator else None,
        fields.boolean("trace"),
    )
    require(
        not request.trace or request.num <= MAX_TRACED,
        f"num is {request.num}; with trace it is at most {MAX_TRACED}",
    )
    work = read(request)
    fields.end()
    return run, work


def _generate(request: Request) -> Work:
    labels = request.fields.take("labels", [])
    require(
        isinstance(labels, list) and len(labels) <= MAX_NUM,
        f"labels must be a list of at most {MAX_NUM} classes",
    )
    num_classes, settings = len(request.description["classes"]), request.settings
    checked = [check_label("a label", label, num_classes) for label in labels]
    checked = checked or list(range(num_classes)) or [None]
    require(
        request.description["null_label"] or not num_classes or None not in checked,
        "this run was trained with classes only; give the class of each image",
    )
    if not num_classes and not request.description["null_label"]:
        checked = [0]
    chosen = [checked[i % len(checked)] for i in range(request.num)]

    def work(loaded: LoadedRun, progress: Progress) -> dict[str, Any]:
        def on_batch(done: int) -> None:
            progress.say(f"{done} of {len(chosen)} images")

        loaded.prepare(request.num, settings, progress.say)
        on_step = loaded.editor and progress.steps(loaded.editor.step_decoder.images, request.trace)
        images = loaded.generate(chosen, request.seed, settings, on_step, on_batch)
        return {"images": progress.store(images), "seed": request.seed}

    return work


def _resume(request: Request) -> Work:
    request.require_label()
    (rows, columns), codes = request.description["grids"][0], request.description["codebook_size"]
    fields, length = request.fields, rows * columns
    tokens = fields.integers("tokens", length, -1, codes - 1)
    mask, locked = (fields.integers(name, length, 0, 1) for name in ("mask", "locked"))
    percent = fields.integers("confidence", length, 0, 100, [100] * length)
    state = [np.asarray(values).reshape(rows, columns) for values in (tokens, mask, locked)]
    rounded = np.maximum(np.asarray(percent, np.float32), 0.25)  # 0 is anything below 0.5
    confidence = rounded.reshape(rows, columns) / 100

    def work(loaded: LoadedRun, progress: Progress) -> dict[str, Any]:
        assert loaded.editor is not None
        loaded.prepare(request.num, request.settings, progress.say)
        decoder = loaded.editor.step_decoder
        filled = decoder.resume(
            state[0], state[1] > 0, state[2] > 0, request.label, request.seed, request.settings,
            progress.steps(decoder.images, request.trace), request.num, confidence,
        )  # fmt: skip
        return {"images": progress.store(decoder.images(filled)), "seed": request.seed}

    return work


def _encode(request: Request) -> Work:
    stored = request.image("image")

    def work(loaded: LoadedRun, progress: Progress) -> dict[str, Any]:
        image = to_images(open_stored(stored, request.description["channels"]), loaded.config.data)
        encoded: Any = loaded.encode(image)
        reconstruction = loaded.decode(encoded)
        grids = loaded.tokenizer.grids if loaded.tokenizer else None
        tokens = grids and [level[0].ravel().tolist() for level in split_levels(encoded, grids)]
        return {
            "images": progress.store(np.concatenate([reconstruction, image])),
            "psnr": psnr(image, reconstruction),
            "tokens": tokens,
            "seed": request.seed,
        }

    return work


def psnr(image: np.ndarray, reconstruction: np.ndarray) -> float | None:
    """Returns the peak signal-to-noise ratio of uint8 images in dB, None of identical images."""
    error = np.mean((image.astype(np.float64) - reconstruction) ** 2)
    return round(float(10 * np.log10(255**2 / error)), 2) if error else None


def _interpolate(request: Request) -> Work:
    if "edit" in request.description["tabs"]:
        request.require_label()
    stored, other = request.image("image"), request.image("other")
    columns = request.fields.integer("columns", 2, MAX_COLUMNS, 8)
    channels, settings = request.description["channels"], request.settings
    seed = request.seed

    def work(loaded: LoadedRun, progress: Progress) -> dict[str, Any]:
        ends = [open_stored(each, channels) for each in (stored, other)]
        ends = to_images(ends, loaded.config.data)
        if loaded.editor is not None:
            loaded.prepare(columns, settings, progress.say)
            images = loaded.edit(
                "interpolate", *ends, columns=columns, label=request.label, seed=seed,
                settings=settings,
                on_step=progress.steps(loaded.editor.step_decoder.images, False),
            ).images  # fmt: skip
        else:
            images = _walk(loaded, ends, columns, seed)
        return {"images": progress.store(images), "seed": seed}

    return work


def _walk(loaded: LoadedRun, ends: np.ndarray, columns: int, seed: int) -> np.ndarray:
    """Returns images between two: of linear latents, or of tokens that change one by one."""
    encoded: Any = loaded.encode(ends)
    if loaded.latents is not None:
        between = np.asarray(interpolate_latents(encoded[:1], encoded[1:], columns))[0]
    else:
        between = walk_tokens(encoded, columns, seed)
    return loaded.decode(between)


def walk_tokens(ends: np.ndarray, columns: int, seed: int) -> np.ndarray:
    """Returns tokens [columns, L] from one image to another, which change in a random order.

    Args:
        ends: Tokens of the two images, [2, L].
        columns: Number of images, both included.
        seed: Of the order.
    """
    order = np.random.default_rng(seed).permutation(ends.shape[1])
    changed = np.round(np.linspace(0, ends.shape[1], columns))[:, None]
    return np.where(order[None] < changed, ends[1], ends[0])


TASKS: dict[str, tuple[str, Callable[[Request], Work]]] = {
    "generate": ("generate", _generate),
    **{name: ("edit", read) for name, read in EDITS.items()},
    "interpolate": ("encode", _interpolate),
    "encode": ("encode", _encode),
    "resume": ("watch", _resume),
}
"""Task -> the tab that has it, and the function that reads its members."""
