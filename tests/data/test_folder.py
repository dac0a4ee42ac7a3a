"""Directories of images as users have them: links, hidden files, sidecars, any ending."""

import io
import os
import random
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.folder import HELD_OUT_NAMES, TRAIN_NAMES, FolderSource, list_splits
from maskgit_jax.data.image_sets import open_images
from maskgit_jax.data.loader import train_batches
from maskgit_jax.data.sources import describe_sources, open_sources
from maskgit_jax.files import find_images
from tests.example import preset

NFD = unicodedata.normalize("NFD", "café")
NAMES = ["cat", "Cat", "CAT", "café", NFD, "cat.png", "a dog", "日本", "10", "2", "train ride"]
ENDINGS = [
    "png",
    "PNG",
    "jpeg",
    "JPG",
    "jfif",
    "webp",
    "tif",
    "avif",
    "jp2",
    "qoi",
    "dat",
    "v2",
    "",
]
SIDECARS = ["notes.txt", "IMG_1.HEIC", "IMG_1.xmp", "labels.csv", "README", "movie.mp4"]
IGNORED = [".DS_Store", "._1.png", "Thumbs.db", "desktop.ini", ".hidden.jpg", "THUMBS.DB"]
IGNORED_FOLDERS = [".ipynb_checkpoints", "__MACOSX", ".thumbnails", "@eaDir", "lost+found"]


def encoded(form: str, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> bytes:
    rows, columns = np.mgrid[: size[1], : size[0]]
    ramp = np.stack([rows * 9, columns * 12, (rows + columns) * 5], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp).convert(mode).save(file, form)
    return file.getvalue()


FORMS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "JPEG2000", "QOI", "GIF", "BMP")
CONTENTS = [encoded(form) for form in FORMS]


