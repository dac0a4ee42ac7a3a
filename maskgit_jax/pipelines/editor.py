"""Editing: pictures of any size, of which a finished generator makes a part anew."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, Batch, Key, normalize, to_uint8
from maskgit_jax.configuration import InputError, base_config, require
from maskgit_jax.decoding.regions import box_token_mask, next_window, token_mask
from maskgit_jax.images import fill_masked_with_nearest
from maskgit_jax.pipelines.autoencoder import run_padded
from maskgit_jax.pipelines.canvas import (
    Box,
    Size,
    add_border,
    blend,
    check_box,
    check_mask,
    resize_images,
    resize_mask,
    working_size,
)
from maskgit_jax.pipelines.generator import GeneratorPipeline, check_labels
from maskgit_jax.runs.directory import Run, load_run
from maskgit_jax.stage import Tokenizer, Variables
from maskgit_jax.training import sharding

VEIL = 0.65  # how much of a masked patch a picture of the way there hides


class EditResult(NamedTuple):
    """What an edit made.

    Attributes:
        images: uint8 [N, H, W, C], the candidates.
        mask: Pixels that were made, bool [H, W].
        frames: Every decoding step, uint8 [T, N, h, w, C] in the generator's resolution, what is
            masked veiled in grey; None if it was not asked for.
    """

    images: np.ndarray
    mask: np.ndarray
    frames: np.ndarray | None


class Editor:
    """Fills in, extends, replaces and varies parts of pictures with a finished MaskGIT.

    A picture is uint8 [H, W, C], C as the run has it, of any size: it is edited in a resolution in
    which its shorter side is the run's image size, window after window where it is larger, and
    what was made is scaled back. Pixels that are not to be made stay exactly as they are.

    All methods take `num`, how many candidates are made; `label`, the class (by default "no
    class", where the run knows that); `seed`; `frames`, whether every step is kept; `seam`, how
    many pixels what was made takes to come out of what was there (by default half a token's
    patch); and decoding settings by name, such as steps=12, decoder="halton".

    Args:
        run: Of a stage that fills in tokens.
        mesh: Devices.

    Raises:
        InputError: The run's stage cannot fill in tokens.
    """

    def __init__(self, run: Run, mesh: Mesh):
        self.run, self._images = run, GeneratorPipeline(run, mesh)
        generator = self._images.generator
        require(
            generator.fill is not None and not generator.needs,
            f"this run holds stage '{run.config.stage}'"
            + (", which makes images from others" if generator.needs else "")
            + "; editing needs a MaskGIT of classes, a run of configs/maskgit.py or "
            "configs/token_critic.py",
        )
        tokenizer = run.stages["tokenizer"].exports
        if not isinstance(tokenizer, Tokenizer):
            raise InputError("the run's tokenizer is none")
        self.generator, self.mesh = generator, mesh
        self.image_size, self.channels = run.config.data.image_size, run.config.data.channels
        self.window = tokenizer.grids[0]
        self.patch = self.image_size // self.window[0]

        def encode(variables: Variables, image: Array) -> Array:
            return tokenizer.encode_map(variables.frozen["tokenizer"], normalize(image))

        def draw(tokenizer_variables: Variables, tokens: Array) -> Array:
            return to_uint8(tokenizer.decode_map(tokenizer_variables, tokens))

        def fill(variables: Variables, batch: Batch, key: Key, settings: Any) -> tuple[Array, Any]:
            tokens, mask = batch["tokens"], batch["mask"]
            return generator.fill(variables, batch, tokens, mask, key, settings)

        whole = sharding.replicated(mesh)
        self._encode = sharding.pjit(encode, mesh, out_shardings=whole)
        self._draw = sharding.pjit(draw, mesh, out_shardings=whole)
        self._fill = sharding.pjit(fill, mesh, static_argnums=3, out_shardings=whole)

    def inpaint(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        grow: int = 0,
        **options: Any,
    ) -> EditResult:
        """Makes the pixels of `mask`, bool [H, W], anew.

        Args:
            image: uint8 [H, W, C].
            mask: True where the picture is to be made.
            grow: Tokens around the mask whose surroundings it touches and that are drawn anew
                too, in a ring of this width; their pixels outside of the mask stay.
            options: See the class.

        Raises:
            InputError: Nothing is to be made, or nothing is to be kept, or sizes differ.
        """
        self._check(image)
        require(
            mask.shape == image.shape[:2],
            f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels and the image "
            f"{image.shape[1]}x{image.shape[0]}; bring them to one size",
        )
        require(grow >= 0, f"grow is {grow}; it is a number of tokens, 0 or more")
        check_mask(mask)
        return self._made(image, mask.astype(bool), self._scale(image), None, grow, **options)

    def outpaint(
        self,
        image: np.ndarray,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        **options: Any,
    ) -> EditResult:
        """Extends a picture by pixels on each side, as far as you like.

        Raises:
            InputError: A number is negative, or nothing is to be added.
        """
        self._check(image)
        larger, mask = add_border(image, left, right, top, bottom)
        return self._made(larger, mask, self._scale(image), **options)

    def replace(self, image: np.ndarray, box: Box, label: int, **options: Any) -> EditResult:
        """Makes a box, and a token more on each side, anew as class `label`.

        Raises:
            InputError: The box reaches outside of the image.

        Source: google-research/maskgit, class-conditional image editing.
        """
        self._check(image)
        check_box(box, image.shape[:2])
        scale = self._scale(image)
        height, width = self._working_size(image, scale)
        ratios = (height / image.shape[0], width / image.shape[1]) * 2
        scaled = tuple(round(side * ratio) for side, ratio in zip(box, ratios, strict=True))
        tokens = box_token_mask(scaled, (height // self.patch, width // self.patch), self.patch)
        pixels = tokens.repeat(self.patch, axis=0).repeat(self.patch, axis=1)
        mask = resize_mask(pixels, image.shape[:2])
        return self._made(image, mask, scale, tokens, label=label, **options)

    def variations(self, image: np.ndarray, keep: float = 0.5, **options: Any) -> EditResult:
        """Keeps a random share of the tokens and makes the others anew, other ones each time.

        Raises:
            InputError: The share is not between 0 and 1.
        """
        self._check(image)
        require(0 < keep < 1, f"keep is {keep}; it is a share of the tokens, above 0 and below 1")
        tokens = self._tokens(image, self._scale(image))
        num, rng = options.get("num", 1), np.random.default_rng(options.get("seed", 0))
        order = rng.random((num, tokens.size)).argsort(axis=1).argsort(axis=1)
        mask = (order < max(1, round((1 - keep) * tokens.size))).reshape(num, *tokens.shape)
        same = np.repeat(tokens[None], num, axis=0)
        images, frames = self._renewed(image, same, mask, **options)
        return EditResult(images, np.ones(image.shape[:2], bool), frames)

    def interpolate(
        self, image: np.ndarray, other: np.ndarray, columns: int = 8, made: float = 0.5,
        num: int = 1, **options: Any,
    ) -> EditResult:  # fmt: skip
        """Goes from one picture to another, in `images` [num * columns, H, W, C], row by row.

        At share a of the way each token is the first picture's, the second's, or made anew: of
        each a random share, the same tokens in all columns, so that a token changes once.

        Args:
            image: uint8 [H, W, C].
            other: Of the same size.
            columns: Steps from one to the other, the two included.
            made: Share of the tokens that is made anew in the middle; none at both ends.
            num: Ways there.
            options: See the class.

        Raises:
            InputError: Sizes differ, or a number is out of range.
        """
        self._check(image)
        require(
            other.shape == image.shape,
            f"the pictures are {image.shape[1]}x{image.shape[0]} and "
            f"{other.shape[1]}x{other.shape[0]} pixels; bring them to one size",
        )
        require(columns >= 2, f"columns is {columns}; at least 2 are needed")
        require(0 <= made < 1, f"made is {made}; it is a share of the tokens, at least 0, below 1")
        scale = self._scale(image)
        first, second = self._tokens(image, scale), self._tokens(other, scale)
        places = np.random.default_rng(options.get("seed", 0)).random((num, 1, *first.shape))
        way = np.linspace(0.0, 1.0, columns)[None, :, None, None]
        share = made * 4 * way * (1 - way)
        low, high = way * (1 - share), way + share * (1 - way)
        tokens = np.where(places < low, second, first)
        mask = (places >= low) & (places < high)
        shape = (num * columns, *first.shape)
        images, frames = self._renewed(
            image, tokens.reshape(shape), mask.reshape(shape), num=num * columns, **options
        )
        return EditResult(images, np.ones(image.shape[:2], bool), frames)

    def _check(self, image: np.ndarray) -> None:
        require(
            image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == self.channels,
            f"a picture is uint8 [H, W, {self.channels}] here, not {image.dtype} "
            f"{list(image.shape)}",
        )

    def _scale(self, image: np.ndarray) -> float:
        return self.image_size / min(image.shape[:2])

    def _working_size(self, image: np.ndarray, scale: float) -> Size:
        return working_size(image.shape[:2], scale, self.patch, self.image_size)

    def _tokens(self, image: np.ndarray, scale: float) -> np.ndarray:
        """Returns the token map int32 [h, w] of a picture in its working size."""
        scaled = resize_images(image[None], self._working_size(image, scale))
        return np.array(self._encode(self._images.variables, scaled)[0])

    def _made(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        scale: float,
        tokens_hidden: np.ndarray | None = None,
        grow: int = 0,
        num: int = 1,
        seam: float | None = None,
        **options: Any,
    ) -> EditResult:
        known = fill_masked_with_nearest(image, mask)
        tokens = self._tokens(known, scale)
        if tokens_hidden is None:
            pixels = resize_mask(mask, self._working_size(image, scale))
            tokens_hidden = np.asarray(token_mask(pixels[None], (tokens.shape,)))[0]
            tokens_hidden = _grown(tokens_hidden.reshape(tokens.shape), grow)
        same = [np.repeat(one[None], num, axis=0) for one in (tokens, tokens_hidden)]
        made, frames = self._renewed(image, *same, num=num, **options)
        seam = self.patch / scale / 2 if seam is None else seam
        require(seam >= 0, f"seam is {seam}; it is a number of pixels, 0 or more")
        return EditResult(blend(known, made, mask, seam), mask, frames)

    def _renewed(
        self, image: np.ndarray, tokens: np.ndarray, mask: np.ndarray, **options: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns what `_filled` makes of the maps, as pictures of the image's size."""
        filled, frames = self._filled(tokens, mask, **options)
        return resize_images(self._drawn(filled), image.shape[:2]), frames

    def _filled(
        self,
        tokens: np.ndarray,
        mask: np.ndarray,
        num: int = 1,
        label: int | None = None,
        seed: int = 0,
        frames: bool = False,
        **settings: Any,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns token maps [N, h, w] without masked ones, and pictures of the way there."""
        require(num >= 1, f"num is {num}; it is the number of candidates, at least 1")
        chosen, label = self._images.settings(**settings), self._label(label)
        size = sharding.round_up_to_shards(num, self.mesh)
        round_up_to_shards = np.arange(size) % num
        tokens, mask = tokens[round_up_to_shards], mask[round_up_to_shards]
        labels, root, shown, number = np.full(size, label, np.int32), jax.random.key(seed), [], 0
        while mask.any():
            top, left = next_window(mask.any(axis=0), self.window)
            rows, columns = slice(top, top + self.window[0]), slice(left, left + self.window[1])
            inside = (slice(None), rows, columns)
            wanted = {
                "tokens": tokens[inside].reshape(size, -1),
                "mask": mask[inside].reshape(size, -1),
                "label": labels,
            }
            key = jax.random.fold_in(root, number)
            batch = sharding.put_batch(wanted, self.mesh)
            made, way = self._fill(self._images.variables, batch, key, chosen)
            if frames:
                shown.append(self._shown(tokens, mask, inside, way, num))
            tokens[inside] = np.asarray(made).reshape(size, *self.window)
            mask[inside] = False
            number += 1
        pictures = None
        if frames:
            last = self._drawn(tokens[:num])[None]
            pictures = np.concatenate([*shown, last])
        return tokens[:num], pictures

    def _label(self, label: int | None) -> int:
        generator = self.generator
        known = self.run.config.data.num_classes > 1
        if label is not None:
            require(
                known,
                "this run knows no classes, so it cannot make one; leave out the label",
            )
            check_labels([label], generator.num_classes)
            return label
        if generator.null_label is not None:
            return generator.null_label
        require(
            not known,
            "this run was trained with classes only (config.losses.label_dropout_rate is 0); say "
            f"which of its {generator.num_classes} classes the image is of by a label",
        )
        return 0

    def _drawn(self, tokens: np.ndarray) -> np.ndarray:
        """Returns pictures uint8 [N, H, W, C] of token maps [N, h, w]."""
        variables = self._images.variables.frozen["tokenizer"]
        return run_padded(self._draw, variables, tokens, self.mesh)

    def _shown(
        self, tokens: np.ndarray, mask: np.ndarray, inside: tuple, way: Any, num: int
    ) -> np.ndarray:
        """Returns a picture of each step of one window, uint8 [T, N, h, w, C]."""
        pictures = []
        for drawn, left in zip(np.asarray(way.tokens), np.asarray(way.mask), strict=True):
            now, veiled = tokens.copy(), mask.copy()
            now[inside] = drawn.reshape(len(drawn), *self.window)
            veiled[inside] = left.reshape(len(left), *self.window)
            picture = self._drawn(now[:num]).astype(np.float32)
            veil = veiled[:num].repeat(self.patch, axis=1).repeat(self.patch, axis=2)[..., None]
            picture = np.where(veil, (1 - VEIL) * picture + VEIL * 127.5, picture)
            pictures.append(picture.round().astype(np.uint8))
        return np.stack(pictures)


def _grown(mask: np.ndarray, tokens: int) -> np.ndarray:
    """Returns the mask [h, w] and all places that are at most so many rows and columns away."""
    padded = np.pad(mask, tokens)
    around = (2 * tokens + 1, 2 * tokens + 1)
    return np.lib.stride_tricks.sliding_window_view(padded, around).any(axis=(2, 3))


def load(workdir: str | Path, checkpoint: str = "latest", mesh: Mesh | None = None) -> Editor:
    """Returns the editor of a finished MaskGIT.

    Args:
        workdir: Its run directory.
        checkpoint: A step, or "latest".
        mesh: Devices; by default all that there are.

    Raises:
        InputError: There is no such run, or it cannot edit.
    """
    mesh = mesh or sharding.make_mesh(base_config().mesh)
    return Editor(load_run(workdir, mesh, checkpoint), mesh)
