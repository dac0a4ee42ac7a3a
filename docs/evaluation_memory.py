"""Measures the memory of an evaluation of large images: `python docs/evaluation_memory.py DIR`.

It writes 50,000 images of 256 px of noise (10 GB) to DIR and evaluates them against 2,000 reference
images. Block means replace the feature network: the script measures reading, streaming and the
search of neighbours.
"""

import resource
import sys
import time
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array, PyTree
from maskgit_jax.configuration import base_config
from maskgit_jax.data.image_sets import open_images
from maskgit_jax.evaluation.features import FeatureExtractor, FeatureNetwork, Outputs
from maskgit_jax.evaluation.generation import GenerationEvaluator
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import RealImages
from maskgit_jax.training.sharding import make_mesh

COUNT, SIZE, BLOCK = 50_000, 256, 50


def write_noise(path: Path) -> None:
    """Writes COUNT different images in constant memory."""
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


def block_means(params: PyTree, image: Array) -> Outputs:
    """Returns the means of 64 blocks as features."""
    del params
    blocks = image.astype(jnp.float32).reshape(len(image), 8, SIZE // 8, 8, SIZE // 8, 3)
    means = blocks.mean(axis=(2, 4, 5)).reshape(len(image), 64)
    return Outputs(means, means[:, :10], jnp.zeros((len(image), 0)))


def main() -> None:
    """Prints the seconds of the evaluation and the peak memory of the process."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_noise(folder / "generated.npz")
    rng = np.random.default_rng(1)
    np.savez(folder / "real.npz", arr_0=rng.integers(0, 256, (2000, SIZE, SIZE, 3), np.uint8))
    real = RealImages("noise", open_images(folder / "real.npz"), None, 0, {})
    network = FeatureNetwork("classifier", "block-means", "none", (64, 10, 0), block_means, {})
    options = EvaluationOptions(make_mesh(base_config().mesh), folder / "cache")
    extractor = FeatureExtractor(network, options.mesh, options.batch_size)
    generated = open_images(folder / "generated.npz")
    evaluator = GenerationEvaluator(generated, real, folder, options)
    start = time.monotonic()
    evaluator.evaluate([extractor])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{time.monotonic() - start:.0f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
