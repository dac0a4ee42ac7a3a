"""A run in memory: what clients are to know of it, its programs, and what warms them up."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.settings import split_traced
from maskgit_jax.demo.codebook import describe_codebook
from maskgit_jax.demo.held_out import HeldOut
from maskgit_jax.demo.settings import describe_settings
from maskgit_jax.demo.uploads import MAX_BYTES, MAX_MEGAPIXELS
from maskgit_jax.model import Model
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.editor import Editor, EditResult
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.pipelines.step_decoder import OnStep
from maskgit_jax.stage import LatentModel, Tokenizer

Say = Callable[[str], None]
MAX_NUM = 64
SIZES = (1, 4, 16)
"""Numbers of images that programs are compiled for at the start."""
BATCH_SIZES = (1, 4, 16)
"""Of generators without decoding steps, which are cancelled between batches."""
MAX_PROGRAMS = 48  # of other settings and sizes; each takes memory


class SizeKey(NamedTuple):
    """The programs that encode and decode token maps of a size."""

    grid: tuple[int, int]
    num: int


class LoadedRun:
    """A loaded run with its compiled programs.

    Args:
        model: The run.
        say: Is called with what is being compiled.
    """

    def __init__(self, model: Model, say: Say):
        self.model, self.config = model, model.config
        exports: Any = model.run.stage.exports
        if "tokenizer" in model.run.stages:
            exports = model.run.stages["tokenizer"].exports
        self.tokenizer = exports if isinstance(exports, Tokenizer) else None
        self.latents = exports if isinstance(exports, LatentModel) else None
        self.size_multiple = max(1, min(self.tokenizer.grids[0]) // 4) if self.tokenizer else 1
        self._open_pipelines()
        self.autoencoder: AutoencoderPipeline | None = self._pipeline(AutoencoderPipeline)
        say("opening the held-out images")
        self.held_out = HeldOut(self.config.data)
        self.description = self._describe()
        self._warm_up(say)

    def _open_pipelines(self) -> None:
        """Makes the pipelines whose programs depend on settings, without any program."""
        self._compiled: set[Hashable] = set()
        self.editor: Editor | None = self._pipeline(Editor, self.size_multiple)
        self.generator: GeneratorPipeline | None = (
            self.editor.pipeline if self.editor else self._pipeline(GeneratorPipeline)
        )
        if self.generator is not None and self.generator.generator.needs:
            self.generator = None  # clients cannot give condition images

    def _pipeline(self, kind: Callable, *options: Any) -> Any:
        """Returns a pipeline, None if the run cannot do this."""
        try:
            return kind(self.model.run, self.model.mesh, *options)
        except InputError:
            return None

    def _describe(self) -> dict[str, Any]:
        """Returns the members of the answer to GET /api/runs/NAME that follow from the run."""
        data, grids = self.config.data, self.tokenizer.grids if self.tokenizer else ()
        generator = self.generator and self.generator.generator
        has_classes = generator is not None and generator.num_classes > 1
        codes = self.tokenizer.codebook_size if self.tokenizer else 0
        num_tokens = sum(height * width for height, width in grids)
        tabs = {
            "generate": generator is not None,
            "edit": self.editor is not None,
            "watch": self.editor is not None,
            "encode": self.autoencoder is not None,
        }
        return {
            "step": self.model.run.step,
            "image_size": data.image_size,
            "channels": data.channels,
            "classes": list(data.class_names) if has_classes else [],
            "null_label": generator is not None and generator.null_label is not None,
            "grids": [list(grid) for grid in grids],
            "patch": data.image_size // grids[-1][0] if grids else 0,
            "size_multiple": self.size_multiple,
            "codebook_size": codes,
            "held_out": len(self.held_out),
            "tabs": [name for name, is_offered in tabs.items() if is_offered],
            "settings": describe_settings(generator, num_tokens, codes) if generator else [],
            "limits": {"upload_bytes": MAX_BYTES, "megapixels": MAX_MEGAPIXELS, "num": MAX_NUM},
        }

    def prepare(
        self, num: int, settings: Any, say: Say, grid: tuple[int, int] | None = None
    ) -> None:
        """Says whether a job compiles programs, and frees the old ones if they are too many.

        Args:
            num: Number of images.
            settings: The sampling settings.
            say: Is called with what is being compiled.
            grid: Rows and columns of the tokens of an image that is edited.
        """
        new = self._programs(num, settings, grid) - self._compiled
        if len(self._compiled) + len(new) > MAX_PROGRAMS:
            self._open_pipelines()
            new = self._programs(num, settings, grid)
        if new:
            what, of = "the decoding step" if self.editor else "the generator", "and these settings"
            if grid is not None and all(isinstance(key, SizeKey) for key in new):
                what, of = "the encoder and the decoder", f"of {grid[1]}x{grid[0]} tokens"
            say(f"compiling {what} for {num} image{'s' * (num > 1)} {of}")
        self._compiled |= new

    def _programs(self, num: int, settings: Any, grid: tuple[int, int] | None) -> set[Hashable]:
        """Returns keys of the programs that a job needs."""
        if self.editor is None:
            return {(split_traced(settings)[0], _batch_size(num))}
        decoder = self.editor.step_decoder
        steps = decoder.programs(num, settings)
        return {*steps, *(SizeKey(grid or decoder.grid, size) for _, size in steps)}

    def generate(
        self,
        labels: Sequence[int | None],
        seed: int,
        settings: Any = None,
        on_step: OnStep | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Returns images uint8 [N, H, W, C] of the labels.

        Args:
            labels: Class numbers; None for no class.
            seed: The random seed.
            settings: The sampling settings; by default those of the run.
            on_step: Called at each step of a masked token prior.
            on_batch: Called with the number of images that other generators have done.
        """
        if self.editor is not None:
            decoder = self.editor.step_decoder
            return decoder.images(decoder.generate(labels, seed, settings, on_step))
        assert self.generator is not None
        size = _batch_size(len(labels))
        padded = [labels[i % len(labels)] for i in range(-(-len(labels) // size) * size)]
        batches: list[np.ndarray] = []
        for batch in self.generator(padded, seed, settings, size):
            batches.append(batch)
            if on_batch is not None:
                on_batch(min(size * len(batches), len(labels)))
        return np.concatenate(batches)[: len(labels)]

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns tokens int32 [N, L] or latents float32 [N, Z] of images of the run's size."""
        assert self.autoencoder is not None
        if self.editor is None:
            return self.autoencoder.encode(images)
        return np.stack([self.editor.encode(image).ravel() for image in images])

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """Returns the images uint8 [N, H, W, C] of tokens or latents."""
        assert self.autoencoder is not None
        if self.editor is None:
            return self.autoencoder.decode(encoded)
        decoder = self.editor.step_decoder
        return decoder.images(encoded.reshape(-1, *decoder.grid))

    def edit(self, method: str, *images: np.ndarray, settings: Any, **options: Any) -> EditResult:
        """Returns the result of a method of the editor; `settings` is a settings object."""
        names = [field.name for field in dataclasses.fields(settings)]
        changes = {name: getattr(settings, name) for name in names}
        return getattr(self.editor, method)(*images, **options, **changes)

    @cached_property
    def codebook(self) -> dict[str, Any]:
        """Colours and nearest codes, see `describe_codebook`.

        Raises:
            InputError: The run has no codebook.
        """
        if self.tokenizer is None or self.autoencoder is None:
            raise InputError("this run has no codebook: its latents are continuous")
        size, channels = self.config.data.image_size, self.config.data.channels
        grey = self.encode(np.full((1, size, size, channels), 128, np.uint8))[0]
        variables, mesh = self.autoencoder.variables, self.model.mesh
        return describe_codebook(self.tokenizer, variables, mesh, grey)

    def _warm_up(self, say: Say) -> None:
        """Runs the programs that most requests need once, so that they are compiled."""
        size, channels = self.config.data.image_size, self.config.data.channels
        image = np.zeros((size, size, channels), np.uint8)
        if self.autoencoder is not None:
            say("compiling the encoder and the decoder")
            self.decode(self.encode(image[None]))
        if self.generator is not None:
            for number in SIZES:
                what = "the decoding step" if self.editor else "the generator"
                say(f"compiling {what} for {number} image{'s' * (number > 1)}")
                self.prepare(number, self.generator.generator.settings, lambda message: None)
                self.generate([0] * number, 0, on_step=lambda step: None)
                if self.editor is not None and number == 1:  # what blends the result is slow, too
                    label = 0 if self.description["classes"] else None
                    mask = np.arange(size)[:, None] < np.full(size, size // 2)
                    self.editor.inpaint(image, mask, label=label)


def _batch_size(num: int) -> int:
    """Returns the size of the batches in which `num` images are generated."""
    return next((size for size in BATCH_SIZES if size >= num), BATCH_SIZES[-1])
