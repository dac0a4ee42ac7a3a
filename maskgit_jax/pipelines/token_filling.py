"""Generation of masked tokens in token maps of any size, window by window."""

from functools import partial

import jax
import numpy as np

from maskgit_jax.decoding.parallel import MaskedTokens, plan
from maskgit_jax.decoding.regions import next_window
from maskgit_jax.decoding.sampling import random_key
from maskgit_jax.decoding.settings import DecodeSettings
from maskgit_jax.pipelines.step_decoder import DecodeStep, OnStep, StepDecoder, decode_step

MASK_OPACITY = 0.65  # of the grey that covers masked patches in frames


def fill_windows(
    decoder: StepDecoder,
    tokens: np.ndarray,
    mask: np.ndarray,
    area: np.ndarray,
    label: int,
    seed: int,
    settings: DecodeSettings,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Returns the token maps int32 [N, h, w] with the masked tokens generated.

    Args:
        decoder: The decoder of a run, whose token maps are the windows.
        tokens: int32 [N, h, w]; any value where masked.
        mask: bool [N, h, w].
        area: What the windows visit, bool [h, w]. It must not depend on the number of candidates,
            so that a candidate does not.
        label: Class number.
        seed: Random seed.
        settings: Checked settings.
        on_step: See `OnStep`; the state before a window is that after the one before.
    """
    windows, root = list_windows(area, decoder.grid), random_key(seed)
    labels = np.full(len(tokens), label, np.int32)
    whole = MaskedTokens(tokens.copy(), mask.copy(), np.full(tokens.shape, np.inf, np.float32))

    def report(number: int, editable: np.ndarray, step: int, state: MaskedTokens) -> None:
        inside = (slice(None), *windows[number])
        confidence = np.where(editable, state.confidence, whole.confidence[inside])
        for values, own in zip(whole, state._replace(confidence=confidence), strict=True):
            values[inside] = own
        if on_step is not None and (number == 0 or step > settings.start_step):
            copy = MaskedTokens(*(values.copy() for values in whole))
            on_step(decode_step(step, settings.steps, copy, number, len(windows)))

    for number, window in enumerate(windows):
        inside = (slice(None), *window)
        editable = whole.mask[inside].copy()
        known = np.full(editable.shape, np.inf, np.float32)
        state = MaskedTokens(whole.tokens[inside], editable, known)
        key, steps = jax.random.fold_in(root, number), plan(editable.sum(axis=(1, 2)), settings)
        on_state = on_step and partial(report, number, editable)
        filled = decoder.fill(state, editable, labels, key, settings, steps, on_state)
        whole.tokens[inside], whole.mask[inside] = filled, False
    return whole.tokens


def list_windows(area: np.ndarray, window: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Returns the rows and columns of the windows that visit an area bool [h, w], in order."""
    left, windows = area.copy(), []
    while left.any():
        top, first = next_window(left, window)
        windows.append((slice(top, top + window[0]), slice(first, first + window[1])))
        left[windows[-1]] = False
    return windows


def draw_frame(decoder: StepDecoder, step: DecodeStep) -> np.ndarray:
    """Returns the images uint8 [N, H, W, C] of a step, masked patches covered by grey."""
    images = decoder.images(step.tokens)
    covered = step.mask.repeat(decoder.patch, axis=1).repeat(decoder.patch, axis=2)
    grey = (1 - MASK_OPACITY) * images.astype(np.float32) + MASK_OPACITY * 127.5
    return np.where(covered[..., None], grey.round().astype(np.uint8), images)
