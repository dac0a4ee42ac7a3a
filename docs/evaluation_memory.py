"""Measures the memory of judging 50,000 images of 256 px: `python docs/evaluation_memory.py DIR`.

Writes 10 GB of noise to DIR and judges it by 2,000 reference images. Block means stand in for a
feature network: what is measured is reading, streaming and neighbours.
"""

import resource
import sys
import time
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from maskgit_jax.configuration import base_config
from maskgit_jax.data.image_sets import open_images
from maskgit_jax.evaluation.features import FeatureNetwork, Outputs
from maskgit_jax.evaluation.generation import GenerationEvaluator, Limits, RealImages
from maskgit_jax.training.sharding import make_mesh

COUNT, SIZE, BLOCK = 50_000, 256, 50


def write_noise(path: Path) -> None:
    """Writes COUNT different images without holding them."""
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 256, (BLOCK, SIZE, SIZE, 3), np.uint8) for _ in range(4)]
    header = {"descr": "|u1", "fortran_order": False, "shape": (COUNT, SIZE, SIZE, 3)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for number in range(COUNT // BLOCK):
            file.write((blocks[number % 4] ^ np.uint8(number % 251)).tobytes())


def block_means(params: dict, image: np.ndarray) -> Outputs:
    """Returns 64 means of blocks as features."""
    del params
    blocks = image.astype(jnp.float32).reshape(len(image), 8, SIZE // 8, 8, SIZE // 8, 3)
    means = blocks.mean(axis=(2, 4, 5)).reshape(len(image), 64)
    return Outputs(means, means[:, :10], jnp.zeros((len(image), 0)))


def main() -> None:
    """Writes, judges, and prints seconds and the peak of the process."""
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    write_noise(place / "judged.npz")
    rng = np.random.default_rng(1)
    np.savez(place / "real.npz", arr_0=rng.integers(0, 256, (2000, SIZE, SIZE, 3), np.uint8))
    real = RealImages("noise", open_images(place / "real.npz"), None, 0, {})
    network = FeatureNetwork("classifier", "block-means", "none", (64, 10, 0), block_means, {})
    judged, mesh = open_images(place / "judged.npz"), make_mesh(base_config().mesh)
    judge = GenerationEvaluator(
        judged, real, [network], mesh, place, place / "cache", 128, Limits()
    )
    start = time.monotonic()
    judge.run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{time.monotonic() - start:.0f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
