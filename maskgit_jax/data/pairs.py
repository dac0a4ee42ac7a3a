"""A user's images with a picture beside each: two folders, in which partners have one name."""

from pathlib import Path
from typing import Any, NamedTuple

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.folder import FolderSource, FoundImages, LabelledPath, find_images
from maskgit_jax.data.transforms import Choose
from maskgit_jax.images import IMAGE_SUFFIXES, NEAREST, as_array, to_pil


class FoundPairs(NamedTuple):
    """The files of two folders.

    Attributes:
        images: By split.
        conditions: Image -> the picture that belongs to it.
    """

    images: FoundImages
    conditions: dict[Path, Path]


def find_pairs(place: str, eval_fraction: float) -> FoundPairs:
    """Lists the images under `place`/image and their partners under `place`/condition.

    Partners have the same path in their folder but for its ending. Splits and classes are those
    of the images, see `folder.find_images`.

    Raises:
        InputError: A folder is missing, holds no image, or an image lacks its partner.
    """
    roots = {name: Path(place) / name for name in ("image", "condition")}
    for root in roots.values():
        require(
            root.is_dir(),
            f"pairs:{place}: there is no folder {root}; put images into {place}/image and the "
            f"picture that belongs to each, under the same name, into {place}/condition",
        )
    images = find_images(str(roots["image"]), eval_fraction)
    partners: dict[Path, Path] = {}
    for path in sorted(roots["condition"].rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            other = partners.setdefault(path.relative_to(roots["condition"]).with_suffix(""), path)
            require(
                other is path,
                f"pairs:{place}: {other} and {path} are pictures for one image; remove one",
            )
    conditions, lonely = {}, []
    for file in sorted([*images.train, *images.evaluation]):
        partner = partners.get(file.path.relative_to(roots["image"]).with_suffix(""))
        if partner is None:
            lonely.append(file.path)
        else:
            conditions[file.path] = partner
    if lonely:
        raise InputError(
            f"pairs:{place}: {lonely[0]} has no partner of the same name in {roots['condition']} "
            f"({len(lonely)} of {len(lonely) + len(conditions)} images have none)"
        )
    return FoundPairs(images, conditions)


class PairSource(FolderSource):
    """Reads pairs of image files; if either is unreadable, the next pair takes their place.

    Args:
        files: The images.
        conditions: Image -> the picture that belongs to it.
        size: Side in pixels of what will be cut out.
        channels: Of images, 1 or 3.
        condition_channels: Of conditions, 1 or 3.
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

    def record(self, file: LabelledPath) -> dict[str, Any] | None:
        """Returns the record of one pair, None if either picture cannot be read."""
        record = super().record(file)
        condition = self.read(self.conditions[file.path], self.condition_channels)
        if record is None or condition is None:
            return None
        height, width = record["image"].shape[:2]
        if condition.shape[:2] != (height, width):
            # Without blending: the condition may be a map of labels.
            condition = as_array(to_pil(condition).resize((width, height), NEAREST))
        return {**record, "condition": condition}

    def cut_file(self, file: LabelledPath, choose: Choose, size: int) -> dict[str, Any] | None:
        """Returns the record of the same square of one pair, None if either cannot be read."""
        image = self.part(file.path, choose, size, self.channels)
        same = choose if image is None else image.choose_same
        path = self.conditions[file.path]
        condition = self.part(path, same, size, self.condition_channels, NEAREST)
        if image is None or condition is None:
            return None
        return {"image": image.pixels, "condition": condition.pixels, "label": file.label}
