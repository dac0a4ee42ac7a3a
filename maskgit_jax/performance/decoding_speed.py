"""Time to sample a whole token map: GPT with and without a KV cache, and MaskGIT."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key, PyTree
from maskgit_jax.decoding.autoregressive import decode_with_cache, decode_without_cache
from maskgit_jax.decoding.parallel import decode
from maskgit_jax.decoding.settings import AutoregressiveSettings, DecodeSettings
from maskgit_jax.performance.flops import count_work
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.priors.maskgit import MaskGIT
from maskgit_jax.settings import setting

UNCACHED, CACHED, MASKGIT = "GPT without KV cache", "GPT with KV cache", "MaskGIT"
MIN_TIMED_NFE = 4
"""At least so many network evaluations are timed."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of both networks, and the decoding steps of MaskGIT."""

    width: int = setting(128, "Width D of both networks.", minimum=1)
    layers: int = setting(4, "Transformer layers of both networks.", minimum=1)
    heads: int = setting(4, "Attention heads; must divide the width.", minimum=1)
    mlp_width: int = setting(512, "Hidden width of each layer's MLP.", minimum=1)
    codes: int = setting(1024, "Codebook size K.", minimum=1)
    classes: int = setting(10, "Number of classes.", minimum=1)
    steps: int = setting(8, "Decoding steps of MaskGIT.", minimum=1)


class Sampler(NamedTuple):
    """A method to sample a token map.

    Attributes:
        method: UNCACHED, CACHED or MASKGIT.
        nfe: Network evaluations of a whole map, one after another.
        params: Parameters of the network.
        sample: (params, label int32 [B], key, n) -> tokens; the first n network evaluations, each
            as large as those of a whole map.
        flops: FLOPs of one network evaluation.
        bytes_read: Bytes that one network evaluation must read at least.
    """

    method: str
    nfe: int
    params: PyTree
    sample: Callable[[PyTree, Array, Key, int], Array]
    flops: float
    bytes_read: int


class Measurement(NamedTuple):
    """The speed of a method for one grid and batch size.

    Attributes:
        method: UNCACHED, CACHED or MASKGIT.
        grid: Rows, and as many columns.
        tokens: L.
        batch_size: Maps at a time.
        nfe: Network evaluations of a whole map, one after another.
        measured: "whole", or "n of m NFE" where the seconds were scaled by m / n.
        seconds: Seconds per batch; the median of the runs, scaled.
        images_per_second: Token maps per second; no image is decoded.
        flops: FLOPs of a whole batch.
        bytes_read: Bytes that all network evaluations must read at least.
        compile_seconds: Compilation time, not included in `seconds`.
        parameters: Number of parameters.
        runs: Measured seconds of each run.
    """

    method: str
    grid: int
    tokens: int
    batch_size: int
    nfe: int
    measured: str
    seconds: float
    images_per_second: float
    flops: float
    bytes_read: int
    compile_seconds: float
    parameters: int
    runs: list[float]


def build_samplers(sizes: Sizes, grid: int, batch_size: int) -> tuple[Sampler, Sampler, Sampler]:
    """Returns the three methods for a map of grid * grid tokens, with random weights."""
    tokens = jax.ShapeDtypeStruct((batch_size, grid * grid), jnp.int32)
    label = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    shape: dict[str, Any] = dict(
        width=sizes.width, num_layers=sizes.layers, num_heads=sizes.heads,
        mlp_width=sizes.mlp_width, remat=False,
    )  # fmt: skip
    gpt = GPT(sizes.codes, sizes.classes, (grid, grid), **shape)
    maskgit = MaskGIT(sizes.codes, sizes.classes, grid * grid, norm="pre", **shape)
    some, one = jnp.zeros((1, grid * grid), jnp.int32), jnp.zeros(1, jnp.int32)
    params = jax.jit(gpt.init)(jax.random.key(0), some, one)

    def init(key: Key) -> PyTree:
        return maskgit.init(key, some, some == 0, one, False)

    return (
        _gpt_without_cache(gpt, params, tokens, label),
        _gpt_with_cache(gpt, params, label),
        _maskgit(maskgit, jax.jit(init)(jax.random.key(0)), sizes.steps, grid, tokens, label),
    )


def _all_masked(label: Array, length: int) -> tuple[Array, Array]:
    """Returns tokens [B, L] and the mask [B, L] that is True everywhere."""
    shape = (len(label), length)
    return jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool)


def _num_bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _gpt_without_cache(gpt: GPT, params: PyTree, tokens: Any, label: Any) -> Sampler:
    def sample(params: PyTree, label: Array, key: Key, nfe: int) -> Array:
        def predict(tokens: Array, index: Array) -> Array:
            padded = jnp.pad(tokens, ((0, 0), (0, gpt.num_tokens - nfe)))
            logits: Any = gpt.apply(params, padded, label)
            return jax.lax.dynamic_index_in_dim(logits, index, 1, keepdims=False)

        masked = _all_masked(label, nfe)
        keys = jax.random.split(key, len(label))
        return decode_without_cache(predict, *masked, keys, AutoregressiveSettings())

    flops = count_work(gpt.apply, params, tokens, label).total_flops
    size = _num_bytes(params) - _num_bytes(params["params"]["word_embedding"])  # rows looked up
    return Sampler(UNCACHED, gpt.num_tokens, params, sample, flops, size)


