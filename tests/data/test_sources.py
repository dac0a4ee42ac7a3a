import gzip
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data import tokens as token_files
from maskgit_jax.data.cropping import choose_center
from maskgit_jax.data.idx import read_idx
from maskgit_jax.data.in_memory import ArraySource
from maskgit_jax.data.loader import eval_batches, train_batches
from maskgit_jax.data.protocol import Sources
from maskgit_jax.data.sources import class_difference, match_classes, open_sources
from tests.example import preset


def data(source: str, **changes):
    config = preset("vqgan").data.unlock()
    config.source = source
    config.update(changes)
    return config


def write_image(path, size=(20, 30), mode="RGB", value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def write_idx(path, array):
    header = struct.pack(">I", 0x800 + array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_mnist(folder):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("t10k", 6)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz",
                  rng.integers(0, 255, (count, 28, 28), np.uint8))  # fmt: skip
        labels = np.arange(count, dtype=np.uint8) % 3
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels)


def test_digits_are_split_without_overlap():
    sources = open_sources(data("digits"))
    assert (len(sources.train), len(sources.evaluation)) == (1437, 360)
    assert sources.train[0]["image"].shape == (16, 16, 1)
    assert sources.train[0]["image"].dtype == np.uint8
    known = {sources.train[i]["image"].tobytes() for i in range(1437)}
    assert not any(sources.evaluation[i]["image"].tobytes() in known for i in range(360))


def test_idx_files_are_read(tmp_path):
    write_mnist(tmp_path)
    sources = open_sources(data(f"idx:{tmp_path}", image_size=28))
    assert (len(sources.train), len(sources.evaluation)) == (12, 6)
    assert sources.class_names == ("0", "1", "2")
    assert sources.train[4]["label"] == 1
    assert open_sources(data(f"idx:{tmp_path}", channels=3)).train[0]["image"].shape == (16, 16, 3)


def test_a_truncated_idx_file_is_named(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">IIII", 0x803, 5, 28, 28) + b"\0" * 100)
    with pytest.raises(InputError, match="train-images.*truncated"):
        read_idx(path)


def test_directories_have_classes_by_name_and_stable_splits(tmp_path):
    for index in range(20):
        write_image(tmp_path / ("cat" if index % 2 else "dog") / f"{index}.png")
    sources = open_sources(data(f"folder:{tmp_path}", channels=3))
    assert sources.class_names == ("cat", "dog")
    assert len(sources.evaluation) == 2
    held_out = {file.path for file in sources.evaluation.files}
    assert not held_out & {file.path for file in sources.train.files}
    again = open_sources(data(f"folder:{tmp_path}", channels=3))
    assert {file.path for file in again.evaluation.files} == held_out


def test_split_directories(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            write_image(tmp_path / split / "cat" / f"{index}.jpg")
    sources = open_sources(data(f"folder:{tmp_path}"))
    assert (len(sources.train), len(sources.evaluation)) == (4, 2)


def test_a_corrupt_image_is_reported_once_and_replaced(tmp_path):
    for index in range(10):
        write_image(tmp_path / f"{index}.png", value=(10, 20, 30))
    source = open_sources(data(f"folder:{tmp_path}", channels=3)).train
    broken = source.files[3].path
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.warns(UserWarning, match=f"unreadable image {broken}.*1 so far"):
        assert source[3]["image"].shape == (30, 20, 3)
    assert source[3]["image"].shape == (30, 20, 3)  # and no second warning
    assert source.unreadable == {broken}


def test_the_crop_of_a_corrupt_image_is_that_of_the_next(tmp_path):
    for index in range(10):
        write_image(tmp_path / f"{index}.jpg", value=(10 * index, 20, 30))
    source = open_sources(data(f"folder:{tmp_path}", channels=3)).train
    broken = source.files[3].path
    broken.write_bytes(broken.read_bytes()[:-20])  # its header is intact
    with pytest.warns(UserWarning, match=f"unreadable image {broken}.*1 so far"):
        record = source.read_cropped(3, choose_center, 16)
    following = source.read_cropped(4, choose_center, 16)
    np.testing.assert_array_equal(record["image"], following["image"])
    batches = list(eval_batches(source, data(f"folder:{tmp_path}", channels=3), 4))
    np.testing.assert_array_equal(batches[0]["image"][3], record["image"])


@pytest.mark.filterwarnings("ignore:unreadable image")
def test_a_directory_of_corrupt_images_is_an_error(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    source = open_sources(data(f"folder:{tmp_path}")).train
    with pytest.raises(InputError, match="none of the"):
        source[0]
    with pytest.raises(InputError, match="none of the"):
        next(train_batches(source, data(f"folder:{tmp_path}"), 2, seed=0))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder:{}/missing", "directory does not exist"),
        ("folder:{}", "contains no image files"),
        ("idx:{}/missing", "directory does not exist"),
        ("idx:{}", "train-images-idx3-ubyte.gz is missing"),
        ("tokens:{}", "tokens.json is missing, so it is no token dataset"),
        ("tfds:no_such_dataset_anywhere", "neither a TFDS dataset"),
        ("digits:{}", "write 'digits', without a place"),
        ("folder", "write it as folder:DIR"),
        ("lmdb:{}", "allowed: digits, idx:DIR, folder:DIR"),
        ("pairs:", "write it as pairs:DIR"),
    ],
)
def test_a_bad_source_is_named(tmp_path, source, message):
    with pytest.raises(InputError, match=message):
        open_sources(data(source.format(tmp_path)))


