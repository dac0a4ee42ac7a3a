"""How long drawing a whole map of tokens takes, by GPT with and without memory and by MaskGIT."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key, PyTree
from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.autoregressive import (
    AutoregressiveSettings,
    decode_with_cache,
    decode_without_cache,
)
from maskgit_jax.decoding.parallel import DecodeSettings, Model, decode
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.priors.maskgit import MaskGIT

UNCACHED, CACHED, MASKGIT = "GPT without memory", "GPT with memory", "MaskGIT"
FEWEST_PASSES = 4  # that are timed


class Sizes(NamedTuple):
    """Of both networks, and the passes of MaskGIT.

    Attributes:
        width: D.
        layers: Transformer layers.
        heads: Attention heads; must divide D.
        mlp_width: Hidden width of each layer's network.
        codes: K.
        classes: Labels are 0 .. classes - 1.
        steps: Decoding steps of MaskGIT.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int = 512
    codes: int = 1024
    classes: int = 10
    steps: int = 8


class Way(NamedTuple):
    """One way to draw a map of tokens.

    Attributes:
        name: UNCACHED, CACHED or MASKGIT.
        passes: Of the network, one after another, for a whole map.
        params: Of the network.
        draw: (params, label int32 [B], key, n) -> tokens; the n first passes, which are as large
            as those of a whole map.
        pass_operations: Floating-point operations of one pass of the network.
        pass_bytes: What one pass must at least read.
    """

    name: str
    passes: int
    params: PyTree
    draw: Callable[[PyTree, Array, Key, int], Array]
    pass_operations: float
    pass_bytes: int


class Row(NamedTuple):
    """What was measured of one way, grid and batch size.

    Attributes:
        way: Its name.
        grid: Rows, and as many columns.
        tokens: L.
        batch_size: Maps at a time.
        passes: Of the network, one after another.
        measured: "whole", or "n of m passes" where the seconds were scaled by m / n.
        seconds: For a batch; the median of the runs, scaled.
        images_per_second: Maps of tokens; their decoding to images is not counted.
        operations: Floating-point operations of all passes.
        bytes_read: What all passes must at least read.
        compile_seconds: Before the first run, not counted in `seconds`.
        parameters: Of the network.
        runs: Seconds of each run as it was timed.
    """

    way: str
    grid: int
    tokens: int
    batch_size: int
    passes: int
    measured: str
    seconds: float
    images_per_second: float
    operations: float
    bytes_read: int
    compile_seconds: float
    parameters: int
    runs: list[float]


