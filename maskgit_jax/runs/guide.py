"""Autoguidance: a run whose guidance uses a worse generator, such as an earlier checkpoint.

Source: Karras et al. 2024, Guiding a Diffusion Model with a Bad Version of Itself.
"""

from jax.sharding import Mesh

from maskgit_jax.configuration import InputError, require
from maskgit_jax.runs.directory import Run, build_stage, load_run, split_step
from maskgit_jax.stage import Generator
from maskgit_jax.training.variables import weights_checksum


def load_guide(run: Run, place: str, mesh: Mesh) -> Run:
    """Returns a run that is guided by another one.

    Args:
        run: A class-conditional MaskGIT, or a critic of one.
        place: RUN or RUN@STEP, the directory of the guide and the step of its checkpoint.
        mesh: Devices.

    Raises:
        InputError: The guide cannot be loaded, or generates other tokens or classes.
    """
    _generator(run, "--guide has no effect on this run, which")
    folder, step = split_step(place)
    return with_guide(run, load_run(folder, mesh, step), folder, mesh)


def with_guide(run: Run, guide: Run, folder: str, mesh: Mesh) -> Run:
    """Returns a run that is guided by a loaded one, whose directory is `folder`.

    Raises:
        InputError: The guide generates other tokens or classes.
    """
    name = f"--guide={folder}"
    own, other = _generator(run, "this run"), _generator(guide, name)
    classes = [(each.num_classes, tuple(r.config.data.class_names))
               for each, r in ((own, run), (other, guide))]  # fmt: skip
    require(
        classes[0] == classes[1],
        f"{name} generates {classes[1][0]} classes and this run {classes[0][0]}, or their names "
        "differ; a guide must have the same classes",
    )
    require(
        own.null_label is None or other.null_label is not None,
        f"{name} was trained without label dropout, and this run with it; train the guide with "
        "config.losses.label_dropout_rate > 0",
    )
    tokenizers = [each.variables.frozen["tokenizer"] for each in (run, guide)]
    require(
        weights_checksum(tokenizers[0], mesh) == weights_checksum(tokenizers[1], mesh),
        f"{name} generates tokens of another tokenizer; give a run that was trained on the tokens "
        "of this run's tokenizer",
    )
    variables = {key: tree for key, tree in guide.variables.frozen.items() if key != "tokenizer"}
    frozen = {**run.variables.frozen, "guide": guide.variables._replace(frozen=variables)}
    stages = {**run.stages, "guide": guide.stage}
    return run._replace(
        stage=build_stage(run.config, stages, folder),
        variables=run.variables._replace(frozen=frozen),
        stages=stages,
        guide=f"{folder} at step {guide.step}",
    )


def _generator(run: Run, name: str) -> Generator:
    """Returns the generator of a run of masked tokens that is conditional on classes only."""
    exports = run.stage.exports
    if not (isinstance(exports, Generator) and exports.logits and exports.fill_step):
        condition = " with condition images" * bool(run.config.data.condition)
        raise InputError(
            f"{name} holds stage '{run.config.stage}'{condition}; guidance by another run is for "
            "a MaskGIT conditional on classes, or its critic"
        )
    return exports
