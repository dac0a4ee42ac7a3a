"""Writes 7,562 colour pictures into a folder for each category, as `--data=folder:` takes them.

    npm pack emoji-datasource-google@16.0.0
    npm pack emoji-datasource-twitter@16.0.0
    python docs/emoji_images.py emoji emoji-datasource-*.tgz

The pictures, 64 pixels wide, are those of Noto Emoji and Twemoji.
"""

import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def _categories(emoji: list[dict]) -> Iterator[tuple[str, str]]:
    """Yields file names and categories, of variations in skin tone too."""
    for one in emoji:
        for variation in (one, *one.get("skin_variations", {}).values()):
            yield variation["image"], re.sub(r"\W+", "_", one["category"])


def main(folder: str, packages: list[str]) -> None:
    """Writes `folder/CATEGORY/SET-CODES.png` of each picture in the packages."""
    count = 0
    for package in packages:
        with tarfile.open(package) as archive:
            categories = dict(_categories(json.load(archive.extractfile("package/emoji.json"))))
            for name in map(PurePosixPath, archive.getnames()):
                category = categories.get(name.name, "Component")
                if name.parent.name != "64" or category == "Component":  # skin tones by themselves
                    continue
                place = Path(folder, category)
                place.mkdir(parents=True, exist_ok=True)
                data = archive.extractfile(str(name)).read()
                (place / f"{name.parts[2]}-{name.name}").write_bytes(data)
                count += 1
    print(f"wrote {count} pictures to {folder}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
