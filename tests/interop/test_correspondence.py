import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.interop.correspondence import (
    conv,
    conv_as_dense,
    dense,
    export_tree,
    import_tree,
    padded,
    reshaped,
    same,
    stacked,
)

SOURCES = {
    "same": same("a"),
    "conv": conv("b"),
    "dense": dense("c"),
    "point": conv_as_dense("d"),
    "heads": reshaped("e", (6,), (2, 3)),
    "rows": padded("f", 3, 2),
    "layers/kernel": stacked(lambda index: dense(f"layer{index}"), 2),
}
THEIRS = {
    "a": (3,), "b": (5, 4, 2, 3), "c": (5, 4), "d": (5, 4, 1, 1), "e": (2, 3), "f": (3, 4),
    "layer0": (5, 4), "layer1": (5, 4),
}  # fmt: skip
OURS = {
    "same": (3,), "conv": (2, 3, 4, 5), "dense": (4, 5), "point": (4, 5), "heads": (6,),
    "rows": (5, 4), "layers": {"kernel": (2, 4, 5)},
}  # fmt: skip
SHAPES = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
    OURS,
    is_leaf=lambda node: isinstance(node, tuple),
)


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.random(shape, np.float32) for name, shape in THEIRS.items()}


def test_one_declaration_serves_both_directions():
    theirs = {**arrays(), "step": np.zeros(())}
    ours, dropped = import_tree(theirs, SHAPES, SOURCES.__getitem__, lambda name: name == "step")
    assert dropped == ("step",)
    np.testing.assert_array_equal(ours["conv"][1, 2, 3, 4], theirs["b"][4, 3, 1, 2])
    np.testing.assert_array_equal(ours["layers"]["kernel"][1], theirs["layer1"].T)
    assert not ours["rows"][3:].any()
    again = export_tree(ours, SOURCES.__getitem__)
    assert again.keys() == THEIRS.keys()
    for name, array in again.items():
        np.testing.assert_array_equal(array, theirs[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer1": None}, "lacks 'layer1'"),
        ({"d": np.zeros((5, 4), np.float32)}, r"'d' of shape \(5, 4\), but \(5, 4, 1, 1\) is exp"),
        ({"f": np.zeros((4, 4), np.float32)}, r"'f' of shape \(4, 4\), but \(3, 4\) is expected"),
        ({"a": np.zeros(3, np.int32)}, "'a' of type int32, but floating point is expected"),
        ({"z": np.zeros(3)}, "has 1 arrays that do not belong to this network, such as 'z'"),
    ],
)
def test_the_first_array_that_does_not_fit_is_named(changes, message):
    changed = {name: x for name, x in {**arrays(), **changes}.items() if x is not None}
    with pytest.raises(InputError, match=message):
        import_tree(changed, SHAPES, SOURCES.__getitem__)