def test_a_prepared_dataset_is_read_without_tensorflow(tmp_path):
    program = f"""
import io, sys, numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({{
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["a", "b"])}}))
    def _split_generators(self, manager):
        return {{"train": self._generate_examples(10), "test": self._generate_examples(4)}}
    def _generate_examples(self, count):
        for i in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (12, 9), (i, 0, 0)).save(buffer, "PNG")
            buffer.seek(0)
            yield i, {{"image": buffer, "label": i % 2}}

Tiny(data_dir={str(tmp_path)!r}, file_format="array_record").download_and_prepare()
from maskgit_jax.data.tfds import open_tfds
data = ConfigDict(dict(eval_fraction=0.1, channels=3))
train, held_out, names, _ = open_tfds({str(tmp_path / "tiny" / "1.0.0")!r}, data)
assert (len(train), len(held_out), names) == (10, 4, ("a", "b")), names
assert train[0]["image"].shape == (9, 12, 3)
from maskgit_jax.data.cropping import choose_center
for i in range(10):
    record = train.read_cropped(i, choose_center, 4)
    red = record["image"][..., 0]
    assert red.shape == (4, 4) and len(np.unique(red)) == 1 and record["label"] in (0, 1)
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_token_files_are_read_as_written(tmp_path):
    rng = np.random.default_rng(0)
    rows, labels = rng.integers(0, 300, (10, 4)), np.arange(10)
    for split in token_files.SPLITS:
        batches = [(rows[:6], labels[:6]), (rows[6:], labels[6:])]
        token_files.write_split(tmp_path, split, batches, 10, codebook_size=300)
    described = {"input": "image", "codebook_size": 300, "grids": [[2, 2]], "class_names": ["x"]}
    token_files.write_description(tmp_path, described)
    assert token_files.read_description(str(tmp_path)) == described
    train, _, class_names, _ = open_sources(data(f"tokens:{tmp_path}"))
    np.testing.assert_array_equal(train[7]["tokens"], rows[7])
    assert train[7]["label"] == 7 and class_names == ("x",)
    (tmp_path / "train_tokens.npy").write_bytes(b"cut")
    with pytest.raises(InputError, match="split train is missing or damaged"):
        open_sources(data(f"tokens:{tmp_path}"))


def test_tokens_of_an_earlier_version_are_refused(tmp_path):
    token_files.write_description(tmp_path, {"codebook_size": 300, "grid": [2, 2]})
    with pytest.raises(InputError, match="earlier version.*encode"):
        token_files.read_description(str(tmp_path))


def labelled_sources(class_names: tuple[str, ...]) -> Sources:
    labels = np.arange(2 * len(class_names)) % len(class_names)
    source = ArraySource(np.zeros((len(labels), 16, 16, 1), np.uint8), labels)
    return Sources(source, source, class_names, ("not an image: 1 (.txt)",))


@pytest.mark.parametrize(
    ("names", "known", "labels"),
    [
        (("cat", "dog"), ("cat", "dog"), [0, 1]),
        (("cat", "dog"), ("dog", "cat"), [1, 0]),
        (("cat", "dog"), ("ant", "cat", "bee", "dog"), [1, 3]),
        (("cafe\u0301", "cat"), ("caf\u00e9", "cat"), [0, 1]),
        (("a", "b", "c"), ("all",), [0, 0, 0]),
        (("a", "b"), (), [0, 1]),
    ],
)
def test_labels_are_matched_by_the_names_of_classes(names, known, labels):
    sources = match_classes("mine", labelled_sources(names), known)
    for source in (sources.train, sources.evaluation):
        expected = labels * 2
        assert source.labels.tolist() == expected and len(source) == len(expected)
        assert [source[index]["label"] for index in range(len(source))] == expected
        assert source.read_batch(np.arange(len(source)))["label"].tolist() == expected
        assert source.read_cropped(1, choose_center, 8)["label"] == expected[1]
    assert sources.left_out == ("not an image: 1 (.txt)",)
    if len(known) > 1:
        assert class_difference(sources.class_names, known) == ""


@pytest.mark.parametrize(
    ("names", "culprits"),
    [(("cat", "zebra"), "zebra"), (("ant", "cat", "dog"), "ant"), (("all",), "all")],
)
def test_classes_that_a_run_lacks_are_refused(names, culprits):
    message = rf"mine has classes that the run lacks \({culprits}\); those of the run are cat, dog"
    with pytest.raises(InputError, match=message):
        match_classes("mine", labelled_sources(names), ("cat", "dog"))