def write(path: Path, content: bytes = CONTENTS[0]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class RandomTree:
    """A random folder of images, and what is true of it.

    Attributes:
        images: Path -> class, in Unicode's form NFC.
        numbers: Reason -> number of files and folders that are left out.
    """

    def __init__(self, place: Path, seed: int):
        self.rng, self.place, self.root = random.Random(seed), place, place / "images"
        self.images: dict[Path, str] = {}
        self.numbers = {"not an image": 0, "hidden or system file": 0}
        self.numbers |= {"broken link or special file": 0, "link to a folder around it": 0}

    def fill(self, folder: Path, name: str, count: int) -> None:
        """Writes images of one class, and other things, into a folder that is perhaps a link."""
        rng = self.rng
        real = folder
        if rng.random() < 0.3:
            real = self.place / f"store{len(list(self.place.iterdir()))}"
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(real)
        real.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            ending = rng.choice(ENDINGS)
            below = rng.choice(["", "", "deep", "deep/er.png"]) if folder != self.root else ""
            path = Path(below, f"{rng.choice(['x', 'é', 'Ä'])}{number}{'.' * bool(ending)}{ending}")
            write(real / path, rng.choice(CONTENTS))
            self.images[folder / path] = unicodedata.normalize("NFC", name)
        for kind, choices in (("not an image", SIDECARS), ("hidden or system file", IGNORED)):
            for other in rng.sample(choices, rng.randint(0, 3)):
                write(real / other, b"\0\5\x16\7 no image")
                self.numbers[kind] += 1
        if rng.random() < 0.3:
            write(real / rng.choice(IGNORED_FOLDERS) / "1.png")
            self.numbers["hidden or system file"] += 1
        if rng.random() < 0.3:
            (real / "broken.png").symlink_to(rng.choice(["nowhere.png", "broken.png"]))
            self.numbers["broken link or special file"] += 1
        if rng.random() < 0.3:
            (real / "up").symlink_to(rng.choice([folder, self.root, self.place]))
            self.numbers["link to a folder around it"] += 1


@pytest.mark.parametrize("seed", range(40))
def test_random_directories_are_read_as_they_are(tmp_path, seed):
    tree = RandomTree(tmp_path, seed)
    rng, root, layout = tree.rng, tree.root, ("classes", "splits", "train", "flat")[seed % 4]
    names = rng.sample(NAMES, rng.randint(1, 4)) if layout != "flat" else [""]
    train = rng.choice(TRAIN_NAMES) if layout in ("splits", "train") else ""
    class_root = root / rng.choice([train, train.title(), train.upper()])
    for name in names:
        tree.fill(class_root / name if name else root, name or "all", rng.randint(2, 6))
    held_out = set()
    if layout == "splits":
        spelled = rng.choice(HELD_OUT_NAMES)
        before = set(tree.images)
        for name in names:
            other = name if "café" in names else unicodedata.normalize("NFC", name)
            tree.fill(root / rng.choice([spelled, spelled.title()]) / other, name, 2)
            spelled = next(p.name for p in root.iterdir() if p.name.lower() == spelled.lower())
        held_out = {path for path in set(tree.images) - before if path.parts}
    (class_root / "empty one").mkdir(parents=True, exist_ok=True)

    splits = list_splits(str(root), 0.2)
    class_names = tuple(sorted(set(tree.images.values())))
    assert splits.class_names == class_names
    files = [*splits.train, *splits.held_out]
    labelled = {file.path: class_names[file.label] for file in files}
    if layout == "splits" and len({path.relative_to(root).parts[0] for path in held_out}) > 1:
        held_out = {file.path for file in splits.held_out}  # two spellings: the first is used
        assert labelled.items() <= tree.images.items()
    else:
        assert labelled == tree.images and len(files) == len(labelled)
    if layout == "splits":
        assert {file.path for file in splits.held_out} == held_out
    assert {file.label for file in splits.train} == set(range(len(class_names)))
    texts = "; ".join(splits.left_out)
    assert "folder without images: 1 (empty one)" in texts
    for reason, number in tree.numbers.items():
        assert (f"{reason}: {number} " in texts) == (number > 0), (reason, number, texts)
    source = FolderSource(files, 16, 3)
    assert all(source[index]["image"].shape[2] == 3 for index in range(len(files)))
    assert not source.unreadable


SPLIT_CASES = [
    (["train/cat/1", "train/cat/2", "train/dog/1"], ("cat", "dog"), None),
    (["Training/1", "Training/2"], ("all",), None),
    (["TRAIN/cat/1", "Val/cat/1"], ("cat",), ["Val/cat/1"]),
    (["train/1", "Validation/1", "test/1", "test/2"], ("all",), ["Validation/1"]),
    (["train/1", "testing/1"], ("all",), ["testing/1"]),
    (["train/cat/1", "train/cat/2", "extra/1", "loose"], ("cat",), None),
    (["train/1", "train/2", "plane/1", "plane/2"], ("plane", "train"), None),
    (["cat/1", "dog/1", "cat/2", "dog/2"], ("cat", "dog"), None),
    (["1", "2"], ("all",), None),
]


@pytest.mark.parametrize(("paths", "class_names", "held_out"), SPLIT_CASES)
def test_split_directories_are_recognised(tmp_path, paths, class_names, held_out):
    for path in paths:
        write(tmp_path / f"{path}.png")
    splits = list_splits(str(tmp_path), 0.1)
    assert splits.class_names == class_names
    if held_out is not None:
        assert [file.path for file in splits.held_out] == [tmp_path / f"{p}.png" for p in held_out]
    assert splits.train and splits.held_out
    unused = len(paths) - len(splits.train) - len(splits.held_out)
    assert bool(unused) == any(f"split folders: {unused} " in text for text in splits.left_out)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["val/cat/1", "val/cat/2"], "held-out images in 'val', but no folder 'train'"),
        (["Test/1", "cat/1"], "held-out images in 'Test'.*rename the folder if it is a class"),
        (["train/1", "Training/1"], "several folders of training images, train and Training"),
        (["cat/1", "loose"], "loose.png is not in a class directory.*one of: cat, or out of"),
        (["train/cat/1", "test/1"], "test/1.png is not in a class directory"),
        (["train/cat/1", "val/dog/1"], "val/dog/1.png is not in a class directory"),
        (["images/train/1", "images/val/1"], "if that is the dataset, give folder:.*/images"),
        (["cat/Train/1", "cat/test/1", "dog/Train/1"], "put folders of classes into those of the"),
        (["one"], "has one image"),
    ],
)
def test_directories_that_have_no_clear_meaning_are_refused(tmp_path, paths, message):
    for path in paths:
        write(tmp_path / f"{path}.png")
    with pytest.raises(InputError, match=message):
        list_splits(str(tmp_path), 0.1)


