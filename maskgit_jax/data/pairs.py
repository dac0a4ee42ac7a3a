"""Images with a paired condition: two directories with files of the same names."""

import unicodedata
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maskgit_jax.configuration import condition_channels, require
from maskgit_jax.data.cropping import ChooseCrop
from maskgit_jax.data.folder import FolderSource, LabelledPath, Splits, list_splits
from maskgit_jax.data.protocol import Sources
from maskgit_jax.files import files_state, find_images, summarize_left_out
from maskgit_jax.images import NEAREST, as_array, to_pil


def open_pairs(place: str, data: ConfigDict) -> Sources:
    """Opens `place`/image and `place`/condition, see `list_pairs`."""
    (*splits, class_names, left_out), conditions = list_pairs(place, data.eval_fraction)
    # A tokenizer of conditions has the channels of images.
    channels = data.channels, condition_channels(data) or data.channels
    sources = [PairSource(files, conditions, data.image_size, *channels) for files in splits]
    return Sources(sources[0], sources[1], class_names, left_out)


def list_pairs(place: str, eval_fraction: float) -> tuple[Splits, dict[Path, Path]]:
    """Lists the images in `place`/image, by split, and the condition of each.

    The condition has the same path in `place`/condition, except for the suffix. Splits and
    classes are those of the images, see `folder.list_splits`.

    Raises:
        InputError: A directory is missing or empty, or an image has no condition or several.
    """
    roots = {name: Path(place) / name for name in ("image", "condition")}
    for root in roots.values():
        require(
            root.is_dir(),
            f"pairs:{place}: the directory {root} does not exist; put images into {place}/image "
            f"and the condition of each, under the same name, into {place}/condition",
        )
    splits = list_splits(str(roots["image"]), eval_fraction)
    by_name: dict[str, Path] = {}
    conditions = find_images(roots["condition"])
    for path in conditions.paths:
        other = by_name.setdefault(_pair_name(path, roots["condition"]), path)
        require(
            other is path,
            f"pairs:{place}: {other} and {path} are conditions of one image; remove one",
        )
    paths = sorted(file.path for file in (*splits[0], *splits[1]))
    names = {path: _pair_name(path, roots["image"]) for path in paths}
    missing = [path for path in paths if names[path] not in by_name]
    require(
        not missing,
        f"pairs:{place}: {missing and missing[0]} has no condition of the same name in "
        f"{roots['condition']} ({len(missing)} of {len(paths)} images have none)",
    )
    for name in by_name.keys() - set(names.values()):
        conditions.left_out["condition of no image that is used", by_name[name].name] += 1
    left_out = (*splits.left_out, *summarize_left_out(conditions.left_out))
    return splits._replace(left_out=left_out), {path: by_name[names[path]] for path in paths}


def _pair_name(path: Path, root: Path) -> str:
    """Returns what the paths of an image and of its condition share."""
    return unicodedata.normalize("NFC", str(path.relative_to(root).with_suffix("")))


class PairSource(FolderSource):
    """Reads pairs of image files; if one of a pair is unreadable, the next pair replaces it.

    Args:
        files: The images.
        conditions: Image -> its condition.
        size: Side in pixels of the crops.
        channels: Channels of images, 1 or 3.
        condition_channels: Channels of conditions, 1 or 3.
    """

    def __init__(
        self,
        files: list[LabelledPath],
        conditions: dict[Path, Path],
        size: int,
        channels: int,
        condition_channels: int,
    ):
        super().__init__(files, size, channels)
        self.conditions, self.condition_channels = conditions, condition_channels

    def state(self) -> bytes:
        return super().state() + files_state([self.conditions[file.path] for file in self.files])

    def _read_record(self, file: LabelledPath) -> dict[str, Any]:
        image = self._read(file.path, self.channels)
        condition = self._read(self.conditions[file.path], self.condition_channels)
        height, width = image.shape[:2]
        if condition.shape[:2] != (height, width):
            # Without interpolation: the condition may be a label map.
            condition = as_array(to_pil(condition).resize((width, height), NEAREST))
        return {"image": image, "condition": condition}

    def _read_cropped_record(
        self, file: LabelledPath, choose_crop: ChooseCrop, size: int
    ) -> dict[str, Any]:
        image = self._read_crop(file.path, choose_crop, size, self.channels)
        condition = self._read_crop(
            self.conditions[file.path], image.choose_same, size, self.condition_channels, NEAREST
        )
        return {"image": image.pixels, "condition": condition.pixels}
