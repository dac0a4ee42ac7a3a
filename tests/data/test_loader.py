import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.conditions import derive_condition
from maskgit_jax.data.folder import FolderSource, LabelledPath
from maskgit_jax.data.in_memory import ArraySource
from maskgit_jax.data.loader import Shuffled, eval_batches, train_batches
from maskgit_jax.data.protocol import Source
from maskgit_jax.data.tokens import TokenSource
from tests.example import preset

DATA = preset("vqgan").data


def data(**changes):
    config = preset("vqgan").data.unlock()
    config.update(changes)
    return config


def numbered(count: int) -> ArraySource:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2)
    return ArraySource(images, np.arange(count))


def noise(count: int, size: tuple[int, int] = (16, 16)) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (count, *size, 1), np.uint8)
    return ArraySource(images, np.arange(count))


def tokens(count: int) -> TokenSource:
    rows = np.random.default_rng(0).integers(0, 2**16, (count, 5)).astype(np.uint16)
    return TokenSource(rows, np.arange(count, dtype=np.int32))


def files(count: int, folder) -> FolderSource:
    listed = [LabelledPath(folder / f"{index}.jpg", index) for index in range(count)]
    rng = np.random.default_rng(0)
    for file in listed:
        small = Image.fromarray(rng.integers(0, 256, (8, 6), np.uint8))
        small.resize((60, 80), Image.Resampling.BICUBIC).save(file.path)
    return FolderSource(listed, 16, 1)


class Records(Source):
    """A source of single records, `shape` unknown; it calls `watch` with the index of each."""

    def __init__(self, source, watch=lambda index: None):
        self.source, self.watch = source, watch

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.watch(index)
        return self.source[index]


CASES = {
    "arrays": (lambda folder: noise(10), dict(augmentations="flip")),
    "cropped": (lambda folder: noise(10, (24, 20)), dict(crop="resized", augmentations="flip")),
    "conditions": (lambda folder: noise(10), dict(augmentations="flip", condition="edges")),
    "tokens": (lambda folder: tokens(10), {}),
    "files": (lambda folder: files(10, folder), dict(crop="random", augmentations="flip")),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    make, changes = CASES[request.param]
    return make(tmp_path), data(**changes)


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    return [next(iterator) for _ in range(count)]


def labels(iterator, count: int) -> list[int]:
    return [label for batch in take(iterator, count) for label in batch["label"].tolist()]


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_same(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


def test_the_stream_holds_every_record_once_an_epoch_in_a_new_order():
    for batch_size, batches in ((4, 9), (12, 3), (36, 1)):  # 4 and 36 cross epochs
        stream = labels(train_batches(numbered(12), DATA, batch_size, seed=0), batches)
        epochs = np.reshape(stream, (3, 12))
        np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(12), (3, 1)))
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_batch_crosses_from_one_epoch_to_the_next():
    order = Shuffled(5, seed=0)
    whole = order(np.arange(25))
    np.testing.assert_array_equal(order(np.arange(3, 17)), whole[3:17])
    crossing = train_batches(numbered(5), DATA, 4, seed=0)
    np.testing.assert_array_equal(labels(crossing, 5), whole[:20])


def test_batches_are_uint8_nhwc_and_int32():
    batch = next(train_batches(numbered(12), DATA, 4, seed=0))
    assert batch["image"].shape == (4, 16, 16, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    rows = next(train_batches(tokens(12), DATA, 4, seed=0))
    assert rows["tokens"].shape == (4, 5)
    assert rows["tokens"].dtype == rows["label"].dtype == np.int32
    assert rows["tokens"].max() > 2**15, "unsigned on disk"


def test_the_seed_decides_the_order():
    one, other, third = (labels(train_batches(numbered(32), DATA, 4, s), 8) for s in (1, 1, 2))
    assert one == other != third


@pytest.mark.parametrize("processes", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_processes(case, processes):
    source, config = case
    whole = take(train_batches(source, config, 8, seed=3), 4)
    parts = [train_batches(source, config, 8, 3, index, processes) for index in range(processes)]
    assert_same(
        [joined(batches) for batches in zip(*(take(p, 4) for p in parts), strict=True)], whole
    )
    passes = [list(eval_batches(source, config, 8, i, processes)) for i in range(processes)]
    whole_pass = [joined(parts) for parts in zip(*passes, strict=True)]
    assert_same(whole_pass, list(eval_batches(source, config, 8)))


def test_batches_do_not_depend_on_threads_and_prefetching(case):
    source, config = case
    expected = take(train_batches(source, config, 8, seed=3), 4)
    for num_threads, prefetch in ((0, 64), (2, 0), (1, 1), (5, 100)):
        config.num_threads, config.prefetch = num_threads, prefetch
        assert_same(take(train_batches(source, config, 8, seed=3), 4), expected)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2), (1, 1)])
def test_resumed_equals_uninterrupted_with_any_number_of_processes(case, before, after):
    source, config = case
    expected = take(train_batches(source, config, 8, seed=3), 7)[5:]
    iterators = [train_batches(source, config, 8, 3, index, before) for index in range(before)]
    for iterator in iterators:
        take(iterator, 5)
    saved = {json.dumps(iterator.get_state()) for iterator in iterators}
    assert len(saved) == 1 and len(*saved) < 100
    others = [train_batches(source, config, 8, 3, index, after) for index in range(after)]
    for iterator in others:
        next(iterator)  # it has read ahead at another position
        iterator.set_state(json.loads(*saved))
    assert_same([joined(p) for p in zip(*(take(o, 2) for o in others), strict=True)], expected)


