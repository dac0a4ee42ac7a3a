"""Trains a stage: `python -m maskgit_jax.train --config=configs/vqgan.py[:preset]`.

The same command resumes a run that was interrupted. `--config.KEY=VALUE` after --config changes
any key, for example `--config.training.num_steps=2000`.
"""

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.runs.fit import fit

CONFIG = command_line.define_config("configs/vqgan.py")
WORKDIR = flags.DEFINE_string("workdir", "", "Run directory; by default runs/STAGE-PRESET.")

ALLOW_CHANGE = flags.DEFINE_list(
    "allow_change",
    [],
    "Keys that may differ from the run that is resumed, such as optimizers.prior.learning_rate.",
)


def main() -> None:
    """Trains the stage of --config."""
    fit(command_line.chosen_config(CONFIG), WORKDIR.value, ALLOW_CHANGE.value)


if __name__ == "__main__":
    command_line.run(main, distributed=True)