def _gpt_with_cache(gpt: GPT, params: PyTree, label: Any) -> Sampler:
    def init_cache(params: PyTree, label: Array) -> Any:
        return gpt.apply(params, label, method="init_cache")

    def decode_step(params: PyTree, cache: PyTree, previous: Array, index: Array) -> Any:
        return gpt.apply(params, cache, previous, index, method="decode_step")

    def sample(params: PyTree, label: Array, key: Key, nfe: int) -> Array:
        def step(cache: PyTree, previous: Array, index: Array) -> Any:
            return decode_step(params, cache, previous, index)

        cache, settings = init_cache(params, label), AutoregressiveSettings()
        keys = jax.random.split(key, len(label))
        return decode_with_cache(step, cache, *_all_masked(label, nfe), keys, settings)

    cache, index = jax.eval_shape(init_cache, params, label), jax.ShapeDtypeStruct((), jnp.int32)
    flops = count_work(decode_step, params, cache, label, index).total_flops
    rows_looked_up = [params["params"][f"{name}_embedding"] for name in ("word", "position")]
    size = _num_bytes(params) - _num_bytes(rows_looked_up) + _num_bytes(cache.layers)
    return Sampler(CACHED, gpt.num_tokens, params, sample, flops, size)


def _maskgit(
    network: MaskGIT, params: PyTree, steps: int, grid: int, tokens: Any, label: Any
) -> Sampler:
    def evaluate(params: PyTree, tokens: Array, mask: Array, label: Array) -> Any:
        return network.apply(params, tokens, mask, label, False)

    def sample(params: PyTree, label: Array, key: Key, nfe: int) -> Array:
        def predict(tokens: Array, mask: Array, progress: Array) -> Array:
            del progress
            return evaluate(params, tokens, mask, label)

        masked, settings = _all_masked(label, network.num_tokens), DecodeSettings(steps=nfe)
        keys = jax.random.split(key, len(label))
        return decode(predict, *masked, keys, settings, (grid, grid))[0]

    mask = jax.ShapeDtypeStruct(tokens.shape, jnp.bool_)
    flops = count_work(evaluate, params, tokens, mask, label).total_flops
    # The whole embedding is read, because the last layer multiplies by its rows.
    return Sampler(MASKGIT, steps, params, sample, flops, _num_bytes(params))


def measure(
    sampler: Sampler, grid: int, batch_size: int, repeats: int, seconds: float
) -> Measurement:
    """Returns the speed of a method; each run is one compiled program, run once before it is timed.

    Where a whole map takes too long, as many network evaluations are timed as fit, but at least
    `MIN_TIMED_NFE`, and the time is scaled. All evaluations are the same program, so that the work
    scales exactly.

    Args:
        sampler: From `build_samplers` for the same grid and batch size.
        grid: Rows, and as many columns.
        batch_size: Maps at a time.
        repeats: Runs that are timed.
        seconds: Approximate time of all runs together.
    """
    nfe = min(MIN_TIMED_NFE, sampler.nfe)
    program, compile_seconds = _compile(sampler, batch_size, nfe)
    if nfe < sampler.nfe:
        (probe,) = _time_runs(program, sampler, batch_size, 1)
        fitting = min(sampler.nfe, max(nfe, int(seconds / (repeats + 1) / (probe / nfe))))
        if fitting > nfe:
            nfe = fitting
            program, compile_seconds = _compile(sampler, batch_size, nfe)
    runs = _time_runs(program, sampler, batch_size, repeats)
    median = statistics.median(runs) * sampler.nfe / nfe
    return Measurement(
        method=sampler.method,
        grid=grid,
        tokens=grid * grid,
        batch_size=batch_size,
        nfe=sampler.nfe,
        measured="whole" if nfe == sampler.nfe else f"{nfe} of {sampler.nfe} NFE",
        seconds=median,
        images_per_second=batch_size / median,
        flops=sampler.flops * sampler.nfe,
        bytes_read=sampler.bytes_read * sampler.nfe,
        compile_seconds=compile_seconds,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(sampler.params)),
        runs=runs,
    )


def _compile(sampler: Sampler, batch_size: int, nfe: int) -> tuple[Callable[..., Array], float]:
    """Returns the program (params, label, key) -> tokens, and its compilation time in seconds."""
    label, key = jnp.zeros(batch_size, jnp.int32), jax.random.key(0)
    start = time.perf_counter()
    program = jax.jit(sampler.sample, static_argnums=3)
    compiled = program.lower(sampler.params, label, key, nfe).compile()
    return compiled, time.perf_counter() - start


def _time_runs(
    program: Callable[..., Array], sampler: Sampler, batch_size: int, repeats: int
) -> list[float]:
    """Returns the seconds of each run, after one that is not timed."""
    label, runs = jnp.zeros(batch_size, jnp.int32), []
    for number in range(repeats + 1):
        key = jax.block_until_ready(jax.random.key(number))
        start = time.perf_counter()
        jax.block_until_ready(program(sampler.params, label, key))
        runs.append(time.perf_counter() - start)
    return runs[1:]