def test_every_class_keeps_an_image_for_training_if_it_has_two(tmp_path):
    for number in range(20):
        write(tmp_path / str(number) / "1.png")
    splits = list_splits(str(tmp_path), 0.5)
    assert len(splits.held_out) == 10 and "class without training images: 10" in splits.left_out[0]
    for number in range(0, 20, 2):
        write(tmp_path / str(number) / "2.png")
    splits = list_splits(str(tmp_path), 0.9)
    assert len(splits.held_out) == 10 and len({file.label for file in splits.train}) == 20
    assert not splits.left_out


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    write(tmp_path / "cat" / os.fsdecode(b"\xff.png"))
    write(tmp_path / "cat" / "2.png")
    assert len(find_images(tmp_path).paths) == 2
    assert len(list_splits(str(tmp_path), 0.1).train) == 1
    write(tmp_path / os.fsdecode(b"dog\xff") / "1.png")
    with pytest.raises(InputError, match=r"the folder dog\? in .* is not encoded in UTF-8; rename"):
        list_splits(str(tmp_path), 0.1)


def test_what_is_left_out_is_described_in_one_line(tmp_path):
    for number in range(4):
        write(tmp_path / "cat" / f"{number}.png")
        write(tmp_path / "dog" / f"{number}.heic", b"ftypheic")
    write(tmp_path / "dog" / "a.bin", CONTENTS[2])
    write(tmp_path / "dog" / "b", CONTENTS[1])
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    data = preset("vqgan").data.unlock()
    data.source = f"folder:{tmp_path}"
    described = describe_sources("folder:mine", open_sources(data))
    assert described == (
        "folder:mine: 5 training and 1 held-out images, 2 classes (cat, dog); left out: "
        "broken link or special file: 1 (pipe.png); not an image: 4 (.heic 4)"
    )


def test_other_directories_of_images_follow_the_same_rule(tmp_path, capsys):
    tree = RandomTree(tmp_path, 3)
    for name in ("cat", NFD):
        tree.fill(tree.root / name, name, 3)
    opened = open_images(tree.root)
    assert len(opened) == 6 and opened.class_names == ("café", "cat")
    assert f"{tree.root}: 6 images; left out: " in capsys.readouterr().out
    with pytest.raises(InputError, match="contains no image files .*hidden or system file: 1"):
        find_images(write(tmp_path / "other" / "._1.png").parent)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file that is cut off, or in which bits are flipped, most of them in its header."""
    if rng.random() < 0.5:
        return content[: rng.integers(0, len(content) // 2)]
    flipped = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        limit = min(len(flipped), 100) if rng.random() < 0.7 else len(flipped)
        flipped[rng.integers(0, limit)] ^= 1 << rng.integers(0, 8)
    return bytes(flipped)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:PIL")
def test_damaged_files_of_all_formats_are_named_counted_and_left_out(tmp_path):
    rng, endings, whole = np.random.default_rng(0), {}, []
    Image.init()
    for ending, form in Image.registered_extensions().items():
        endings.setdefault(form, ending)
    for form in set(endings) & set(Image.OPEN) & set(Image.SAVE) - {"EPS", "GRIB", "HDF5", "WMF"}:
        for mode in ("RGB", "L", "1", "P", "CMYK", "I;16"):
            try:
                whole.append((endings[form], encoded(form, mode)))
            except (OSError, ValueError):
                continue
    assert len({ending for ending, _ in whole}) >= 18
    for number in range(400):
        ending, content = whole[number % len(whole)]
        write(tmp_path / f"{number}{ending}", damaged(content, rng))
    for number in range(40):
        write(tmp_path / f"intact{number}.png")
    data = preset("vqgan").data.unlock()
    data.source, data.channels = f"folder:{tmp_path}", 3
    source = open_sources(data).train
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = [source[index] for index in range(len(source))]
        batches = train_batches(source, data, 16, seed=0)
        assert all(next(batches)["image"].shape == (16, 16, 16, 3) for _ in range(10))
    named = [str(each.message) for each in caught if "unreadable image" in str(each.message)]
    assert len(named) == len(source.unreadable) > 250
    assert f"({len(named)} so far)" in named[-1]
    for record, file in zip(records, source.files, strict=True):
        assert record["image"].dtype == np.uint8 and record["image"].shape[2] == 3
        assert "intact" not in file.path.name or file.path not in source.unreadable
