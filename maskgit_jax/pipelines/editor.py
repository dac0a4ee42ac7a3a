"""Editing of images of any size with a trained MaskGIT: parts are masked and generated again."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, normalize
from maskgit_jax.configuration import check_seed, require
from maskgit_jax.decoding.regions import box_token_mask, token_mask
from maskgit_jax.images import fill_masked_with_nearest
from maskgit_jax.pipelines.canvas import (
    Box,
    Size,
    add_border,
    blend_images,
    blend_membrane,
    blurred_weights,
    check_blend,
    check_box,
    check_mask,
    dilate_mask,
    resize_images,
    resize_mask,
    working_size,
)
from maskgit_jax.pipelines.step_decoder import DecodeStep, OnStep, StepDecoder
from maskgit_jax.pipelines.token_filling import draw_frame, fill_windows
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import Variables
from maskgit_jax.training import sharding


class EditResult(NamedTuple):
    """The result of an edit.

    Attributes:
        images: The candidates, uint8 [N, H, W, C].
        mask: The generated pixels, bool [H, W].
        frames: The state after every decoding step, uint8 [T, N, h, w, C] at the generator's
            resolution, masked patches covered by grey; None unless asked for.
    """

    images: np.ndarray
    mask: np.ndarray
    frames: np.ndarray | None


class Editor:
    """Inpaints, outpaints, replaces and varies parts of images with a trained MaskGIT.

    An image is uint8 [H, W, C] of any size, with the channels of the run. It is edited at a
    resolution at which its shorter side is the run's image size, window by window where it is
    larger; the generated part is scaled back. Unmasked pixels are preserved exactly.

    All methods take `num`, the number of candidates; `label`, the class ("no class" by default,
    if the run was trained with it); `seed`; `frames`, whether every decoding step is kept;
    `on_step`, which is called before the first step and after each one (see `OnStep`); and
    sampling settings by name, such as steps=12 or decoder="halton". `inpaint`, `outpaint` and
    `replace` take blend="official" too, see `canvas.BLENDS`.

    Attributes:
        step_decoder: Generates the tokens; its `images` decodes token maps.

    Args:
        run: A run of configs/maskgit.py or configs/token_critic.py.
        mesh: The devices.
        size_multiple: Images are edited at the run's size or multiples of so many tokens, so that
            few sizes exist, for each of which programs are compiled.

    Raises:
        InputError: The run's stage cannot fill in masked tokens.
    """

    def __init__(self, run: Run, mesh: Mesh, size_multiple: int = 1):
        self.run, self.step_decoder = run, StepDecoder(run, mesh)
        self.pipeline, self.patch = self.step_decoder.pipeline, self.step_decoder.patch
        self.image_size, self.channels = run.config.data.image_size, run.config.data.channels
        self._unit = self.patch * size_multiple
        tokenizer: Any = run.stages["tokenizer"].exports

        def encode(variables: Variables, image: Array) -> Array:
            return tokenizer.encode_map(variables.frozen["tokenizer"], normalize(image))

        self._encode = sharding.pjit(encode, mesh, out_shardings=sharding.replicated(mesh))

    def inpaint(
        self, image: np.ndarray, mask: np.ndarray, dilate: int = 0, **options: Any
    ) -> EditResult:
        """Generates the masked pixels of an image.

        Args:
            image: uint8 [H, W, C].
            mask: bool [H, W], True where the image is to be generated.
            dilate: Tokens by which the token mask is dilated; the unmasked pixels of these tokens
                are preserved.
            options: See the class.

        Raises:
            InputError: The mask is empty or full, or has another size than the image.
        """
        self._check(image)
        require(
            mask.shape == image.shape[:2],
            f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels and the image "
            f"{image.shape[1]}x{image.shape[0]}; bring them to one size",
        )
        require(dilate >= 0, f"dilate is {dilate}; it is a number of tokens, 0 or more")
        check_mask(mask)
        return self._generate(image, mask.astype(bool), self._scale(image), None, dilate, **options)

    def outpaint(
        self,
        image: np.ndarray,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        **options: Any,
    ) -> EditResult:
        """Extends an image by pixels on each side, as far as you like.

        Raises:
            InputError: A number is negative, or all of them are 0.
        """
        self._check(image)
        larger, mask = add_border(image, left, right, top, bottom)
        return self._generate(larger, mask, self._scale(image), **options)

    def replace(self, image: np.ndarray, box: Box, label: int, **options: Any) -> EditResult:
        """Generates a box, and one more token on each side, as class `label`.

        Args:
            image: uint8 [H, W, C].
            box: Top, left, height and width in pixels; not left, top, right and bottom as in PIL.
            label: The class.
            options: See the class.

        Raises:
            InputError: The box exceeds the image.

        Source: google-research/maskgit, class-conditional image editing.
        """
        self._check(image)
        check_box(box, image.shape[:2])
        scale = self._scale(image)
        height, width = self._working_size(image, scale)
        ratios = (height / image.shape[0], width / image.shape[1]) * 2
        top, left, rows, columns = (
            round(side * ratio) for side, ratio in zip(box, ratios, strict=True)
        )
        grid = (height // self.patch, width // self.patch)
        tokens = box_token_mask((top, left, rows, columns), grid, self.patch)
        pixels = tokens.repeat(self.patch, axis=0).repeat(self.patch, axis=1)
        mask = resize_mask(pixels, image.shape[:2])
        return self._generate(image, mask, scale, tokens, label=label, **options)

    def variations(self, image: np.ndarray, keep: float = 0.5, **options: Any) -> EditResult:
        """Keeps a random share of the tokens, different ones in each candidate.

        Raises:
            InputError: The share is not between 0 and 1.
        """
        self._check(image)
        check_seed(options.get("seed", 0))
        require(0 < keep < 1, f"keep is {keep}; it is a share of the tokens, above 0 and below 1")
        tokens = self.encode(image)
        num, rng = options.get("num", 1), np.random.default_rng(options.get("seed", 0))
        order = rng.random((num, tokens.size)).argsort(axis=1).argsort(axis=1)
        mask = (order < max(1, round((1 - keep) * tokens.size))).reshape(num, *tokens.shape)
        repeated = np.repeat(tokens[None], num, axis=0)
        area = np.ones(tokens.shape, bool)
        images, frames = self._fill_images(image, repeated, mask, area, **options)
        return EditResult(images, np.ones(image.shape[:2], bool), frames)

    def interpolate(
        self,
        image: np.ndarray,
        other: np.ndarray,
        columns: int = 8,
        resample_fraction: float = 0.5,
        num: int = 1,
        **options: Any,
    ) -> EditResult:
        """Interpolates between two images: `images` are [num * columns, H, W, C], row by row.

        At each position in between, a token is the first image's, the second's, or generated.
        Every token has one random threshold for all columns, so that it changes only once.

        Args:
            image: uint8 [H, W, C].
            other: The second image, of the same size.
            columns: Steps from one image to the other, both included.
            resample_fraction: Share of the tokens that is generated half way; 0 at both ends.
            num: Number of interpolations.
            options: See the class.

        Raises:
            InputError: Sizes differ, or a number is out of range.
        """
        self._check(image)
        require(
            other.shape == image.shape,
            f"the images are {image.shape[1]}x{image.shape[0]} and "
            f"{other.shape[1]}x{other.shape[0]} pixels; bring them to one size",
        )
        check_seed(options.get("seed", 0))
        require(columns >= 2, f"columns is {columns}; at least 2 are needed")
        require(
            0 <= resample_fraction < 1,
            f"resample_fraction is {resample_fraction}; it is a share of the tokens, at least 0 "
            "and below 1",
        )
        first, second = self.encode(image), self.encode(other)
        rng = np.random.default_rng(options.get("seed", 0))
        thresholds = rng.random((num, 1, *first.shape))
        position = np.linspace(0.0, 1.0, columns)[None, :, None, None]
        share = resample_fraction * 4 * position * (1 - position)
        low, high = position * (1 - share), position + share * (1 - position)
        tokens = np.where(thresholds < low, second, first)
        mask = (thresholds >= low) & (thresholds < high)
        shape, area = (num * columns, *first.shape), np.ones(first.shape, bool)
        images, frames = self._fill_images(
            image, tokens.reshape(shape), mask.reshape(shape), area, num=num * columns, **options
        )
        return EditResult(images, np.ones(image.shape[:2], bool), frames)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Returns the token map int32 [h, w] of an image [H, W, C] at its working size."""
        self._check(image)
        return self._tokens(image, self._scale(image))

    def _check(self, image: np.ndarray) -> None:
        require(
            image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == self.channels,
            f"an image is uint8 [H, W, {self.channels}] here, not {image.dtype} "
            f"{list(image.shape)}",
        )

    def _scale(self, image: np.ndarray) -> float:
        return self.image_size / min(image.shape[:2])

    def working_size(self, image: np.ndarray) -> Size:
        """Returns height and width at which an image [H, W, C] is edited."""
        return self._working_size(image, self._scale(image))

    def _working_size(self, image: np.ndarray, scale: float) -> Size:
        return working_size(image.shape[:2], scale, self._unit, self.image_size)

    def _tokens(self, image: np.ndarray, scale: float) -> np.ndarray:
        """Returns the token map int32 [h, w] of an image that is scaled."""
        scaled = resize_images(image[None], self._working_size(image, scale))
        return np.array(self._encode(self.pipeline.variables, scaled)[0])

    def _generate(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        scale: float,
        tokens_masked: np.ndarray | None = None,
        dilate: int = 0,
        num: int = 1,
        blend: str = "membrane",
        **options: Any,
    ) -> EditResult:
        """Generates the masked pixels; the token mask follows from them unless it is given."""
        check_blend(blend)
        size, official = self._working_size(image, scale), blend == "official"
        known = image if official else fill_masked_with_nearest(image, mask)
        tokens = self._tokens(known, scale)
        if tokens_masked is None:
            pixels = resize_mask(mask, size)
            masked = np.asarray(token_mask(jnp.asarray(pixels[None]), (tokens.shape,)))
            tokens_masked = dilate_mask(masked.reshape(tokens.shape), dilate)
        candidates, masks = (
            np.repeat(array[None], num, axis=0) for array in (tokens, tokens_masked)
        )
        generated, frames = self._fill_images(
            image, candidates, masks, tokens_masked, num=num, **options
        )
        if official:
            radius = max(0, self.image_size // 16 - 1)
            weight = blurred_weights(tokens_masked, size, radius, image.shape[:2])
            return EditResult(blend_images(image, generated, weight), weight > 0, frames)
        return EditResult(blend_membrane(image, generated, mask), mask, frames)

    def _fill_images(
        self,
        image: np.ndarray,
        tokens: np.ndarray,
        mask: np.ndarray,
        area: np.ndarray,
        **options: Any,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the decoded token maps of `_fill_tokens` at the size of the image, and frames."""
        filled, frames = self._fill_tokens(tokens, mask, area, **options)
        return resize_images(self.step_decoder.images(filled), image.shape[:2]), frames

    def _fill_tokens(
        self,
        tokens: np.ndarray,
        mask: np.ndarray,
        area: np.ndarray,
        num: int = 1,
        label: int | None = None,
        seed: int = 0,
        frames: bool = False,
        on_step: OnStep | None = None,
        **settings: Any,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the token maps [N, h, w] of `fill_windows`, and frames."""
        require(num >= 1, f"num is {num}; it is the number of candidates, at least 1")
        decoder, chosen = self.step_decoder, self.pipeline.settings(**settings)
        shown: list[np.ndarray] = []

        def record(step: DecodeStep) -> None:
            if frames and (step.window, step.step) > (0, chosen.start_step):
                shown.append(draw_frame(decoder, step))
            if on_step is not None:
                on_step(step)

        number, report = decoder.label_number(label), record if frames or on_step else None
        filled = fill_windows(decoder, tokens, mask, area, number, seed, chosen, report)
        return filled, np.stack([*shown, decoder.images(filled)]) if frames else None
