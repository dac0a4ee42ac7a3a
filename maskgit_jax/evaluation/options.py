"""Options that all evaluations share."""

from dataclasses import dataclass, field
from pathlib import Path

from jax.sharding import Mesh

from maskgit_jax.arrays import PyTree
from maskgit_jax.files import default_cache_directory


@dataclass(frozen=True)
class EvaluationOptions:
    """Devices, feature networks, and the number of images behind each group of metrics.

    Attributes:
        mesh: Devices.
        cache: Folder for classifiers and for features of real images, which evaluations share.
        batch_size: Images per batch, a multiple of the data shards.
        features: Feature network -> weight file or None, see `features.parse_feature_networks`.
        lpips: Weights of LPIPS, None to skip it.
        num_reference: Maximum number of training images for distances of distributions, a fixed
            random subset.
        num_neighbours: Maximum number of images of each kind for precision, recall, density,
            coverage, the kernel distance and the metrics of latents.
        num_novelty: Maximum number of images of each kind whose nearest training image is searched.
        num_likelihood: Maximum number of held-out images for the importance-weighted bound.
        iw_samples: Posterior samples per image for that bound.
    """

    mesh: Mesh
    cache: Path = field(default_factory=default_cache_directory)
    batch_size: int = 128
    features: dict[str, str | None] = field(default_factory=lambda: {"classifier": None})
    lpips: PyTree | None = None
    num_reference: int = 50_000
    num_neighbours: int = 10_000
    num_novelty: int = 5_000
    num_likelihood: int = 1_000
    iw_samples: int = 50