def operations(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns the floating-point operations of one call, by XLA's analysis.

    XLA counts the body of a loop once, and a stack of layers is a loop: without `jit` JAX takes
    it apart. The program is analysed for the CPU and before it is optimised, whatever the device:
    GPUs give no analysis then, and afterwards their libraries' products of matrices count nothing.

    Args:
        function: Of arrays; its loops know how often they run.
        *arguments: Arrays or their shapes.

    Raises:
        InputError: JAX_PLATFORMS leaves the CPU out.
    """
    shapes = jax.eval_shape(lambda *given: given, *arguments)  # which lie on no device
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError as error:
        raise InputError(
            f"operations are counted on the CPU, which JAX_PLATFORMS={jax.config.jax_platforms} "
            f"leaves out; make it {jax.config.jax_platforms},cpu"
        ) from error
    with jax.disable_jit(), jax.default_device(cpu):
        lowered = jax.jit(function).lower(*shapes)
    return lowered.cost_analysis()["flops"]


def decoding_ways(sizes: Sizes, grid: int, batch_size: int) -> tuple[Way, Way, Way]:
    """Returns the three ways for a map of grid * grid tokens, with networks at random weights."""
    tokens = jax.ShapeDtypeStruct((batch_size, grid * grid), jnp.int32)
    label = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    shape = dict(
        width=sizes.width, num_layers=sizes.layers, num_heads=sizes.heads,
        mlp_width=sizes.mlp_width, remat=False,
    )  # fmt: skip
    gpt = GPT(sizes.codes, sizes.classes, (grid, grid), **shape)
    maskgit = MaskGIT(sizes.codes, sizes.classes, grid * grid, norm="pre", **shape)
    params = jax.jit(gpt.init)(jax.random.key(0), _zeros(1, grid), jnp.zeros(1, jnp.int32))
    return (
        _uncached(gpt, params, tokens, label),
        _cached(gpt, params, label),
        _parallel(maskgit, sizes.steps, grid, tokens, label),
    )


def _zeros(batch: int, grid: int) -> Array:
    return jnp.zeros((batch, grid * grid), jnp.int32)


def _nothing(label: Array, places: int) -> tuple[Array, Array]:
    """Returns tokens [B, places] and which of them are masked: all."""
    shape = (len(label), places)
    return jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool)


def _num_bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _uncached(gpt: GPT, params: PyTree, tokens: Any, label: Any) -> Way:
    def draw(params: PyTree, label: Array, key: Key, passes: int) -> Array:
        def predict(tokens: Array, index: Array) -> Array:
            whole = jnp.pad(tokens, ((0, 0), (0, gpt.num_tokens - passes)))
            logits = gpt.apply(params, whole, label)
            return jax.lax.dynamic_index_in_dim(logits, index, 1, keepdims=False)

        return decode_without_cache(
            predict, *_nothing(label, passes), key, AutoregressiveSettings()
        )

    count = operations(gpt.apply, params, tokens, label)
    read = _num_bytes(params) - _num_bytes(params["params"]["word_embedding"])  # rows looked up
    return Way(UNCACHED, gpt.num_tokens, params, draw, count, read)


def _cached(gpt: GPT, params: PyTree, label: Any) -> Way:
    def begin(params: PyTree, label: Array):
        return gpt.apply(params, label, method="begin")

    def step_from(params: PyTree, memory: PyTree, previous: Array, index: Array):
        return gpt.apply(params, memory, previous, index, method="step")

    def draw(params: PyTree, label: Array, key: Key, passes: int) -> Array:
        def step(memory: PyTree, previous: Array, index: Array):
            return step_from(params, memory, previous, index)

        memory, settings = begin(params, label), AutoregressiveSettings()
        return decode_with_cache(step, memory, *_nothing(label, passes), key, settings)

    memory, index = jax.eval_shape(begin, params, label), jax.ShapeDtypeStruct((), jnp.int32)
    count = operations(step_from, params, memory, label, index)
    rows_looked_up = [params["params"][f"{name}_embedding"] for name in ("word", "position")]
    read = _num_bytes(params) - _num_bytes(rows_looked_up) + _num_bytes(memory.layers)
    return Way(CACHED, gpt.num_tokens, params, draw, count, read)


def _parallel(network: MaskGIT, steps: int, grid: int, tokens: Any, label: Any) -> Way:
    def one_pass(params: PyTree, tokens: Array, mask: Array, label: Array) -> Array:
        return network.apply(params, tokens, mask, label, False)

    def draw(params: PyTree, label: Array, key: Key, passes: int) -> Array:
        def predict(tokens: Array, mask: Array, progress: Array) -> Array:
            del progress
            return one_pass(params, tokens, mask, label)

        nothing, settings = _nothing(label, network.num_tokens), DecodeSettings(steps=passes)
        return decode(Model(predict, (grid, grid)), *nothing, key, settings)[0]

    def init(key: Key) -> PyTree:
        some, one = _zeros(1, grid), jnp.zeros(1, jnp.int32)
        return network.init(key, some, some == 0, one, False)

    params = jax.jit(init)(jax.random.key(0))
    mask = jax.ShapeDtypeStruct(tokens.shape, jnp.bool_)
    count = operations(one_pass, params, tokens, mask, label)
    # Its table is read whole: the last layer multiplies by the codes' rows of it.
    return Way(MASKGIT, steps, params, draw, count, _num_bytes(params))


def measure(way: Way, grid: int, batch_size: int, repeats: int, seconds: float) -> Row:
    """Returns how fast a way is; each run is one compiled program, run once before it is timed.

    A map that would take too long is not drawn to its end: as many passes are timed as fit, but
    at least `FEWEST_PASSES`, and the time is scaled. Every pass is the same program, so that the
    work is scaled exactly.

    Args:
        way: Of `decoding_ways` for the same grid and batch size.
        grid: Rows, and as many columns.
        batch_size: Maps at a time.
        repeats: Runs that are timed.
        seconds: How long all runs together may take, about.
    """
    passes = min(FEWEST_PASSES, way.passes)
    program, compile_seconds = _compiled(way, batch_size, passes)
    if passes < way.passes:
        (probe,) = _run_seconds(program, way, batch_size, 1)
        fitting = int(seconds / (repeats + 1) / (probe / passes))
        fitting = min(way.passes, max(passes, fitting))
        if fitting > passes:
            passes = fitting
            program, compile_seconds = _compiled(way, batch_size, passes)
    runs = _run_seconds(program, way, batch_size, repeats)
    median = statistics.median(runs) * way.passes / passes
    return Row(
        way=way.name,
        grid=grid,
        tokens=grid * grid,
        batch_size=batch_size,
        passes=way.passes,
        measured="whole" if passes == way.passes else f"{passes} of {way.passes} passes",
        seconds=median,
        images_per_second=batch_size / median,
        operations=way.pass_operations * way.passes,
        bytes_read=way.pass_bytes * way.passes,
        compile_seconds=compile_seconds,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(way.params)),
        runs=runs,
    )


def _compiled(way: Way, batch_size: int, passes: int) -> tuple[Callable[..., Array], float]:
    """Returns the program (params, label, key) -> tokens, and the seconds of its compilation."""
    label, key = jnp.zeros(batch_size, jnp.int32), jax.random.key(0)
    start = time.perf_counter()
    program = jax.jit(way.draw, static_argnums=3).lower(way.params, label, key, passes).compile()
    return program, time.perf_counter() - start


def _run_seconds(
    program: Callable[..., Array], way: Way, batch_size: int, repeats: int
) -> list[float]:
    """Returns the seconds of each run, after one that is not timed."""
    label, runs = jnp.zeros(batch_size, jnp.int32), []
    for number in range(repeats + 1):
        key = jax.block_until_ready(jax.random.key(number))
        start = time.perf_counter()
        jax.block_until_ready(program(way.params, label, key))
        runs.append(time.perf_counter() - start)
    return runs[1:]
