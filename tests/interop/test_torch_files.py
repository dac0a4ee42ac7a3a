import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.interop.torch_files import read_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = [GOLDEN / "tensors_zip.pth", GOLDEN / "tensors_legacy.pth"]
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
EXPECTED = dict(  # what make_torch_files.py put in
    plain=BASE,
    transposed=BASE.T,
    part=BASE[1:3, 2:5],
    every_second=BASE[:, ::2],
    parameter=np.array([0.5, -1.5], np.float32),
    float64=np.array([1 / 3]),
    float16=np.array([0.1, -2.0], np.float16),
    bfloat16=np.array([[1.0, -3.140625], [65536.0, 0.0]], np.float32),
    scalar=np.array(1.5, np.float32),
    int64=np.array(-(2**40)),
    int32=np.array([-7, 7], np.int32),
    int16=np.array([-300], np.int16),
    int8=np.array([-3], np.int8),
    uint8=np.array([255], np.uint8),
    bool=np.array([True, False, True]),
    empty=np.zeros((0, 3), np.float32),
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_types_strides_and_offsets_of_both_formats(path):
    state = read_state_dict(path)
    assert list(state) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        assert isinstance(state[name], np.ndarray), name
        assert state[name].dtype == expected.dtype, name
        assert state[name].flags.c_contiguous
        np.testing.assert_array_equal(state[name], expected, err_msg=name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_truncated_file_is_an_error_of_one_line(path, tmp_path):
    content = path.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(0, len(content), 97):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match="cut.pth") as caught:
            read_state_dict(cut)
        assert "\n" not in str(caught.value)


def zip_file(folder, content: bytes):
    path = folder / "file.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


def test_other_objects_are_named_and_never_created(tmp_path):
    content = pickle.dumps({"weight": io.StringIO("x")}, protocol=2)
    with pytest.raises(InputError, match=r"holds _io\.StringIO; only tensors"):
        read_state_dict(zip_file(tmp_path, content))
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    with pytest.raises(InputError, match=r"holds os\.system"):
        read_state_dict(zip_file(tmp_path, bomb))
    in_state = pickle.dumps({"epoch": 3, "state_dict": {"weight": io.StringIO("x")}}, protocol=2)
    with pytest.raises(InputError, match=r"holds _io\.StringIO; only tensors"):
        read_state_dict(zip_file(tmp_path, in_state))
    assert not (tmp_path / "ran").exists()


def test_only_the_state_dict_of_a_checkpoint_is_read(tmp_path):
    # As PyTorch Lightning writes one; the object under "hooks" would run a command.
    beside = pickle.dumps({OrderedDict: Path("a"), io.StringIO: [io.StringIO("x")]}, 2)[2:-1]
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR"
    path = tmp_path / "last.ckpt"
    with zipfile.ZipFile(FILES[0]) as stored, zipfile.ZipFile(path, "w") as archive:
        for name in stored.namelist():
            data = stored.read(name)
            if name.endswith("data.pkl"):
                keys = [b"S'callbacks'\n" + beside, b"S'hooks'\n" + bomb]
                data = b"".join([b"\x80\x02(", *keys, b"S'state_dict'\n", data[2:-1], b"d."])
            archive.writestr(name, data)
    state = read_state_dict(path)
    assert list(state) == list(EXPECTED)
    np.testing.assert_array_equal(state["plain"], BASE)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [({"epoch": 3}, "holds a int under 'epoch'"), ([1, 2], "holds a list, not a state dict")],
)
def test_containers_without_tensors_are_an_error(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_state_dict(zip_file(tmp_path, pickle.dumps(content, protocol=2)))


def test_missing_files_and_other_formats_are_an_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_state_dict(tmp_path / "none.pth")
    other = tmp_path / "other.pth"
    other.write_bytes(pickle.dumps(3))
    with pytest.raises(InputError, match="not one of torch"):
        read_state_dict(other)
    np.savez(other.with_suffix(".npz"), x=BASE)
    with pytest.raises(InputError, match=r"no data\.pkl"):
        read_state_dict(other.with_suffix(".npz"))


def test_a_tensor_beyond_its_storage_is_an_error(tmp_path):
    content = (GOLDEN / "tensors_legacy.pth").read_bytes()
    path = tmp_path / "beyond.pth"
    path.write_bytes(content.replace(b"K\x04K\x06\x86", b"K\x04K\x07\x86", 1))  # shape (4, 7)
    with pytest.raises(InputError, match="beyond its storage"):
        read_state_dict(path)
