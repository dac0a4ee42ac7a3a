"""Trains a stage: `python -m maskgit_jax.train --config=configs/vqgan.py[:preset]`.

The same command resumes a run that was interrupted. `--config.KEY=VALUE` after --config changes
any key, for example `--config.training.num_steps=2000`; `--print_config` lists the keys.
"""

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.runs.fit import fit, resolved

CONFIG = command_line.define_config("configs/vqgan.py")
WORKDIR = flags.DEFINE_string("workdir", "", "Run directory; by default runs/STAGE-PRESET.")
PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Only prints every key of the configuration, its value and meaning."
)

ALLOW_CHANGE = flags.DEFINE_list(
    "allow_change",
    [],
    "Keys that may differ from the run that is resumed, such as optimizers.prior.learning_rate.",
)


def main() -> None:
    """Trains the stage of --config."""
    config = command_line.chosen_config(CONFIG)
    if PRINT_CONFIG.value:
        print(command_line.describe_config(resolved(config)))
        return
    fit(config, WORKDIR.value, ALLOW_CHANGE.value)


if __name__ == "__main__":
    command_line.run(main, distributed=True)
