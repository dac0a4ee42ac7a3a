"""Jumps at the edge of edited regions of photos, as in docs/results/editing.md.

`python docs/seams.py RUN PHOTOS RESULTS` edits each photo of the folder PHOTOS with a MaskGIT of
colors, in an ellipse, a box and a quarter to its right, writes the results to the folder RESULTS
and prints the table. With two more arguments, `docs/seams.py RUN PHOTOS RESULTS BEFORE IMAGE`, it
shows details of the results of another version of the code, in BEFORE, beside these in one IMAGE.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

import maskgit_jax
from maskgit_jax.images import write_png

LONGER_SIDE = 1024
DETAIL = (448, 336)
DETAILS = (  # file in RESULTS, left and top of a detail
    ("china-outpaint", 192, 91),
    ("Garden-ellipse", 290, 110),
    ("Bridge_by_Sander_Klootwijk-ellipse", 288, 120),
)


def open_photo(path: Path) -> np.ndarray:
    """Returns a photo uint8 [H, W, 3] of at most 1024 pixels."""
    with Image.open(path) as photo:
        photo = ImageOps.exif_transpose(photo).convert("RGB")
    photo.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(photo)


def edits(model: maskgit_jax.Model, photo: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the edited photo and its mask for each kind of mask."""
    height, width = photo.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    ellipse = ((rows / height - 0.5) ** 2 + (columns / width - 0.5) ** 2) < 0.25**2
    box = (rows >= 0.55 * height) & (rows < 0.9 * height)
    box &= (columns >= 0.1 * width) & (columns < 0.5 * width)
    known = round(0.75 * width)
    results = {
        "ellipse": model.inpaint(photo, ellipse),
        "box": model.inpaint(photo, box),
        "outpaint": model.outpaint(photo[:, :known], right=width - known),
    }
    return {kind: (result.images[0], result.mask) for kind, result in results.items()}


def jumps(image: np.ndarray, mask: np.ndarray, inside: bool = False) -> tuple[float, float]:
    """Returns the mean jump of color and of its gradient across the edge of the mask, in levels.

    If `inside`, they are the means over all unmasked pixels instead.
    """
    colors, gradients = [], []
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        lines = np.moveaxis(image.astype(float), axis, 0)[::step]
        masked = np.moveaxis(mask, axis, 0)[::step]
        count = len(lines) - 3
        here = np.stack([masked[i : count + i] for i in range(4)])
        here = ~here.any(axis=0) if inside else ~here[0] & ~here[1] & here[2] & here[3]
        outer, first, second, inner = (lines[i : count + i][here] for i in range(4))
        colors.append(abs(second - first))
        gradients.append(abs((inner - second) - (first - outer)))
    return float(np.concatenate(colors).mean()), float(np.concatenate(gradients).mean())


def streaks(image: np.ndarray, mask: np.ndarray, depth: int = 8) -> float:
    """Returns how much of the detail at the edge of the mask is repeated `depth` pixels inside.

    It is the correlation of a pixel with the nearest unmasked one, both less their 7x7 mean.
    """
    distance, nearest = ndimage.distance_transform_edt(mask, return_indices=True)
    detail = image - ndimage.uniform_filter(image.astype(float), (7, 7, 1))
    there = (distance >= depth) & (distance < depth + 1)
    one, other = detail[there], detail[tuple(nearest[:, there])]
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum() + 1e-9))


def measure(image: np.ndarray, mask: np.ndarray, photo: np.ndarray) -> tuple[float, ...]:
    """Returns the jumps, the streaks and the distance to the photo under the mask."""
    error = ((image.astype(float) - photo) ** 2)[mask].mean() ** 0.5
    return *jumps(image, mask), streaks(image, mask), float(error)


def main(run: str, photos: str, results: str) -> None:
    """Edits all photos and prints the table."""
    model, folder = maskgit_jax.load(run), Path(results)
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for path in sorted(Path(photos).glob("*.jpg")):
        photo = open_photo(path)
        for kind, (image, mask) in edits(model, photo).items():
            Image.fromarray(image).save(folder / f"{path.stem}-{kind}.png")
            rows.setdefault((kind, "result"), []).append(measure(image, mask, photo))
            rows.setdefault((kind, "photo"), []).append(measure(photo, mask, photo))
            inside = (*jumps(photo, mask, inside=True), 0.0, 0.0)
            rows.setdefault((kind, "photo, inside"), []).append(inside)
    print("| mask | image | jump of color | of gradient | streaks | distance to the photo |")
    for (kind, name), figures in rows.items():
        color, gradient, streak, error = np.mean(figures, axis=0)
        print(f"| {kind} | {name} | {color:.2f} | {gradient:.2f} | {streak:.2f} | {error:.1f} |")


def show_details(after: str, before: str, out: str) -> None:
    """Writes details of the results of two versions of the code side by side."""
    details = []
    for name, left, top in DETAILS:
        for folder in (before, after):
            with Image.open(Path(folder) / f"{name}.png") as image:
                box = (left, top, left + DETAIL[0], top + DETAIL[1])
                details.append(np.asarray(image.crop(box)))
    write_png(Path(out), np.stack(details), 2, ("before", "after"))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        main(*sys.argv[1:])
    else:
        show_details(*sys.argv[3:])