def test_single_records_equal_whole_batches():
    for changes in (dict(augmentations="flip"), {}):
        source, config = noise(10), data(**changes)
        assert_same(
            take(train_batches(Records(source), config, 8, seed=3), 4),
            take(train_batches(source, config, 8, seed=3), 4),
        )
        assert_same(
            list(eval_batches(Records(source), config, 4)), list(eval_batches(source, config, 4))
        )


def test_augmentation_differs_between_epochs_and_flips_one_half():
    source = noise(200)
    batches = take(train_batches(source, data(augmentations="flip"), 200, seed=0), 2)
    flipped = []
    for batch in batches:
        original = source.images[batch["label"]]
        same = (batch["image"] == original).all((1, 2, 3))
        assert (same | (batch["image"] == original[:, :, ::-1]).all((1, 2, 3))).all()
        flipped.append(~same[np.argsort(batch["label"])])
    assert all(0.4 < epoch.mean() < 0.6 for epoch in flipped)
    assert 0.4 < (flipped[0] != flipped[1]).mean() < 0.6


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_reads_each_image_once_in_order_and_pads(processes):
    passes = [list(eval_batches(numbered(10), DATA, 4, i, processes)) for i in range(processes)]
    batches = [joined(parts) for parts in zip(*passes, strict=True)]
    assert [len(batch["label"]) for batch in batches] == [4, 4, 4]
    valid = np.concatenate([batch["valid"] for batch in batches])
    np.testing.assert_array_equal(valid, [1] * 10 + [0] * 2)
    seen = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(seen[:10], np.arange(10))


def test_the_rows_of_one_batch_are_read_by_all_threads():
    barrier, waited = threading.Barrier(4, timeout=10), set()

    def meet(index):
        if threading.get_ident() not in waited:
            waited.add(threading.get_ident())
            barrier.wait()  # breaks unless four threads arrive before anything is read

    iterator = eval_batches(Records(numbered(32), meet), data(num_threads=4), 32)
    np.testing.assert_array_equal(next(iterator)["label"], np.arange(32))


def test_no_more_is_read_ahead_than_configured():
    read = []
    config = data(prefetch=64)
    iterator = train_batches(Records(numbered(100), read.append), config, 16, seed=0)
    next(iterator)
    deadline = time.monotonic() + 10
    while len(read) < 80 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(read) == 16 + 64
    del read[:]
    iterator = train_batches(Records(numbered(100), read.append), config, 64, seed=0)
    next(iterator)
    time.sleep(0.2)
    assert 64 < len(read) <= 3 * 64, "two batches, however large"


@pytest.mark.parametrize("whole_batches", [True, False])
def test_an_error_in_a_thread_is_raised_in_the_loop(whole_batches):
    class Broken(ArraySource):
        def read_batch(self, indices):
            raise InputError("image 7 of somewhere cannot be read")

    def fail(index):
        if index == 7:
            raise InputError("image 7 of somewhere cannot be read")

    images = numbered(20)
    source = Broken(images.images, images.labels) if whole_batches else Records(images, fail)
    with pytest.raises(InputError, match="image 7 of somewhere"):
        take(train_batches(source, DATA, 4, seed=0), 6)
    with pytest.raises(InputError, match="image 7 of somewhere"):
        list(eval_batches(source, DATA, 4))


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ((6, 0, 4), {}, "a batch of 6 cannot be split equally over 4 processes; set config"),
        ((2, 0, 4), {}, "a batch of 2 cannot be split"),
        ((0, 0, 1), {}, "a batch of 0 cannot be split"),
        ((4, 2, 2), {}, "process_index is 2; allowed: 0 to 1"),
        ((4, 0, 1), dict(num_threads=-1), "config.data.num_threads is -1"),
        ((4, 0, 1), dict(prefetch=-1), "config.data.prefetch -1"),
    ],
)
def test_impossible_settings_are_refused(arguments, changes, message):
    batch_size, index, count = arguments
    with pytest.raises(InputError, match=message):
        train_batches(numbered(8), data(**changes), batch_size, 0, index, count)
    with pytest.raises(InputError, match=message):
        eval_batches(numbered(8), data(**changes), batch_size, index, count)


def test_an_empty_source_is_refused():
    with pytest.raises(InputError, match="no records"):
        train_batches(numbered(0), DATA, 4, 0)


def test_batches_without_a_condition_have_images_and_labels():
    assert set(next(train_batches(numbered(8), DATA, 4, seed=0))) == {"image", "label"}
    assert set(next(eval_batches(numbered(8), DATA, 4))) == {"image", "label", "valid"}


@pytest.mark.parametrize("kind", ["edges", "low_resolution", "grey_levels"])
def test_conditions_are_derived_from_the_augmented_image_and_inputs_replace_it(kind):
    source = ArraySource(
        np.random.default_rng(0).integers(0, 256, (20, 24, 20, 1), np.uint8), np.arange(20)
    )
    augmented = dict(crop="resized", augmentations="flip")
    configs = (data(**augmented), data(condition=kind, **augmented), data(input=kind, **augmented))
    for batches in (
        [next(train_batches(source, config, 4, seed=3)) for config in configs],
        [next(eval_batches(source, config, 4)) for config in configs],
    ):
        images, with_condition, with_input = batches
        expected = np.stack([derive_condition(image, kind) for image in images["image"]])
        np.testing.assert_array_equal(with_condition["image"], images["image"])
        np.testing.assert_array_equal(with_condition["condition"], expected)
        assert set(with_condition) - set(images) == {"condition"}
        np.testing.assert_array_equal(with_input["image"], expected)
        assert set(with_input) == set(images)
