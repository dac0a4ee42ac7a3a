"""Floating-point operations of a function, counted in its jaxpr: those of products of arrays.

Two for each multiplication of `dot_general` and `conv_general_dilated`, and nothing for all the
rest (norms, softmax, optimisers), as is usual for the "model FLOPs" of a utilisation (MFU). XLA's
own analysis counts the body of a loop once, whatever the number of its passes; here it counts as
often as it runs.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

Operations = dict[str, float]
"""One of `chips.NUMBERS` -> floating-point operations."""
_INLINE = (
    "jit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat2",
)


def count_operations(function: Callable[..., Any], *arguments: Any) -> Operations:
    """Returns the floating-point operations of one call on all devices together.

    What is computed twice from the same values counts once, and what no result depends on not at
    all, for XLA merges and removes it; but what rematerialisation asks to compute again does
    count again. Of the branches of a condition the most expensive one counts.

    Args:
        function: Of trees of arrays.
        *arguments: Arrays or their shapes (`jax.ShapeDtypeStruct`).

    Raises:
        ValueError: A loop multiplies arrays and does not know how often it runs, or products are
            hidden in something that this module does not know.
    """
    jaxpr, consts, used = _alive(function, *arguments)
    walk = _Walk()
    walk.visit(jaxpr, [walk.new() for is_used in used if is_used], consts, {}, 1)
    return dict(walk.total)


def used_arguments(function: Callable[..., Any], *arguments: Any) -> list[bool]:
    """Returns of each array of the arguments whether any result depends on it."""
    return _alive(function, *arguments)[2]


def _alive(
    function: Callable[..., Any], *arguments: Any
) -> tuple[core.Jaxpr, Sequence[Any], list[bool]]:
    """Returns the program without what no result depends on, and which arguments are left."""
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return jaxpr, closed.consts, used


def total_operations(operations: Operations) -> float:
    """Returns the sum over all kinds of numbers."""
    return float(sum(operations.values()))


class _Walk:
    """Numbers the values of a program, so that equal ones are known to be equal, and counts."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._names = count()

    def new(self) -> int:
        """Returns the number of a value that equals no other."""
        return next(self._names)

    def visit(
        self,
        jaxpr: core.Jaxpr,
        inputs: Sequence[Hashable],
        consts: Sequence[Any],
        seen: dict[Hashable, list[Hashable]],
        times: float,
    ) -> list[Hashable]:
        """Adds `times` the operations of a program; returns the numbers of its results.

        Args:
            jaxpr: The program.
            inputs: Numbers of its arguments.
            consts: Of the program.
            seen: Equations that were computed already -> the numbers of their results.
            times: How often it runs.
        """
        known: dict[Any, Hashable] = dict(zip(jaxpr.invars, inputs, strict=True))
        constants = [_content(value) for value in consts]
        known |= dict(zip(jaxpr.constvars, constants, strict=True))

        def number(atom: Any) -> Hashable:
            if isinstance(atom, core.Literal):
                return ("literal", str(atom.aval), str(atom.val))
            return known[atom]

        for equation in jaxpr.eqns:
            found = self._equation(
                equation, [number(atom) for atom in equation.invars], seen, times
            )
            known |= dict(zip(equation.outvars, found, strict=True))
        return [number(atom) for atom in jaxpr.outvars]

    def _equation(
        self,
        equation: core.JaxprEqn,
        inputs: list[Hashable],
        seen: dict[Hashable, list[Hashable]],
        times: float,
    ) -> list[Hashable]:
        name, params = equation.primitive.name, equation.params
        inner = list(core.jaxprs_in_params(params))
        if name in _INLINE:
            again = params.get("differentiated", False)  # the backward pass of a remat
            jaxpr, consts = _opened(next(v for v in params.values() if _is_jaxpr(v)))
            return self.visit(jaxpr, inputs, consts, {} if again else seen, times)
        key = (name, *inputs, *((k, self._comparable(params[k])) for k in sorted(params)))
        if key not in seen:
            seen[key] = [self.new() for _ in equation.outvars]
            self._count(equation, times, inner)
        return seen[key]

    def _count(self, equation: core.JaxprEqn, times: float, inner: list[core.Jaxpr]) -> None:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            self.total[_numbers(equation)] += times * dot_operations(equation)
        elif name == "conv_general_dilated":
            self.total[_numbers(equation)] += times * convolution_operations(equation)
        elif name == "scan":
            self.total.update(_scaled(self._alone(params["jaxpr"]), times * params["length"]))
        elif name == "cond":
            branches = [self._alone(branch) for branch in params["branches"]]
            self.total.update(_scaled(max(branches, key=total_operations), times))
        elif any(self._alone(jaxpr) for jaxpr in inner):
            raise ValueError(
                f"'{name}' multiplies arrays inside of itself, and nothing says how often; use a "
                "scan, or a loop whose number of passes is known"
            )

    def _alone(self, jaxpr: Any) -> Counter[str]:
        """Returns the operations of a program that shares nothing with what surrounds it."""
        opened, consts = _opened(jaxpr)
        walk = _Walk()
        walk.visit(opened, [walk.new() for _ in opened.invars], consts, {}, 1)
        return walk.total

    def _comparable(self, value: Any) -> Hashable:
        """Returns what is equal for equal parameters of equations; at worst, equal to nothing."""
        if _is_jaxpr(value):
            opened, consts = _opened(value)
            return (str(opened), *map(_content, consts))
        if isinstance(value, tuple | list):
            return tuple(map(self._comparable, value))
        return value if isinstance(value, Hashable) else self.new()


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _opened(jaxpr: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
    if isinstance(jaxpr, core.ClosedJaxpr):
        return jaxpr.jaxpr, jaxpr.consts
    return jaxpr, ()


def _content(constant: Any) -> Hashable:
    """Returns what is equal for equal constants; of those that are no numbers, for one and same."""
    try:
        value = np.asarray(constant)
    except TypeError:  # a random key
        return ("constant", id(constant))
    return ("constant", str(value.dtype), value.shape, value.tobytes())


def _scaled(operations: Counter[str], times: float) -> dict[str, float]:
    return {name: times * value for name, value in operations.items()}


def _numbers(equation: core.JaxprEqn) -> str:
    """Returns which of `chips.NUMBERS` a product is computed in."""
    if all(var.aval.dtype == "bfloat16" for var in equation.invars):
        return "bfloat16"
    return number_kind("float32", str(equation.params["precision"]).upper())


def number_kind(dtype: str, precision: str) -> str:
    """Returns which of `chips.NUMBERS` factors of a type are multiplied in at a precision."""
    if dtype == "bfloat16":
        return "bfloat16"
    return "float32_highest" if "HIGH" in precision.upper() else "float32"


def dot_operations(equation: core.JaxprEqn) -> float:
    """Returns two for each multiplication of a `dot_general`."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, (result,) = equation.invars[0].aval.shape, equation.outvars
    return 2.0 * math.prod(result.aval.shape) * math.prod(left[axis] for axis in contracted)


def convolution_operations(equation: core.JaxprEqn) -> float:
    """Returns two for each multiplication of a `conv_general_dilated` with a real pixel."""
    params = equation.params
    left, right, result = params["dimension_numbers"]
    image, kernel = (var.aval.shape for var in equation.invars)
    out = equation.outvars[0].aval.shape
    pairs = 1
    for axis, (stride, padding, stretch, spread) in enumerate(
        zip(params["window_strides"], params["padding"], params["lhs_dilation"],
            params["rhs_dilation"], strict=True)
    ):  # fmt: skip
        pairs *= window_pairs(
            image[left[2 + axis]], kernel[right[2 + axis]], out[result[2 + axis]],
            stride, padding[0], stretch, spread,
        )  # fmt: skip
    return 2.0 * out[result[0]] * out[result[1]] * kernel[right[1]] * pairs


@lru_cache(maxsize=4096)
def window_pairs(
    size: int, kernel: int, result: int, stride: int, before: int, stretch: int, spread: int
) -> int:
    """Returns how many pairs of an output and a tap of the kernel meet a pixel, along one axis.

    Neither padding nor the zeros between the pixels of a stretched image count, so that a
    convolution, the one for the gradient of its image and the one for that of its kernel have
    the same number.

    Args:
        size: Of the image along this axis.
        kernel: Taps.
        result: Outputs.
        stride: Of the outputs.
        before: Padding at the beginning; negative where the image is cut.
        stretch: Dilation of the image.
        spread: Dilation of the kernel.
    """
    place = np.arange(result)[:, None] * stride + np.arange(kernel)[None] * spread - before
    return int(((place >= 0) & (place <= (size - 1) * stretch) & (place % stretch == 0)).sum())
