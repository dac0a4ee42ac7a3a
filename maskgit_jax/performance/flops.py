"""FLOPs and memory traffic of a function, counted in its jaxpr: those of products of arrays.

Each multiplication of `dot_general` and `conv_general_dilated` counts as two operations and
everything else (norms, softmax, optimizers) as none, as is usual for the "model FLOPs" of a
utilization (MFU). XLA's `cost_analysis` counts the body of a loop once, whatever its length (in
JAX 0.10 on CPU and TPU, compiled or not); a stack of layers and a decoder's steps are loops, so
they are counted here, as often as they run.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

_INLINED = ("jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint",
            "remat2")  # fmt: skip
_BYTES = "bytes"  # the entry of the counter that is not a number of FLOPs


class Work(NamedTuple):
    """The products of arrays in one call of a function, on all devices together.

    Attributes:
        flops: One of `chips.NUMBERS` -> floating-point operations.
        bytes: Factors read and results written by products, as if everything else were fused.
        used: For each array of the arguments, whether any result depends on it.
    """

    flops: Mapping[str, float]
    bytes: float
    used: list[bool]

    @property
    def total_flops(self) -> float:
        """The floating-point operations of all kinds of numbers."""
        return float(sum(self.flops.values()))


def count_work(function: Callable[..., Any], *arguments: Any) -> Work:
    """Returns the FLOPs and the memory traffic of one call.

    Products of the same values count once and unused ones not at all, because XLA merges and
    removes them; what rematerialization recomputes counts again. Of the branches of a condition
    the one with the most FLOPs counts.

    Args:
        function: Takes trees of arrays.
        *arguments: Arrays or their shapes (`jax.ShapeDtypeStruct`).

    Raises:
        ValueError: A loop of unknown length or an unknown primitive contains products.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    total = _count(jaxpr, closed.consts)
    traffic = total.pop(_BYTES, 0.0)
    return Work(dict(total), traffic, used)


def _count(jaxpr: core.Jaxpr, consts: Sequence[Any]) -> Counter[str]:
    """Returns FLOPs and bytes of a jaxpr that shares no values with what surrounds it."""
    counter = _Counter()
    counter.visit(jaxpr, [counter.new() for _ in jaxpr.invars], consts, {})
    return counter.total


