import numpy as np
import pytest
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError
from maskgit_jax.files import (
    atomic_path,
    create_output_directory,
    default_cache_directory,
    expand_user_paths,
    list_image_files,
    user_path,
    write_arrays,
    write_text,
)


def test_files_appear_only_when_they_are_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with pytest.raises(RuntimeError), atomic_path(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert not path.exists()
    write_text(path, "whole")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]
    write_arrays(tmp_path / "b.npz", {"a": np.arange(3)})
    assert np.load(tmp_path / "b.npz")["a"].tolist() == [0, 1, 2]


def test_an_output_directory_that_cannot_be_created_is_refused(tmp_path):
    assert create_output_directory(str(tmp_path / "a/b")).is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out=.*file/a cannot be written"):
        create_output_directory(str(tmp_path / "file/a"))


def test_the_cache_directory_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_directory() == tmp_path / "maskgit_jax"


def test_image_files_are_listed_in_order(tmp_path):
    for name in ("b/2.JPG", "a.png", "b/1.webp", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in list_image_files(tmp_path)]
    assert names == ["a.png", "b/1.webp", "b/2.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match="empty contains no image files that Pillow reads .it is empty"
    ):
        list_image_files(tmp_path / "empty")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("~/images", "/home/me/images"),
        ("~", "/home/me"),
        ("folder:~/images", "folder:/home/me/images"),
        ("held_out:3", "held_out:3"),
        ("a/~/b", "a/~/b"),
        ("", ""),
    ],
)
def test_the_home_directory_replaces_a_tilde(monkeypatch, place, expected):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path(place) == expected
    config = ConfigDict({"data": {"source": place}, "seed": 0}).lock()
    expand_user_paths(config)
    assert config.to_dict() == {"data": {"source": expected}, "seed": 0}
