"""The systems of the lineage and the trainings that they consist of."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from maskgit_jax.configuration import require


class Training(NamedTuple):
    """One training run.

    Attributes:
        name: Name of the run directory.
        stage: Stage of the configuration.
        share: Share of the budget of its system.
        tokenizer: Training of the tokenizer whose tokens a prior learns; "" for a first stage.
        changes: Keys of the configuration that differ from the preset.
    """

    name: str
    stage: str
    share: float
    tokenizer: str = ""
    changes: Mapping[str, Any] = {}


class System(NamedTuple):
    """A system to compare: a first stage, and the prior that samples its tokens.

    Attributes:
        name: Name in flags and files.
        title: Name on the page.
        first_stage: Training of the first stage.
        prior: Training of the prior; "" if there is none.
        predecessor: The system that it is compared with; "" for the first one.
        idea: What distinguishes it from its predecessor.
        remasking: Whether it samples with the best decoder that masks accepted tokens again.
    """

    name: str
    title: str
    first_stage: str
    prior: str
    predecessor: str
    idea: str
    remasking: bool = False

    @property
    def trainings(self) -> tuple[str, ...]:
        """Names of the trainings, in order."""
        return tuple(name for name in (self.first_stage, self.prior) if name)


_HALF = 0.5
_NO_PRIOR = {"model.posterior": "none", "training.best_metric": "reconstruction_mse"}
TRAININGS = {
    training.name: training
    for training in (
        Training("autoencoder", "vae", 1.0, changes=_NO_PRIOR),
        Training("vae", "vae", 1.0),
        Training("vqvae", "vqvae", _HALF),
        Training("vqvae2", "vqvae2", _HALF),
        Training("vqgan", "vqgan", _HALF),
        Training("pixelcnn", "pixelcnn", _HALF, "vqvae"),
        Training("pixelsnail", "pixelsnail", _HALF, "vqvae2"),
        Training("gpt", "gpt", _HALF, "vqgan"),
        Training("maskgit", "maskgit", _HALF, "vqgan"),
    )
}
SYSTEMS = {
    system.name: system
    for system in (
        System("autoencoder", "Autoencoder", "autoencoder", "", "",
               "A narrow latent vector reconstructs images. No prior says which vectors are "
               "images, so the system generates none."),
        System("vae", "VAE", "vae", "", "autoencoder",
               "The latents have a prior to sample from, at the price of noise in each of them."),
        System("vqvae_pixelcnn", "VQ-VAE + PixelCNN", "vqvae", "pixelcnn", "vae",
               "The latents are tokens on a map, without noise. A network learns their "
               "distribution afterwards, instead of a fixed prior."),
        System("vqvae2_pixelsnail", "VQ-VAE-2 + PixelSNAIL", "vqvae2", "pixelsnail",
               "vqvae_pixelcnn",
               "Two token maps, one global and one of details, and a prior with attention for "
               "each."),
        System("vqgan_gpt", "VQGAN + GPT", "vqgan", "gpt", "vqvae2_pixelsnail",
               "One map again: a discriminator adds the details that few tokens cannot carry, and "
               "a transformer samples the tokens one after another."),
        System("vqgan_maskgit", "VQGAN + MaskGIT", "vqgan", "maskgit", "vqgan_gpt",
               "The same tokens, many at a time: the most confident are kept, the others sampled "
               "again."),
        System("vqgan_maskgit_remasking", "VQGAN + MaskGIT, remasking", "vqgan", "maskgit",
               "vqgan_maskgit",
               "The same network with as many evaluations, but accepted tokens can be masked "
               "again.", remasking=True),
    )
}  # fmt: skip


def select_systems(names: Iterable[str]) -> list[System]:
    """Returns the systems of these names, or all, in the order of the lineage.

    Raises:
        InputError: A name is unknown.
    """
    names = list(names)
    for name in names:
        require(name in SYSTEMS, f"--systems: no '{name}'; choose from {', '.join(SYSTEMS)}")
    return [system for system in SYSTEMS.values() if not names or system.name in names]


def needed_trainings(systems: Iterable[System]) -> list[Training]:
    """Returns the trainings of systems, tokenizers before their priors."""
    needed = {name for system in systems for name in system.trainings}
    return [training for training in TRAININGS.values() if training.name in needed]
