"""Options that all evaluations share."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from jax.sharding import Mesh

from maskgit_jax.arrays import PyTree
from maskgit_jax.files import default_cache_directory
from maskgit_jax.settings import setting


@dataclass(frozen=True)
class EvaluationOptions:
    """Devices, feature networks, and the number of images behind each group of metrics.

    Attributes:
        mesh: Devices.
        cache: Folder for classifiers and for features of real images, which evaluations share.
        batch_size: Images per batch, a multiple of the data shards.
        features: Feature network -> weight file or None, see `features.parse_feature_networks`.
        lpips: Weights of LPIPS, None to skip it.

    The other fields declare their flags and their meaning.
    """

    mesh: Mesh
    cache: Path = field(default_factory=default_cache_directory)
    batch_size: int = 128
    features: dict[str, str | None] = field(default_factory=lambda: {"classifier": None})
    lpips: PyTree | None = None
    num_reference: int = setting(
        50_000,
        "Maximum number of training images, a fixed random subset, for Frechet distances.",
    )
    num_neighbours: int = setting(
        10_000,
        "Maximum number of images of each kind for precision, recall, density, coverage, the "
        "kernel distance and the metrics of latents.",
    )
    num_novelty: int = setting(
        5_000, "Maximum number of images of each kind that are compared with the training images."
    )
    num_likelihood: int = setting(
        1_000, "VAE: maximum number of held-out images for the importance-weighted bound."
    )
    iw_samples: int = setting(50, "VAE: number of posterior samples per image for that bound.")


LIMITS = {f.name: f for f in fields(EvaluationOptions) if "help" in f.metadata}
"""Name -> declaration of the numbers of images and samples."""
