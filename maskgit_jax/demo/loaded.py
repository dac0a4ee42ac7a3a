"""A run in memory: what clients are to know of it, its programs, and what warms them up."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.cropping import center_crop
from maskgit_jax.data.sources import open_image_sources
from maskgit_jax.demo.settings import describe_settings
from maskgit_jax.demo.uploads import MAX_BYTES, MAX_MEGAPIXELS
from maskgit_jax.model import Model
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.editor import Editor, EditResult
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.stage import LatentModel, Tokenizer

Say = Callable[[str], None]
MAX_NUM = 64
SIZES = (1, 4, 16)
"""Numbers of images that programs are compiled for; others are padded to one of them."""


def padded_size(num: int) -> int:
    """Returns the number of images of a program that generates `num`; the largest for more."""
    return next((size for size in SIZES if size >= num), SIZES[-1])


class LoadedRun:
    """A loaded run with its compiled programs.

    Args:
        model: The run.
        say: Is called with what is being compiled.
    """

    def __init__(self, model: Model, say: Say):
        self.model, self.config = model, model.config
        self.generator = self._pipeline(GeneratorPipeline)
        if self.generator is not None and self.generator.generator.needs:
            self.generator = None  # it needs condition images
        self.editor: Editor | None = self._pipeline(Editor)
        self.autoencoder: AutoencoderPipeline | None = self._pipeline(AutoencoderPipeline)
        exports: Any = model.run.stage.exports
        if "tokenizer" in model.run.stages:
            exports = model.run.stages["tokenizer"].exports
        self.tokenizer = exports if isinstance(exports, Tokenizer) else None
        self.latents = exports if isinstance(exports, LatentModel) else None
        say("opening the held-out images")
        self.held_out, self.no_held_out = self._open_held_out()
        self.description = self._describe()
        self._warm_up(say)

    def _pipeline(self, kind: Callable) -> Any:
        try:
            return kind(self.model.run, self.model.mesh)
        except InputError:
            return None

    def _open_held_out(self) -> tuple[Any, str]:
        try:
            return open_image_sources(self.config.data).evaluation, ""
        except InputError as error:
            return (), f"{error}"

    def _describe(self) -> dict[str, Any]:
        """Returns the members of the answer to GET /api/runs/NAME that loading tells."""
        data, grids = self.config.data, self.tokenizer.grids if self.tokenizer else ()
        generator = self.generator.generator if self.generator else None
        has_classes = generator is not None and generator.num_classes > 1
        codes = self.tokenizer.codebook_size if self.tokenizer else 0
        tabs = {
            "generate": generator is not None,
            "edit": self.editor is not None,
            "watch": self.editor is not None,
            "encode": self.autoencoder is not None,
        }
        num_tokens = sum(height * width for height, width in grids)
        return {
            "step": self.model.run.step,
            "image_size": data.image_size,
            "channels": data.channels,
            "classes": list(data.class_names) if has_classes else [],
            "null_label": generator is not None and generator.null_label is not None,
            "grids": [list(grid) for grid in grids],
            "patch": data.image_size // grids[-1][0] if grids else 0,
            "codebook_size": codes,
            "held_out": len(self.held_out),
            "tabs": [name for name, is_offered in tabs.items() if is_offered],
            "settings": describe_settings(generator, num_tokens, codes) if generator else [],
            "limits": {
                "upload_bytes": MAX_BYTES,
                "megapixels": MAX_MEGAPIXELS,
                "num": MAX_NUM,
            },
        }

    def held_out_image(self, index: int) -> np.ndarray:
        """Returns a held-out image as the run saw it, uint8 [H, W, C].

        Raises:
            InputError: There is no such image.
        """
        count = len(self.held_out)
        require(count > 0, "the held-out images of this run are not on this machine")
        require(0 <= index < count, f"held-out image {index} is out of range, 0 to {count - 1}")
        return center_crop(self.held_out[index]["image"], self.config.data.image_size)

    def generate(self, labels: Sequence[int | None], seed: int, settings: Any) -> Any:
        """Yields batches of images uint8 [B, H, W, C] of the labels."""
        assert self.generator is not None
        size = padded_size(len(labels))
        padded = [labels[i % len(labels)] for i in range(-(-len(labels) // size) * size)]
        left = len(labels)
        for batch in self.generator(padded, seed, settings, size):
            yield batch[:left]
            left -= len(batch)

    def _warm_up(self, say: Say) -> None:
        if self.autoencoder is not None:
            say("compiling the encoder and the decoder")
            size, channels = self.config.data.image_size, self.config.data.channels
            self.autoencoder.decode(
                self.autoencoder.encode(np.zeros((1, size, size, channels), np.uint8))
            )
        if self.generator is not None:
            for number in SIZES[:2]:
                say(f"compiling the generation of {number} image{'s' * (number > 1)}")
                list(self.generate([0] * number, 0, None))

    def edit(self, method: str, *images: np.ndarray, settings: Any, **options: Any) -> EditResult:
        """Returns what a method of the editor returns; `settings` is a settings object."""
        own = self.editor.generator.settings
        changed = {
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(own)
            if getattr(settings, field.name) != getattr(own, field.name)
        }
        return getattr(self.editor, method)(*images, **options, **changed)
