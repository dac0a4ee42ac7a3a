"""Decoding of masked tokens step by step: it can be watched, stopped, and continued."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, Batch, Key, to_uint8
from maskgit_jax.configuration import InputError, require
from maskgit_jax.decoding.parallel import MaskedTokens, StepPlan, plan
from maskgit_jax.decoding.sampling import image_keys, random_key
from maskgit_jax.decoding.settings import DecodeSettings, split_step_settings
from maskgit_jax.pipelines.autoencoder import run_padded
from maskgit_jax.pipelines.generator import GeneratorPipeline, check_labels, require_finite
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import Variables
from maskgit_jax.training import sharding

BATCH_SIZES = (1, 4, 16, 64)
"""Numbers of images for which programs are compiled."""


class DecodeStep(NamedTuple):
    """The state of N token maps during decoding, arrays of the host.

    Attributes:
        step: Number of steps done: t. The first state of a decoding is the one before any step.
        steps: T.
        window: Number of the window that is being generated, from 0.
        windows: Number of windows: more than 1 in images larger than those of the run.
        tokens: The whole token maps, int32 [N, h, w]; where masked, what was last sampled.
        mask: Masked tokens, bool [N, h, w].
        confidence: Probability of each token when it was last sampled or rescored, float32
            [N, h, w]; 1 of known tokens and 0 of masked ones.
    """

    step: int
    steps: int
    window: int
    windows: int
    tokens: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray


OnStep = Callable[[DecodeStep], None]
"""Called before the first step and after each one. If it raises, decoding stops there."""


class StepDecoder:
    """Generates tokens with a masked token prior by a program of one step.

    One compiled program serves all steps, numbers of steps, schedules, temperatures, seeds, labels
    and masks. Others are compiled for another decoder, top-k, top-p or schedule of guidance, for
    temperature 0 and guidance 0, for the numbers of images in `BATCH_SIZES`, and for each size of
    token maps.

    Attributes:
        pipeline: The pipeline that samples whole images, and makes and checks settings.
        grid: Rows and columns (h, w) of the token maps of the run.
        patch: Side of a token's patch in pixels.
        compiled: The programs of a step that are compiled, see `programs`.

    Args:
        run: A run of configs/maskgit.py or configs/token_critic.py.
        mesh: The devices.

    Raises:
        InputError: The run's stage does not generate masked tokens, or generates from conditions.
    """

    def __init__(self, run: Run, mesh: Mesh):
        self.pipeline, self.mesh = GeneratorPipeline(run, mesh), mesh
        generator = self.pipeline.generator
        fill_step = generator.fill_step
        if fill_step is None or generator.needs:
            raise InputError(
                f"this run holds stage '{run.config.stage}'"
                + (", which generates images from a condition" if generator.needs else "")
                + "; editing and decoding step by step need a class-conditional MaskGIT, a run of "
                "configs/maskgit.py or configs/token_critic.py"
            )
        tokenizer: Any = run.stages["tokenizer"].exports
        self.grid: tuple[int, int] = tokenizer.grids[0]
        self.patch = run.config.data.image_size // self.grid[0]
        self._codebook_size: int = tokenizer.codebook_size
        self._has_classes = run.config.data.num_classes > 1

        def step(
            variables: Variables,
            batch: Batch,
            state: MaskedTokens,
            step: StepPlan,
            key: Key,
            settings: DecodeSettings,
            traced: dict[str, Any],
        ) -> MaskedTokens:
            keys = image_keys(key, batch["number"])
            settings = dataclasses.replace(settings, **traced)
            return fill_step(variables, batch, state, batch["editable"], keys, step, settings)

        def decode(tokenizer_variables: Variables, tokens: Array) -> Array:
            return to_uint8(tokenizer.decode_map(tokenizer_variables, tokens))

        self.compiled: set[tuple[DecodeSettings, int]] = set()
        rows = sharding.batch_sharding(mesh)
        self.program = sharding.pjit(step, mesh, static_argnums=5, out_shardings=rows)
        self._decode = sharding.pjit(decode, mesh, out_shardings=sharding.replicated(mesh))

    def generate(
        self,
        labels: Sequence[int | None],
        seed: int = 0,
        settings: DecodeSettings | None = None,
        on_step: OnStep | None = None,
    ) -> np.ndarray:
        """Returns the token maps int32 [N, h, w] of images of these labels.

        They are those of `GeneratorPipeline.tokens`, bit for bit up to the rounding of sums.

        Args:
            labels: Classes; None is "no class", if the generator was trained with it.
            seed: Random seed: image i depends on it, on i and on its label.
            settings: From `pipeline.settings`; the run's own by default.
            on_step: See `OnStep`.

        Raises:
            InputError: A label is out of range.
        """
        require(len(labels) > 0, "no label is given; give one for each image")
        numbers = self.pipeline.label_numbers(labels)
        chosen: DecodeSettings = settings or self.pipeline.generator.settings
        size, patch = chosen.size, self.patch
        grid = self.grid if size is None else (size[0] // patch, size[1] // patch)
        chosen = self._with_grid(chosen, grid)
        mask = np.ones((len(numbers), *grid), bool)
        tokens, confidence = np.zeros(mask.shape, np.int32), np.full(mask.shape, np.inf, np.float32)
        state = MaskedTokens(tokens, mask, confidence)
        steps = plan(mask.sum(axis=(1, 2)), chosen)
        report = _state_reporter(on_step, chosen)
        return self.fill(state, mask, numbers, random_key(seed), chosen, steps, report)

    def resume(
        self,
        tokens: np.ndarray,
        mask: np.ndarray,
        locked: np.ndarray,
        label: int | None = None,
        seed: int = 0,
        settings: DecodeSettings | None = None,
        on_step: OnStep | None = None,
        num: int = 1,
        confidence: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the token maps int32 [N, h, w] of decodings that go on from a state.

        Masked tokens are generated. Accepted ones stay, unless the decoder is one that masks or
        samples them again. Locked ones never change.

        The steps are those of a decoding of all tokens that are not locked, from the last step t
        before which at least as many of them are masked as now.

        Args:
            tokens: The token map, int [h, w]; any value where masked.
            mask: Masked tokens, bool [h, w].
            locked: Tokens that never change, bool [h, w]; none of them is masked.
            label: The class; by default "no class".
            seed: Random seed. Image i draws the random numbers that image i of `generate` draws
                in step t with this seed. So with the seed of a decoding, image 0 of it that is
                stopped goes on as if it had not been; with another seed, it goes another way.
            settings: From `pipeline.settings`; the run's own by default. The size is ignored.
            on_step: See `OnStep`.
            num: N, the number of images.
            confidence: Of the tokens, as in `DecodeStep`, float [h, w]; by default 1. Used by
                decoders that revise accepted tokens by their confidence.

        Raises:
            InputError: The state is not one of the run, no token is masked, or the label is out
                of range.
        """
        require(num >= 1, f"num is {num}; it is the number of candidates, at least 1")
        mask, locked = np.asarray(mask, bool), np.asarray(locked, bool)
        self._check_state(tokens, mask, locked)
        settings = self._with_grid(settings or self.pipeline.generator.settings, tokens.shape)
        self.pipeline.generator.check_settings(settings)
        state, editable = _start_state(tokens, mask, locked, confidence, num)
        steps = _remaining_steps(int(editable[0].sum()), int(mask.sum()), settings)
        labels, key = np.full(num, self.label_number(label), np.int32), random_key(seed)
        report = _state_reporter(on_step, settings)
        return self.fill(state, editable, labels, key, settings, steps, report)

    def fill(
        self,
        state: MaskedTokens,
        editable: np.ndarray,
        labels: np.ndarray,
        key: Key,
        settings: DecodeSettings,
        steps: StepPlan,
        on_state: Callable[[int, MaskedTokens], None] | None = None,
    ) -> np.ndarray:
        """Returns the token maps int32 [N, h, w] after the steps of a plan.

        Args:
            state: The state before them, arrays [N, h, w] of the host.
            editable: Tokens that may change, bool [N, h, w].
            labels: Class numbers, int32 [N].
            key: The key of the seed.
            settings: Checked settings; their `size` is that of the token maps.
            steps: From `decoding.parallel.plan`, for each image or for one like all.
            on_state: Called with the number of steps done and the state.
        """
        num, shape = len(labels), state.tokens.shape
        static, traced = split_step_settings(settings)
        counts = (np.broadcast_to(x, (len(x), num)) for x in steps[-2:])
        steps, rows = StepPlan(*steps[:-2], *counts), list(batch_rows(num, self.mesh))
        inputs = {"label": labels, "number": np.arange(num, dtype=np.int32)}
        maps = {"editable": editable, **state._asdict()}
        inputs |= {name: values.reshape(num, -1) for name, values in maps.items()}
        batches, states = [], []
        for chosen, _ in rows:
            own = {name: values[chosen] for name, values in inputs.items()}
            batch = sharding.put_batch(own, self.mesh)
            states.append(MaskedTokens(*(batch.pop(name) for name in MaskedTokens._fields)))
            batches.append(batch)

        def on_host() -> MaskedTokens:
            padded = zip(jax.device_get(states), rows, strict=True)
            own = zip(*([x[:count] for x in each] for each, (_, count) in padded), strict=True)
            state = MaskedTokens(*(np.concatenate(parts).reshape(shape) for parts in own))
            require_finite(state.tokens >= 0)
            return state

        for index, number in enumerate(steps.step):
            if on_state is not None:
                on_state(int(number), on_host())
            for i, (chosen, _) in enumerate(rows):
                step = StepPlan(*(x[index] if x.ndim == 1 else x[index, chosen] for x in steps))
                given = (self.pipeline.variables, batches[i], states[i], step, key, static, traced)
                states[i] = self.program(*given)
                self.compiled.add((static, len(chosen)))
        filled = on_host()
        if on_state is not None:
            on_state(settings.steps, filled)
        return filled.tokens

    def images(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the images uint8 [N, H, W, C] of token maps int32 [N, h, w] of any size."""
        variables = self.pipeline.variables.frozen["tokenizer"]
        batches = [
            run_padded(self._decode, variables, tokens[rows], self.mesh)[:count]
            for rows, count in batch_rows(len(tokens), self.mesh)
        ]
        return np.concatenate(batches)

    def programs(
        self, num: int, settings: DecodeSettings, grid: tuple[int, int] | None = None
    ) -> set[tuple[DecodeSettings, int]]:
        """Returns the programs of a step that N token maps need; those in `compiled` exist.

        Args:
            num: N.
            settings: From `pipeline.settings`.
            grid: Rows and columns of the token maps; by default those of the run. Editing generates
                windows of that size.
        """
        static, _ = split_step_settings(self._with_grid(settings, grid or self.grid))
        return {(static, len(rows)) for rows, _ in batch_rows(num, self.mesh)}

    def clear_programs(self) -> None:
        """Frees the memory of all compiled programs; they are compiled again when needed."""
        for program in (self.program, self._decode):
            program.clear_cache()  # pyright: ignore[reportFunctionMemberAccess]
        self.compiled.clear()

    def label_number(self, label: int | None) -> int:
        """Returns the number of a class, or that of "no class".

        Raises:
            InputError: There is no such class, or the run has none.
        """
        generator = self.pipeline.generator
        if label is not None:
            require(self._has_classes, "this run has no classes; remove the label")
            check_labels([label], generator.num_classes)
            return label
        if generator.null_label is not None:
            return generator.null_label
        require(
            not self._has_classes,
            "this run was trained with classes only (config.losses.label_dropout_rate is 0); give "
            f"the label of one of its {generator.num_classes} classes",
        )
        return 0

    def _with_grid(self, settings: DecodeSettings, grid: tuple[int, ...]) -> DecodeSettings:
        """Returns settings with the size of images of so many rows and columns of tokens."""
        size = None if grid == self.grid else (grid[0] * self.patch, grid[1] * self.patch)
        return dataclasses.replace(settings, size=size)

    def _check_state(self, tokens: np.ndarray, mask: np.ndarray, locked: np.ndarray) -> None:
        require(
            tokens.ndim == 2 and tokens.shape == mask.shape == locked.shape,
            f"tokens are {list(tokens.shape)}, mask is {list(mask.shape)} and locked is "
            f"{list(locked.shape)}; give three maps [rows, columns] of one size",
        )
        require(
            bool(mask.any()),
            "no token is masked; take some tokens back, so that they are generated",
        )
        require(not (mask & locked).any(), "a masked token is locked; only known tokens can be")
        codes, known = self._codebook_size, tokens[~mask]
        require(
            bool(((known >= 0) & (known < codes)).all()),
            f"a token is out of range; this run has the codes 0 to {codes - 1}",
        )


def _start_state(
    tokens: np.ndarray,
    mask: np.ndarray,
    locked: np.ndarray,
    confidence: np.ndarray | None,
    num: int,
) -> tuple[MaskedTokens, np.ndarray]:
    """Returns the state and the editable tokens, arrays [N, h, w], of `StepDecoder.resume`."""
    tokens = np.where(mask, 0, tokens).astype(np.int32)
    known = np.where(mask, 1.0, 1.0 if confidence is None else confidence)
    log_p = np.where(locked, np.inf, np.log(np.clip(known, 1e-30, 1.0))).astype(np.float32)
    state = (MaskedTokens(tokens, mask, log_p), ~locked)
    return jax.tree.map(lambda x: np.repeat(x[None], num, axis=0), state)


def _remaining_steps(num_editable: int, num_masked: int, settings: DecodeSettings) -> StepPlan:
    """Returns the plan of the steps from the last one before which so many tokens are masked."""
    steps = plan(np.asarray([num_editable]), settings)
    before = np.asarray([num_editable, *steps.num_masked[:-1, 0]])
    first = np.nonzero(before >= num_masked)[0][-1]
    return StepPlan(*(values[first:] for values in steps))


def _state_reporter(
    on_step: OnStep | None, settings: DecodeSettings
) -> Callable[[int, MaskedTokens], None] | None:
    """Returns the `on_state` of `StepDecoder.fill` that calls `on_step`."""
    return on_step and (lambda step, state: on_step(decode_step(step, settings.steps, state)))


def decode_step(
    step: int, steps: int, state: MaskedTokens, window: int = 0, windows: int = 1
) -> DecodeStep:
    """Returns a state of the host, [N, h, w], as `DecodeStep`."""
    confidence = np.where(state.mask, 0.0, np.exp(np.minimum(state.confidence, 0.0)))
    confidence = confidence.astype(np.float32)
    return DecodeStep(step, steps, window, windows, state.tokens, state.mask, confidence)


def batch_rows(num: int, mesh: Mesh) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the rows of batches of N images, padded with some of them again, and their number.

    Sizes are those of `BATCH_SIZES`, rounded up to the devices; at least three quarters of a batch
    larger than the smallest are not padding.
    """
    sizes = sorted({sharding.round_up_to_shards(size, mesh) for size in BATCH_SIZES})
    first = 0
    while first < num:
        fitting = [size for size in sizes if 3 * size <= 4 * (num - first)]
        size = max(fitting, default=sizes[0])
        rows = np.arange(first, min(first + size, num), dtype=np.int32)
        yield np.resize(rows, size), len(rows)
        first += size