class _Counter:
    """Numbers the values of a program, so that equal values are recognized, and adds up."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._numbers = count()

    def new(self) -> int:
        """Returns the number of a value that equals no other."""
        return next(self._numbers)

    def visit(
        self,
        jaxpr: core.Jaxpr,
        inputs: Sequence[Hashable],
        consts: Sequence[Any],
        computed: dict[Hashable, list[Hashable]],
    ) -> list[Hashable]:
        """Adds the work of a jaxpr and returns the numbers of its results.

        Args:
            jaxpr: The program.
            inputs: Numbers of its arguments.
            consts: Its constants.
            computed: Equations that have been counted -> the numbers of their results.
        """
        known: dict[Any, Hashable] = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= zip(jaxpr.constvars, map(_constant_number, consts), strict=True)

        def number(atom: Any) -> Hashable:
            if isinstance(atom, core.Literal):
                return ("literal", str(atom.aval), str(atom.val))
            return known[atom]

        for equation in jaxpr.eqns:
            numbers = [number(atom) for atom in equation.invars]
            results = self._visit_equation(equation, numbers, computed)
            known |= zip(equation.outvars, results, strict=True)
        return [number(atom) for atom in jaxpr.outvars]

    def _visit_equation(
        self, equation: Any, inputs: list[Hashable], computed: dict[Hashable, list[Hashable]]
    ) -> list[Hashable]:
        name, params = equation.primitive.name, equation.params
        if name in _INLINED:
            recomputes = params.get("differentiated", False)  # the backward pass of a remat
            jaxpr, consts = _open(next(v for v in params.values() if _is_jaxpr(v)))
            return self.visit(jaxpr, inputs, consts, {} if recomputes else computed)
        key = (name, *inputs, *((k, self._comparable(params[k])) for k in sorted(params)))
        if key not in computed:
            computed[key] = [self.new() for _ in equation.outvars]
            self._add(equation)
        return computed[key]

    def _add(self, equation: Any) -> None:
        name, params = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            flops = dot_flops if name == "dot_general" else convolution_flops
            self.total[_number_kind(equation)] += flops(equation)
            arrays = [var.aval for var in (*equation.invars, *equation.outvars)]
            self.total[_BYTES] += sum(array.size * array.dtype.itemsize for array in arrays)
        elif name == "scan":
            body = _count(*_open(params["jaxpr"]))
            self.total.update({key: params["length"] * value for key, value in body.items()})
        elif name == "cond":
            branches = [_count(*_open(branch)) for branch in params["branches"]]
            self.total.update(max(branches, key=lambda work: work.total() - work[_BYTES]))
        elif any(_count(*_open(jaxpr)) for jaxpr in core.jaxprs_in_params(params)):
            raise ValueError(
                f"'{name}' contains products of arrays and its number of iterations is unknown; "
                "use a scan, or a loop of known length"
            )

    def _comparable(self, value: Any) -> Hashable:
        """Returns a key that is equal for equal parameters of equations."""
        if _is_jaxpr(value):
            jaxpr, consts = _open(value)
            return (str(jaxpr), *map(_constant_number, consts))
        if isinstance(value, tuple | list):
            return tuple(map(self._comparable, value))
        return value if isinstance(value, Hashable) else self.new()


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _open(jaxpr: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, core.ClosedJaxpr) else (jaxpr, ())


def _constant_number(constant: Any) -> Hashable:
    """Returns a number that is equal for equal constants."""
    try:
        value = np.asarray(constant)
    except TypeError:  # a random key
        return ("constant", id(constant))
    return ("constant", str(value.dtype), value.shape, value.tobytes())


def _number_kind(equation: Any) -> str:
    """Returns which of `chips.NUMBERS` a product is computed in."""
    if all(var.aval.dtype == "bfloat16" for var in equation.invars):
        return "bfloat16"
    return "float32_highest" if "HIGH" in str(equation.params["precision"]).upper() else "float32"


def dot_flops(equation: Any) -> int:
    """Returns the FLOPs of a `dot_general`."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, (result,) = equation.invars[0].aval.shape, equation.outvars
    return 2 * math.prod(result.aval.shape) * math.prod(left[axis] for axis in contracted)


def convolution_flops(equation: Any) -> int:
    """Returns the FLOPs of a `conv_general_dilated`; products with padding do not count."""
    params = equation.params
    left, right, result = params["dimension_numbers"]
    image, kernel = (var.aval.shape for var in equation.invars)
    out = equation.outvars[0].aval.shape
    settings = zip(params["window_strides"], params["padding"], params["lhs_dilation"],
                   params["rhs_dilation"], strict=True)  # fmt: skip
    pairs = math.prod(
        window_pairs(image[left[axis]], kernel[right[axis]], out[result[axis]],
                     stride, before, image_dilation, kernel_dilation)
        for axis, (stride, (before, _), image_dilation, kernel_dilation) in enumerate(settings, 2)
    )  # fmt: skip
    return 2 * out[result[0]] * out[result[1]] * kernel[right[1]] * pairs


@lru_cache(maxsize=4096)
def window_pairs(
    size: int, kernel: int, result: int, stride: int, before: int, dilation: int, spread: int
) -> int:
    """Returns the number of pairs of an output and a kernel tap that meet a pixel, on one axis.

    Neither padding nor the zeros between the pixels of a dilated image count, so that a
    convolution and its gradients with respect to image and kernel have the same number.

    Args:
        size: Pixels of the image along this axis.
        kernel: Taps.
        result: Outputs.
        stride: Stride of the outputs.
        before: Padding at the start; negative where the image is cropped.
        dilation: Dilation of the image.
        spread: Dilation of the kernel.
    """
    place = np.arange(result)[:, None] * stride + np.arange(kernel)[None] * spread - before
    return int(((place >= 0) & (place <= (size - 1) * dilation) & (place % dilation == 0)).sum())
