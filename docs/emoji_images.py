"""Writes 7,562 color images into one folder per category, for `--data=folder:`.

    npm pack emoji-datasource-google@16.0.0
    npm pack emoji-datasource-twitter@16.0.0
    python docs/emoji_images.py emoji emoji-datasource-*.tgz

The images, 64 pixels wide, are from Noto Emoji and Twemoji.
"""

import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def _categories(emoji: list[dict]) -> Iterator[tuple[str, str]]:
    """Yields file names and categories, including variations in skin tone."""
    for entry in emoji:
        for variation in (entry, *entry.get("skin_variations", {}).values()):
            yield variation["image"], re.sub(r"\W+", "_", entry["category"])


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is no file"
    return file.read()


def main(folder: str, packages: list[str]) -> None:
    """Writes `folder/CATEGORY/SET-CODES.png` for each image in the packages."""
    count = 0
    for package in packages:
        with tarfile.open(package) as archive:
            categories = dict(_categories(json.loads(_read(archive, "package/emoji.json"))))
            for name in map(PurePosixPath, archive.getnames()):
                category = categories.get(name.name, "Component")
                if name.parent.name != "64" or category == "Component":  # skin tones alone
                    continue
                target = Path(folder, category)
                target.mkdir(parents=True, exist_ok=True)
                data = _read(archive, str(name))
                (target / f"{name.parts[2]}-{name.name}").write_bytes(data)
                count += 1
    print(f"wrote {count} images to {folder}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
