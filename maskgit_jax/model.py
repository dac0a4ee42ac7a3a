"""`Model`: a trained run as an object to sample, encode, edit and evaluate with."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.configuration import changed_config, require
from maskgit_jax.data.conditioning_images import ConditioningImages
from maskgit_jax.files import expand_user_paths, user_path
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.editor import Editor, EditResult
from maskgit_jax.pipelines.generator import GeneratorPipeline, collect_batches, label_number
from maskgit_jax.pipelines.inputs import open_conditioning_images, to_image, to_images, to_mask
from maskgit_jax.pipelines.step_decoder import StepDecoder
from maskgit_jax.runs.directory import Run, load_run
from maskgit_jax.runs.guide import load_guide
from maskgit_jax.training import sharding

if TYPE_CHECKING:
    from maskgit_jax.evaluation.options import EvaluationOptions
    from maskgit_jax.evaluation.report import Evaluation


class Model:
    """A trained run. Programs are compiled at their first use and reused.

    Images are accepted as arrays [H, W, C] or [N, H, W, C], uint8 or floats in [0, 1], PIL images,
    file names, or lists of these; classes as numbers or names. All errors of the user are
    `InputError`s.

    Attributes:
        run: The loaded run.
        workdir: Its directory.
        mesh: The devices.
    """

    def __init__(self, run: Run, workdir: Path, mesh: Mesh):
        self.run, self.workdir, self.mesh = run, workdir, mesh

    def __repr__(self) -> str:
        return f"<{self.config.stage} of {self.workdir} at step {self.run.step}>"

    @property
    def config(self) -> ConfigDict:
        """The resolved configuration."""
        return self.run.config

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their labels."""
        return tuple(self.config.data.class_names)

    @cached_property
    def generator(self) -> GeneratorPipeline:
        """The pipeline that samples. Raises `InputError` if the stage generates no images."""
        return GeneratorPipeline(self.run, self.mesh)

    @cached_property
    def autoencoder(self) -> AutoencoderPipeline:
        """The pipeline that encodes and decodes: of the run itself or of its tokenizer.

        Raises:
            InputError: The run has neither tokens nor latents.
        """
        return AutoencoderPipeline(self.run, self.mesh)

    @cached_property
    def editor(self) -> Editor:
        """The pipeline that edits. Raises `InputError` if the stage fills in no masked tokens."""
        return Editor(self.run, self.mesh)

    @property
    def step_decoder(self) -> StepDecoder:
        """The decoder of masked tokens step by step, with the programs of the editor."""
        return self.editor.step_decoder

    def sample(
        self,
        labels: Any = None,
        num: int | None = None,
        seed: int = 0,
        batch_size: int = 64,
        inputs: ConditioningImages | None = None,
        rejection_keep: float = 1.0,
        classifier: str = "",
        **settings: Any,
    ) -> np.ndarray:
        """Returns sampled images, uint8 [N, H, W, C].

        Args:
            labels: One class or several, by name or number; None for all classes in turn.
            num: N; labels are repeated. By default one image per label, or 64.
            seed: Random seed. Image i of a seed is the same for any N and batch size.
            batch_size: Images per batch.
            inputs: From `conditioning_images`, for completions and image-conditional models.
            rejection_keep: Share of the samples of each class to keep: those of which a
                classifier is most confident.
            classifier: File of that classifier; by default one is trained on the run's images.
            settings: Sampling settings, such as steps=8, guidance=1.0, decoder="halton".

        Raises:
            InputError: A label, setting or input cannot be used.
        """
        chosen = self.generator.settings(rejection_keep == 1, **settings)
        numbers = self.labels(labels, num, inputs)
        if rejection_keep == 1:
            batches = self.generator(numbers, seed, chosen, batch_size, conditioning=inputs)
            return collect_batches(batches, len(numbers))
        require(
            inputs is None and self.generator.num_classes > 1,
            "--rejection_keep selects among samples of classes; this run has none, or --input is "
            "given",
        )
        from maskgit_jax.pipelines import rejection  # imports what trains the classifier

        data, words = self.config.data, (rejection_keep, classifier, seed, chosen, batch_size)
        return rejection.sample_most_confident(self.generator, data, numbers, *words)

    def sample_tokens(
        self,
        labels: Any = None,
        num: int | None = None,
        seed: int = 0,
        batch_size: int = 64,
        inputs: ConditioningImages | None = None,
        **settings: Any,
    ) -> np.ndarray:
        """Returns the tokens, int32 [N, L], of the images that `sample` returns.

        Raises:
            InputError: As `sample`; or the model samples no tokens.
        """
        chosen = self.generator.settings(True, **settings)
        numbers = self.labels(labels, num, inputs)
        batches = self.generator.tokens(numbers, seed, chosen, batch_size, inputs)
        return collect_batches(batches, len(numbers))

    def labels(
        self, labels: Any, num: int | None, inputs: ConditioningImages | None = None
    ) -> list[int]:
        """Returns the class numbers of N samples; zeros for a model without classes.

        Raises:
            InputError: A label is neither a number nor a class name, or there are no classes.
        """
        return self.generator.number_labels(labels, num, inputs)

    def conditioning_images(
        self,
        place: str = "",
        num: int = 64,
        keep_top: float | None = None,
        num_per_input: int = 4,
        seed: int = 0,
        size: tuple[int, int] | None = None,
    ) -> ConditioningImages | None:
        """Returns the images that samples are generated from, see `open_conditioning_images`."""
        return open_conditioning_images(
            self.generator, self.config.data, place, num, keep_top, num_per_input, seed, size
        )

    def encode(self, images: Any) -> np.ndarray:
        """Returns tokens int32 [N, L], or latents float32 [N, Z], of images.

        Images of another size are center-cropped and resized. Raises `InputError` for an image
        that cannot be used, or a run with neither tokens nor latents.
        """
        return self.autoencoder.encode(to_images(images, self.config.data))

    def decode(self, encoded: Any) -> np.ndarray:
        """Returns images uint8 [N, H, W, C] of tokens [N, L] or latents [N, Z]; also of one.

        Raises:
            InputError: These are no tokens or latents of the run.
        """
        return self.autoencoder.decode(self.autoencoder.check(np.atleast_2d(np.asarray(encoded))))

    def reconstruct(self, images: Any) -> np.ndarray:
        """Returns the decoded encodings of images, uint8 [N, H, W, C].

        Raises:
            InputError: As `encode`.
        """
        return self.autoencoder.reconstruct(to_images(images, self.config.data))

    def write_tokens(
        self, folder: str | Path, data: str = "", batch_size: int = 64
    ) -> tuple[int, int]:
        """Writes a token dataset; returns the numbers of training and held-out images.

        Args:
            folder: The folder to write; train on it with config.data.source = "tokens:FOLDER".
            data: Images, as in `config.data.source`; by default those of the run.
            batch_size: Images per batch.

        Raises:
            InputError: The run is not a tokenizer.
        """
        from maskgit_jax.pipelines.token_dataset import write_token_dataset

        folder = Path(user_path(folder))
        return write_token_dataset(self.run, self.workdir, self.mesh, folder, data, batch_size)

    def inpaint(self, image: Any, mask: Any, **options: Any) -> EditResult:
        """Generates the masked pixels of an image of any size; see `Editor.inpaint`.

        Args:
            image: The image.
            mask: True, or white, where the image is to be generated.
            options: num, label, seed, blend, dilate, frames, and sampling settings.
        """
        image = to_image(image, self.editor.channels)
        mask = to_mask(mask, (image.shape[0], image.shape[1]))
        return self.editor.inpaint(image, mask, **self._edit_options(options))

    def outpaint(self, image: Any, **options: Any) -> EditResult:
        """Extends an image by left, right, top and bottom pixels; see `Editor.outpaint`."""
        image = to_image(image, self.editor.channels)
        return self.editor.outpaint(image, **self._edit_options(options))

    def replace(
        self, image: Any, box: tuple[int, int, int, int], label: int | str, **options: Any
    ) -> EditResult:
        """Generates a box (top, left, height, width; not PIL's order); see `Editor.replace`."""
        image = to_image(image, self.editor.channels)
        return self.editor.replace(image, box, **self._edit_options({**options, "label": label}))

    def variations(self, image: Any, keep: float = 0.5, **options: Any) -> EditResult:
        """Keeps a random share of the tokens and generates the others; see `Editor.variations`."""
        image = to_image(image, self.editor.channels)
        return self.editor.variations(image, keep, **self._edit_options(options))

    def interpolate(self, image: Any, other: Any, **options: Any) -> EditResult:
        """Interpolates between two images; see `Editor.interpolate`."""
        channels, options = self.editor.channels, self._edit_options(options)
        first, second = to_image(image, channels), to_image(other, channels)
        return self.editor.interpolate(first, second, **options)

    def _edit_options(self, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("label") is None:
            return {name: value for name, value in options.items() if name != "label"}
        return {**options, "label": label_number(options["label"], self.class_names)}

    def latent_walks(
        self, mode: str = "interpolations", rows: int = 8, seed: int = 0, batch_size: int = 64
    ) -> np.ndarray:
        """Returns images uint8 [rows, columns, H, W, C] of walks through continuous latents.

        Args:
            mode: "interpolations" or "traversals", see `maskgit_jax.pipelines.latents`.
            rows: Number of walks.
            seed: Selects the held-out images.
            batch_size: Images per batch.

        Raises:
            InputError: The model has no continuous latents.
        """
        from maskgit_jax.pipelines.latents import latent_walks

        return latent_walks(self.run, self.mesh, mode, rows, seed, batch_size)

    def evaluate(
        self,
        num: int | None = None,
        data: str = "",
        seed: int = 0,
        features: Sequence[str] = ("classifier",),
        batch_size: int = 128,
        **settings: Any,
    ) -> dict[str, float]:
        """Returns the metrics of the model on held-out images: name -> value.

        Samples and statistics are kept in the run directory, so that an interrupted evaluation
        continues where it stopped. `python -m maskgit_jax.evaluate` has more options.

        Args:
            num: Number of samples; by default that of the training images, at most 50,000.
            data: Real images, as in `config.data.source`; by default those of the run.
            seed: Random seed of the samples.
            features: Feature networks: "classifier", "efficientnet", "inception:FILE".
            batch_size: Images per batch.
            settings: Sampling settings.

        Raises:
            InputError: The run cannot be evaluated in this way.
        """
        from maskgit_jax.evaluation.evaluate import evaluation_options

        options = evaluation_options(self.mesh, features=features, batch_size=batch_size)
        evaluation = self.evaluation(options, num, data, seed, **settings)
        return {metric.name: metric.value for metric in evaluation.metrics}

    def evaluation(
        self,
        options: "EvaluationOptions",
        num: int | None = None,
        data: str = "",
        seed: int = 0,
        **settings: Any,
    ) -> "Evaluation":
        """Returns the metrics of `evaluate` with their protocols and reference values.

        Args:
            options: From `maskgit_jax.evaluation.evaluate.evaluation_options`.
            num: See `evaluate`, also for errors.
            data: See `evaluate`.
            seed: See `evaluate`.
            settings: Sampling settings.
        """
        from maskgit_jax.evaluation.evaluate import evaluate_loaded

        return evaluate_loaded(
            self.run, self.workdir, options, data=data, num=num, seed=seed, settings=settings
        )

    def search_sampling(self, names: Sequence[str], **options: Any) -> dict[str, Any]:
        """Returns the best sampling settings, and makes them the defaults of the run directory.

        Args:
            names: Settings to search, such as "steps" and "temperature".
            options: num, seed, features, batch_size, metric, nfe, candidates and write, see
                `maskgit_jax.evaluation.sampling_search.search_loaded`.

        Raises:
            InputError: A setting cannot be searched, or the run is in training.
        """
        from maskgit_jax.evaluation.sampling_search import search_loaded

        return search_loaded(self.run, self.workdir, self.mesh, names, **options)


def load(
    path: str | Path,
    checkpoint: str = "latest",
    mesh: Mesh | None = None,
    data: str = "",
    guide: str = "",
) -> Model:
    """Loads a trained run.

    Args:
        path: The run directory.
        checkpoint: "latest", or the step of a checkpoint.
        mesh: The devices; all by default.
        data: Images, as in `config.data.source`, if those of the run are elsewhere.
        guide: RUN or RUN@STEP, whose logits guidance uses in place of those without class.

    Raises:
        InputError: There is no run, its checkpoint is damaged, or the guide does not fit.
    """
    mesh, path = mesh or sharding.all_devices(), Path(user_path(path))
    run = load_run(path, mesh, checkpoint)
    run = load_guide(run, user_path(guide), mesh) if guide else run
    with run.config.unlocked():
        run.config.data.source = data or run.config.data.source
    return Model(run, path, mesh)


def load_foreign(
    tokenizer: str | Path,
    generator: str | Path = "",
    workdir: str | Path = "",
    format: str = "auto",
    image_size: int = 0,
) -> Model:
    """Writes a run with published weights of another project, and loads it; see `import_run`."""
    from maskgit_jax.runs.foreign import import_run  # loading and sampling need none of this

    return load(import_run(tokenizer, generator, workdir, format, image_size))


def fit(
    config: ConfigDict | str,
    workdir: str | Path = "",
    allow_change: Sequence[str] = (),
    **changes: Any,
) -> Model:
    """Trains a run, or resumes it, and loads the result.

    Args:
        config: A configuration, or the name of one, such as "vqgan:digits".
        workdir: The run directory; by default runs/STAGE-PRESET.
        allow_change: More keys that may differ from the resumed run, see docs/training.md.
        changes: Changed keys, with "__" for ".": training__num_steps=100; or
            **{"training.num_steps": 100}.

    Raises:
        InputError: The configuration, the data or the run directory do not fit together.
    """
    from maskgit_jax.runs.fit import fit as train  # imports what only training needs

    config = changed_config(config, changes)
    expand_user_paths(config)
    return load(train(config, user_path(workdir), allow_change))
