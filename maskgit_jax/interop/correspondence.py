"""Correspondence of our arrays to those of another project, declared once for both directions.

`source_of(path)` gives the `Source` of an array of ours; `import_tree` and `export_tree` apply it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import require


class Source(NamedTuple):
    """The arrays of another project that one of ours consists of.

    Attributes:
        names: Their names; those of all layers for a stack of layers.
        to_ours: Their arrays -> our array.
        to_theirs: Our array -> theirs, the inverse. It must work on arrays without strides, which
            `import_tree` uses to compute the expected shapes.
    """

    names: tuple[str, ...]
    to_ours: Callable[[list[np.ndarray]], np.ndarray]
    to_theirs: Callable[[np.ndarray], list[np.ndarray]]


SourceOf = Callable[[str], Source]


def mapped(
    name: str,
    to_ours: Callable[[np.ndarray], np.ndarray],
    to_theirs: Callable[[np.ndarray], np.ndarray],
) -> Source:
    """Returns the source of an array that is made of one other array."""
    return Source((name,), lambda theirs: to_ours(theirs[0]), lambda ours: [to_theirs(ours)])


def same(name: str) -> Source:
    """Returns the source of an array that is the same in both projects."""
    return mapped(name, lambda theirs: theirs, lambda ours: ours)


def conv(name: str) -> Source:
    """Returns the source of a convolution kernel [H, W, I, O] that is [O, I, H, W] there."""
    return mapped(name, lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))


def dense(name: str) -> Source:
    """Returns the source of a dense kernel [I, O] that is [O, I] there."""
    return mapped(name, np.transpose, np.transpose)


def conv_as_dense(name: str) -> Source:
    """Returns the source of a dense kernel [I, O] that is a 1x1 convolution [O, I, 1, 1] there."""
    return mapped(name, lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])


def reshaped(name: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> Source:
    """Returns the source of an array with the same elements, in the same order, in other axes."""
    return mapped(name, lambda x: x.reshape(ours), lambda x: x.reshape(theirs))


def padded(name: str, num_rows: int, padding: int) -> Source:
    """Returns the source of an array with `num_rows` rows there, and more, zeros, here."""

    def to_ours(theirs: np.ndarray) -> np.ndarray:
        return np.pad(theirs, [(0, padding)] + [(0, 0)] * (theirs.ndim - 1))

    return mapped(name, to_ours, lambda ours: ours[:num_rows])


def stacked(source_of_layer: Callable[[int], Source], num_layers: int) -> Source:
    """Returns the source of an array [layer, ...] that is separate arrays of each layer there."""
    layers = [source_of_layer(index) for index in range(num_layers)]
    each = len(layers[0].names)

    def to_ours(theirs: list[np.ndarray]) -> np.ndarray:
        parts = [theirs[start : start + each] for start in range(0, len(theirs), each)]
        return np.stack([layer.to_ours(part) for layer, part in zip(layers, parts, strict=True)])

    def to_theirs(ours: np.ndarray) -> list[np.ndarray]:
        pairs = zip(layers, ours, strict=True)
        return [array for layer, part in pairs for array in layer.to_theirs(part)]

    return Source(tuple(name for layer in layers for name in layer.names), to_ours, to_theirs)


def import_tree(
    arrays: Mapping[str, np.ndarray],
    shapes: PyTree,
    source_of: SourceOf,
    ignored: Callable[[str], bool] = lambda name: False,
) -> tuple[PyTree, tuple[str, ...]]:
    """Returns our tree of float32 arrays, and the names of those that were dropped.

    Args:
        arrays: The arrays of the file.
        shapes: Our tree of shapes, from `jax.eval_shape`.
        source_of: Path such as "encoder/level0_0/conv1/kernel" -> its source.
        ignored: Whether an array of theirs is dropped on purpose.

    Raises:
        InputError: An array is missing, has another shape, or belongs to nothing of ours. The
            message lacks the name of the file, which the caller adds.
    """
    flat: dict[str, Any] = flatten_dict(shapes, sep="/")
    ours, used = {}, set()
    for path, shape in flat.items():
        source = source_of(path)
        _check(arrays, source, shape.shape)
        theirs = [np.asarray(arrays[name], np.float32) for name in source.names]
        ours[path] = np.ascontiguousarray(source.to_ours(theirs))
        used.update(source.names)
    dropped = tuple(name for name in arrays if name not in used and ignored(name))
    unexpected = [name for name in arrays if name not in used and not ignored(name)]
    require(
        not unexpected,
        f"has {len(unexpected)} arrays that do not belong to this network, such as "
        f"'{(unexpected or [''])[0]}'",
    )
    return unflatten_dict(ours, sep="/"), dropped


def export_tree(params: PyTree, source_of: SourceOf) -> dict[str, np.ndarray]:
    """Returns the arrays of the other project by name: the inverse of `import_tree`."""
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    found = {}
    for path, array in flat.items():
        source = source_of(path)
        for name, theirs in zip(source.names, source.to_theirs(np.asarray(array)), strict=True):
            found[name] = np.ascontiguousarray(theirs)
    return found


def _check(arrays: Mapping[str, np.ndarray], source: Source, shape: tuple[int, ...]) -> None:
    expected = source.to_theirs(np.broadcast_to(np.float32(0), shape))
    for name, example in zip(source.names, expected, strict=True):
        require(name in arrays, f"lacks '{name}'")
        array = arrays[name]
        require(
            array.shape == example.shape,
            f"has '{name}' of shape {array.shape}, but {example.shape} is expected",
        )
        is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        require(is_float, f"has '{name}' of type {array.dtype}, but floating point is expected")
