"""Editing of images of any size with a trained MaskGIT: parts are masked and generated again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, Batch, Key, normalize, to_uint8
from maskgit_jax.configuration import check_seed, require
from maskgit_jax.decoding.regions import box_token_mask, next_window, token_mask
from maskgit_jax.decoding.sampling import image_keys, random_key
from maskgit_jax.images import fill_masked_with_nearest
from maskgit_jax.pipelines.autoencoder import run_padded
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
from maskgit_jax.pipelines.generator import GeneratorPipeline, check_labels, require_finite
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import Variables
from maskgit_jax.training import sharding

MASK_OPACITY = 0.65  # of the grey that covers masked patches in frames


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
    if the run was trained with it); `seed`; `frames`, whether every decoding step is kept; and
    sampling settings by name, such as steps=12 or decoder="halton". `inpaint`, `outpaint` and
    `replace` take blend="official" too, see `canvas.BLENDS`.

    Args:
        run: A run of configs/maskgit.py or configs/token_critic.py.
        mesh: The devices.

    Raises:
        InputError: The run's stage cannot fill in masked tokens.
    """

    def __init__(self, run: Run, mesh: Mesh):
        self.run, self.pipeline = run, GeneratorPipeline(run, mesh)
        generator = self.pipeline.generator
        require(
            generator.fill is not None and not generator.needs,
            f"this run holds stage '{run.config.stage}'"
            + (", which generates images from a condition" if generator.needs else "")
            + "; editing needs a class-conditional MaskGIT, a run of configs/maskgit.py or "
            "configs/token_critic.py",
        )
        tokenizer: Any = run.stages["tokenizer"].exports
        self.generator, self.mesh = generator, mesh
        self.image_size, self.channels = run.config.data.image_size, run.config.data.channels
        self.window = tokenizer.grids[0]
        self.patch = self.image_size // self.window[0]

        def encode(variables: Variables, image: Array) -> Array:
            return tokenizer.encode_map(variables.frozen["tokenizer"], normalize(image))

        def decode(tokenizer_variables: Variables, tokens: Array) -> Array:
            return to_uint8(tokenizer.decode_map(tokenizer_variables, tokens))

        def fill(variables: Variables, batch: Batch, key: Key, settings: Any) -> tuple[Array, Any]:
            assert generator.fill is not None
            keys = image_keys(key, batch["number"])
            return generator.fill(variables, batch, batch["tokens"], batch["mask"], keys, settings)

        replicated = sharding.replicated(mesh)
        self._encode = sharding.pjit(encode, mesh, out_shardings=replicated)
        self._decode = sharding.pjit(decode, mesh, out_shardings=replicated)
        self._fill = sharding.pjit(fill, mesh, static_argnums=3, out_shardings=replicated)

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
        tokens = self._tokens(image, self._scale(image))
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
        scale = self._scale(image)
        first, second = self._tokens(image, scale), self._tokens(other, scale)
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
        return working_size(image.shape[:2], scale, self.patch, self.image_size)

    def _tokens(self, image: np.ndarray, scale: float) -> np.ndarray:
        """Returns the token map int32 [h, w] of an image at its working size."""
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
        return resize_images(self._decode_maps(filled), image.shape[:2]), frames

    def _fill_tokens(
        self,
        tokens: np.ndarray,
        mask: np.ndarray,
        area: np.ndarray,
        num: int = 1,
        label: int | None = None,
        seed: int = 0,
        frames: bool = False,
        **settings: Any,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the token maps [N, h, w] with the masked ones generated, and frames.

        `area`, bool [h, w], is what the windows visit. It must not depend on the number of
        candidates, so that a candidate does not.
        """
        require(num >= 1, f"num is {num}; it is the number of candidates, at least 1")
        chosen, number = self.pipeline.settings(**settings), self._label(label)
        size = sharding.round_up_to_shards(num, self.mesh)
        padded = np.arange(size) % num
        tokens, mask = tokens[padded], mask[padded]
        labels, root = np.full(size, number, np.int32), random_key(seed)
        shown: list[np.ndarray] = []
        step, area = 0, area.copy()
        while area.any():
            top, left = next_window(area, self.window)
            rows, columns = slice(top, top + self.window[0]), slice(left, left + self.window[1])
            inside = (slice(None), rows, columns)
            inputs = {
                "tokens": tokens[inside].reshape(size, -1),
                "mask": mask[inside].reshape(size, -1),
                "label": labels,
                "number": padded.astype(np.int32),
            }
            batch = sharding.put_batch(inputs, self.mesh)
            key = jax.random.fold_in(root, step)
            filled, trajectory = self._fill(self.pipeline.variables, batch, key, chosen)
            if frames:
                shown.append(self._frames(tokens, mask, inside, trajectory, num))
            filled = np.asarray(filled)
            require_finite(filled >= 0)
            tokens[inside] = filled.reshape(size, *self.window)
            mask[inside], area[inside[1:]] = False, False
            step += 1
        tokens = tokens[:num]
        return tokens, np.concatenate([*shown, self._decode_maps(tokens)[None]]) if frames else None

    def _label(self, label: int | None) -> int:
        has_classes = self.run.config.data.num_classes > 1
        if label is not None:
            require(has_classes, "this run has no classes; remove the label")
            check_labels([label], self.generator.num_classes)
            return label
        if self.generator.null_label is not None:
            return self.generator.null_label
        require(
            not has_classes,
            "this run was trained with classes only (config.losses.label_dropout_rate is 0); give "
            f"the label of one of its {self.generator.num_classes} classes",
        )
        return 0

    def _decode_maps(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the images uint8 [N, H, W, C] of token maps [N, h, w]."""
        variables = self.pipeline.variables.frozen["tokenizer"]
        return run_padded(self._decode, variables, tokens, self.mesh)

    def _frames(
        self, tokens: np.ndarray, mask: np.ndarray, inside: tuple, trajectory: Any, num: int
    ) -> np.ndarray:
        """Returns one frame per decoding step of one window, uint8 [T, N, h, w, C]."""
        frames = []
        steps = zip(np.asarray(trajectory.tokens), np.asarray(trajectory.mask), strict=True)
        for window_tokens, window_mask in steps:
            step_tokens, step_mask = tokens.copy(), mask.copy()
            step_tokens[inside] = window_tokens.reshape(-1, *self.window)
            step_mask[inside] = window_mask.reshape(-1, *self.window)
            image = self._decode_maps(step_tokens[:num]).astype(np.float32)
            covered = step_mask[:num].repeat(self.patch, axis=1).repeat(self.patch, axis=2)
            grey = (1 - MASK_OPACITY) * image + MASK_OPACITY * 127.5
            frames.append(np.where(covered[..., None], grey, image).round().astype(np.uint8))
        return np.stack(frames)
