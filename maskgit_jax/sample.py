"""Makes images: `python -m maskgit_jax.sample --workdir=runs/maskgit-digits --num=64`.

Writes a PNG grid, or an NPZ with `images` uint8 [N, H, W, C] and `labels` int32 [N].
"""

import itertools
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from maskgit_jax import command_line, pipelines
from maskgit_jax.configuration import InputError, base, require
from maskgit_jax.stages.maskgit import sampling_settings
from maskgit_jax.training.sharding import make_mesh
from maskgit_jax.training.writers import write_png

WORKDIR = flags.DEFINE_string("workdir", "runs/maskgit-digits", "Run of a generator.")
NUM = flags.DEFINE_integer("num", 64, "Number of images.", lower_bound=1)
LABELS = flags.DEFINE_list("labels", [], "Classes (numbers or names), repeated to fill num.")
DECODING = command_line.define_sampling_flags()
SEED = flags.DEFINE_integer("seed", 0, "Of the random key.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at a time.", lower_bound=1)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Step of the checkpoint.")
OUT = flags.DEFINE_string("out", "samples.png", "File to write: .png or .npz.")


def chosen_labels(words: list[str], num: int, config: ConfigDict) -> list[int]:
    """Returns `num` labels: those asked for in order, again and again; all classes by default.

    Raises:
        InputError: A word is neither a number nor the name of a class.
    """
    names = list(config.data.class_names)
    labels = []
    for word in words:
        if word in names:
            labels.append(names.index(word))
        elif word.lstrip("-").isdigit():
            labels.append(int(word))
        else:
            raise InputError(f"label '{word}' is neither a number nor one of: {', '.join(names)}")
    labels = labels or range(max(1, config.data.num_classes))
    return list(itertools.islice(itertools.cycle(labels), num))


def write_images(path: Path, images: np.ndarray, labels: list[int]) -> None:
    """Writes `.npz` or `.png` (as many columns as there are classes, if that fits)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, images=images, labels=np.asarray(labels, np.int32))
        return
    different = len(set(labels))
    columns = different if 4 <= different <= 20 else round(len(images) ** 0.5)
    write_png(path, images, columns)


def main() -> None:
    """Samples what the flags say."""
    out = Path(OUT.value)
    require(out.suffix in (".png", ".npz"), f"--out is {out}; it must end in .png or .npz")
    mesh = make_mesh(base("", "").mesh)
    run = pipelines.load_run(WORKDIR.value, mesh, CHECKPOINT.value)
    generator = pipelines.ImageGenerator(run, mesh)
    settings = sampling_settings(run.config)._replace(**DECODING())
    labels = chosen_labels(LABELS.value, NUM.value, run.config)
    batches = generator(labels, SEED.value, settings, BATCH_SIZE.value)
    images = []
    with tqdm(total=len(labels), unit="image", disable=None) as bar:
        for batch in batches:
            images.append(batch)
            bar.update(len(batch))
    write_images(out, np.concatenate(images), labels)
    print(f"wrote {len(labels)} images to {out}")


if __name__ == "__main__":
    command_line.run(main)
