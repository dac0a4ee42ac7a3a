"""The systems of the lineage, and the trainings that they consist of."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, apply_changes, load_config, require


class Training(NamedTuple):
    """One run of `maskgit_jax.train`.

    Attributes:
        name: Of its run directory.
        stage: Of its configuration.
        share: Of its system's budget.
        tokenizer: Name of the training whose tokens it learns; "" for those that learn images.
        changes: Keys of its configuration that differ from the preset's.
    """

    name: str
    stage: str
    share: float
    tokenizer: str = ""
    changes: Mapping[str, Any] = {}


class System(NamedTuple):
    """One of the things compared: a first stage, and what makes images with it.

    Attributes:
        name: For flags and files.
        title: For readers.
        first: Training of what turns images into latents or tokens and back.
        prior: Training of what makes new tokens; "" where the first stage does that, or nothing.
        before: The system that it is compared with; "" for the first one.
        idea: What it does otherwise than that.
        revises: Whether tokens are decoded by the best decoder that takes some back.
    """

    name: str
    title: str
    first: str
    prior: str
    before: str
    idea: str
    revises: bool = False

    @property
    def trainings(self) -> tuple[str, ...]:
        """Names of its trainings, in their order."""
        return tuple(name for name in (self.first, self.prior) if name)


_HALF = 0.5
# Priors learn images as `encode` sees them, and figures are of such images: so all learn them.
AS_EVALUATED = {"data.crop": "center", "data.augmentations": ""}
TRAININGS = {
    training.name: training
    for training in (
        Training(
            "autoencoder",
            "vae",
            1.0,
            changes={"model.posterior": "none", "training.best_metric": "reconstruction_mse"},
        ),
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
        System(
            "autoencoder",
            "Autoencoder",
            "autoencoder",
            "",
            "",
            "A narrow vector of latents restores images, but nothing says which vectors are "
            "images, so it makes none.",
        ),
        System(
            "vae",
            "VAE",
            "vae",
            "",
            "autoencoder",
            "Latents get a prior to draw from, at the price of noise in each of them.",
        ),
        System(
            "vqvae_pixelcnn",
            "VQ-VAE + PixelCNN",
            "vqvae",
            "pixelcnn",
            "vae",
            "Latents become tokens on a map, without noise, and a network learns their law after "
            "the fact instead of a fixed prior.",
        ),
        System(
            "vqvae2_pixelsnail",
            "VQ-VAE-2 + PixelSNAIL",
            "vqvae2",
            "pixelsnail",
            "vqvae_pixelcnn",
            "Two maps, of the whole and of the details, and a prior with attention for each.",
        ),
        System(
            "vqgan_gpt",
            "VQGAN + GPT",
            "vqgan",
            "gpt",
            "vqvae2_pixelsnail",
            "One map again: a discriminator makes up for details that few tokens cannot carry, "
            "and a transformer draws them one after another.",
        ),
        System(
            "vqgan_maskgit",
            "VQGAN + MaskGIT",
            "vqgan",
            "maskgit",
            "vqgan_gpt",
            "The same tokens, many at a time: the surest are kept, the others drawn again.",
        ),
        System(
            "vqgan_maskgit_revised",
            "VQGAN + MaskGIT, revised",
            "vqgan",
            "maskgit",
            "vqgan_maskgit",
            "The same network in as many passes, but accepted tokens can be taken back.",
            revises=True,
        ),
    )
}


class Chosen(NamedTuple):
    """What the user wants to see.

    Attributes:
        data: As in `config.data.source`.
        preset: Of all configurations.
        changes: Stage -> keys that differ from the preset.
        configs: Folder of the configurations.
    """

    data: str
    preset: str
    changes: Mapping[str, Mapping[str, Any]]
    configs: str

    def configuration(self, training: Training) -> ConfigDict:
        """Returns the configuration of a training, as its preset and the changes have it.

        Raises:
            InputError: There is no such preset or key.
        """
        try:
            config = load_config(f"{self.configs}/{training.stage}.py:{self.preset}")
        except InputError as error:
            raise InputError(
                f"'{training.name}' cannot be trained: {error}; --systems=... names the systems "
                "that shall be"
            ) from error
        try:
            return apply_changes(config, self.changed(training))
        except KeyError as error:
            raise InputError(
                f"--set={training.stage}.{error.args[0]}=...: configs/{training.stage}.py has "
                "no such key"
            ) from error

    def changed(self, training: Training) -> dict[str, Any]:
        """Returns the keys of a training that differ from the preset."""
        own = self.changes.get(training.stage, {})
        return {"data.source": self.data, **AS_EVALUATED, **training.changes, **own}


def preset_of(data: str) -> str:
    """Returns the preset that is made for a kind of data.

    Raises:
        InputError: There is none.
    """
    presets = {"digits": "digits", "idx": "fashion_mnist", "folder": "folder"}
    kind = data.partition(":")[0]
    require(
        kind in presets,
        f"--data={data}: it is digits, idx:DIR or folder:DIR; for others name a --preset",
    )
    return presets[kind]


def chosen_systems(names: Iterable[str]) -> list[System]:
    """Returns the systems of these names, in the order of the lineage.

    Raises:
        InputError: There is no such system.
    """
    names = list(names)
    for name in names:
        require(name in SYSTEMS, f"--systems: no '{name}'; there are: {', '.join(SYSTEMS)}")
    return [system for system in SYSTEMS.values() if not names or system.name in names]


def needed_trainings(systems: Iterable[System]) -> list[Training]:
    """Returns what must be trained, what learns images before what learns their tokens."""
    needed = {name for system in systems for name in system.trainings}
    return [training for training in TRAININGS.values() if training.name in needed]


def read_changes(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns stage -> key -> value of words such as `vqgan.model.filters=32`.

    Raises:
        InputError: A word is written otherwise, or its stage does not occur here.
    """
    stages = {training.stage for training in TRAININGS.values()}
    changes: dict[str, dict[str, Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        stage, _, key = key.partition(".")
        require(
            bool(equals and key) and stage in stages,
            f"--set={word}: it is written STAGE.KEY=VALUE, such as vqgan.model.filters=32, with "
            f"a stage of: {', '.join(sorted(stages))}",
        )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        changes.setdefault(stage, {})[key] = value
    return changes


def read_reused(words: Iterable[str]) -> dict[str, str]:
    """Returns training -> run directory of words such as `vqgan=runs/mine`.

    Raises:
        InputError: There is no such training, or no run.
    """
    reused = {}
    for word in words:
        name, _, place = word.partition("=")
        require(
            name in TRAININGS and bool(place),
            f"--reuse_run={word}: it is written NAME=RUN with a name of: {', '.join(TRAININGS)}",
        )
        require((Path(place) / "config.json").exists(), f"--reuse_run={word}: {place} holds no run")
        reused[name] = place
    return reused
