import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.data import augmentation
from maskgit_jax.data.augmentation import CROPS, Augmenter, flip, random_generator
from maskgit_jax.data.loader import eval_batches, train_batches
from maskgit_jax.data.protocol import Source
from tests.example import preset


def data(**changes):
    config = preset("vqgan").data.unlock()
    config.update(changes)
    return config


class Numbers:
    """A generator that draws given numbers."""

    def __init__(self, *numbers):
        self.numbers = np.array(numbers)

    def random(self, count=None):
        return self.numbers[:count] if count else self.numbers[0]


@pytest.mark.parametrize("name", CROPS)
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 9), (16, 16)])
def test_crops_are_squares_inside_the_image(name, size):
    for position in range(20):
        crop = CROPS[name](*size, random_generator(0, position, crop=True))
        left, top, right, bottom = crop.box
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        assert right - left == pytest.approx(bottom - top)
        assert crop.fast == (name != "center"), "evaluation depends on the exact filter"


def test_areas_and_positions_follow_the_random_numbers():
    resized = CROPS["resized"]
    np.testing.assert_allclose(resized(60, 40, Numbers(0, 0, 0)).side ** 2, 40**2 / 3)
    np.testing.assert_allclose(resized(60, 40, Numbers(0.5, 0.5, 0.5)).side ** 2, 40**2 / 1.5)
    assert CROPS["random"](60, 40, Numbers(0.5, 0.25, 0.5)).box == (5, 0, 45, 40)
    assert CROPS["center"](60, 40, Numbers(1, 1, 1)).box == (10, 0, 50, 40)


def test_flips_exchange_left_and_right_of_one_half_of_the_images():
    image = np.arange(6, dtype=np.uint8).reshape(1, 3, 2)
    flipped = flip(image, Numbers(0.4))
    assert flipped.tolist() == [[[4, 5], [2, 3], [0, 1]]] and flip(image, Numbers(0.5)) is image
    draws = [random_generator(0, n, crop=False).random() < 0.5 for n in range(400)]
    assert 0.4 < np.mean(draws) < 0.6


def test_random_numbers_depend_on_seed_and_position_and_never_repeat():
    def draw(seed, position):
        return np.concatenate(
            [random_generator(seed, position, crop).random(8) for crop in (True, False)]
        )

    numbers = np.stack([draw(0, position) for position in range(200)])
    np.testing.assert_array_equal(draw(0, 150), numbers[150])
    assert len(np.unique(numbers)) == numbers.size
    assert not np.isin(draw(1, 150), numbers).any()
    assert numbers.min() >= 0 and numbers.max() < 1
    np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.1)
    np.testing.assert_array_equal(draw(-1, 0), draw(2**64 - 1, 0))


def test_crops_and_flips_use_block_n_of_the_seeds_philox_sequence():
    blocks = np.random.Generator(np.random.Philox(key=3, counter=7)).random((2, 4))
    for row, block in enumerate(blocks):
        np.testing.assert_array_equal(random_generator(3, 7 + row, True).random(3), block[:3])
        assert random_generator(3, 7 + row, False).random() == block[3]


class PairRecords(Source):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (20, 16, 1), np.uint8)
        return {"image": image, "condition": 255 - image, "label": index}


def test_a_new_augmentation_is_one_function_of_training_images_and_conditions(monkeypatch):
    seen = []

    def roll(image, rng):
        seen.append(rng.random(6).tolist())  # more numbers than its block of the sequence has
        return np.roll(image, int(rng.integers(1, 16)), axis=1)

    monkeypatch.setitem(augmentation.AUGMENTATIONS, "roll", roll)
    source = PairRecords()
    config = data(condition="paired", augmentations="flip, roll", num_threads=0, prefetch=0)
    iterator = train_batches(source, config, 6, seed=0)
    for batch in (next(iterator) for _ in range(3)):
        np.testing.assert_array_equal(batch["condition"], 255 - batch["image"])
        for image, label in zip(batch["image"], batch["label"], strict=True):
            assert not np.array_equal(image, source[label]["image"][2:18])
            np.testing.assert_array_equal(
                np.sort(image, axis=1), np.sort(source[label]["image"][2:18], axis=1)
            )
    assert all(seen.count(numbers) == 2 for numbers in seen), "once for each image of a pair"
    seen.clear()
    list(eval_batches(source, config, 3))
    assert not seen


@pytest.mark.parametrize("changes", [dict(crop="middle"), dict(augmentations="flip,blur")])
def test_unknown_names_are_refused(changes):
    name = "middle.*allowed: center, random" if "crop" in changes else "blur.*allowed: flip"
    with pytest.raises(InputError, match=name):
        Augmenter(data(**changes), 0)
