"""The membrane against a dense solution of the same equations, and what holds for any membrane."""

import numpy as np
import pytest

from maskgit_jax.pipelines import membrane
from maskgit_jax.pipelines.membrane import fill_masked

HEIGHT, WIDTH = 21, 34
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
MASKS = {
    "disk": (ROWS - 10) ** 2 + (COLUMNS - 15) ** 2 < 64,
    "two regions": (abs(ROWS - 10) < 7) & (abs(COLUMNS - 17) > 3) & (abs(COLUMNS - 17) < 12),
    "at one side": COLUMNS >= 12,
    "all around": (ROWS < 6) | (ROWS > 14) | (COLUMNS < 9) | (COLUMNS > 20),
    "one pixel": (ROWS == 3) & (COLUMNS == 33),
    "a line": ROWS * 34 // 21 == COLUMNS,
    "all but one pixel": (ROWS != 4) | (COLUMNS != 30),
    "random": np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.8,
}


def dense_solution(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each masked value is the mean of its neighbors inside the image."""
    matrix, target = np.eye(mask.size), np.where(mask[..., None], 0.0, values)
    numbers = np.arange(mask.size).reshape(mask.shape)
    for row, column in np.argwhere(mask):
        near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        near = [numbers[y, x] for y, x in near if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]]
        matrix[numbers[row, column], near] = -1 / len(near)
    return np.linalg.solve(matrix, target.reshape(mask.size, -1)).reshape(values.shape)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masked_values_are_those_of_the_dense_solution(mask):
    noise = np.random.default_rng(0).normal(0.0, 20.0, (HEIGHT, WIDTH, 2))
    smooth = np.stack([3.0 * ROWS - COLUMNS, 20 * np.sin(ROWS / 9) + COLUMNS], axis=-1)
    for values, most in ((noise, 2.0), (smooth, 0.6)):
        filled, exact = fill_masked(values, mask), dense_solution(values, mask)
        np.testing.assert_array_equal(filled[~mask], values.astype(np.float32)[~mask])
        error = abs(filled - exact)[mask]
        assert error.max() < most and error.mean() < most / 4


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_large_membranes_are_off_by_little(mask, monkeypatch):
    monkeypatch.setattr(membrane, "LARGE", HEIGHT * WIDTH - 1)
    smooth = np.stack([3.0 * ROWS - COLUMNS, 20 * np.sin(ROWS / 9) + COLUMNS], axis=-1)
    filled = fill_masked(smooth, mask)
    np.testing.assert_array_equal(filled[~mask], smooth.astype(np.float32)[~mask])
    assert abs(filled - dense_solution(smooth, mask)).max() < 3, "a difference of two neighbors"


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masked_values_have_no_influence_and_stay_between_the_known_ones(mask):
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    changed = np.where(mask[..., None], 255 - values, values)
    filled = fill_masked(values, mask)
    np.testing.assert_array_equal(fill_masked(changed, mask), filled)
    known = values[~mask].astype(np.float32)
    assert (filled.max(axis=(0, 1)) <= known.max(axis=0) + 2).all()
    assert (filled.min(axis=(0, 1)) >= known.min(axis=0) - 2).all()


def test_constants_are_continued_and_nothing_is_where_all_or_none_is_masked():
    values, mask = np.full((9, 8, 1), 7.0), np.ones((9, 8), bool)
    np.testing.assert_array_equal(fill_masked(values, mask), np.zeros((9, 8, 1), np.float32))
    np.testing.assert_array_equal(fill_masked(values, ~mask), values)
    mask[8, 7] = False
    np.testing.assert_allclose(fill_masked(values, mask), values, rtol=1e-5)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="broadcast"):
        fill_masked(np.zeros((4, 5, 1)), np.zeros((5, 4), bool))
