"""Bits per token of MaskGIT with one change after another, as in docs/results/learning_faster.md.

`python docs/learning_faster.py VQGAN_RUN FOLDER [STEPS [SEEDS]]` trains each row on the tokens of
the same tokenizer, a preset `digits` of VQGAN, with each seed twice: for STEPS steps, and for as
many as take the time of the first row's STEPS steps. An interrupted table goes on where it was.
"""

import json
import sys
from pathlib import Path

from maskgit_jax.configuration import load_config
from maskgit_jax.performance.step_record import TimingOptions
from maskgit_jax.performance.step_speed import measure_train
from maskgit_jax.runs.fit import fit, resolved

BEFORE = {
    "optimizers.prior.optimizer": "adamw",
    "model.layer_options.norm_type": "layer",
    "model.layer_options.positions": "learned",
    "model.layer_options.qk_norm": "none",
    "model.layer_options.zero_init": False,
    "model.layer_options.value_residual": False,
    "masking.stratified": False,
}
LAYERS = {
    "model.layer_options.norm_type": "rms",
    "model.layer_options.positions": "both",
    "model.layer_options.qk_norm": "head",
    "model.layer_options.zero_init": True,
}
MUON = {"optimizers.prior.optimizer": "muon"}
VALUES = {"model.layer_options.value_residual": True}
STRATIFIED = {"masking.stratified": True}
ROWS = {
    "AdamW, the layers of MaskGIT with pre-LN": {},
    "AdamW; RMSNorm, RoPE, QK-norm, outputs start at 0": LAYERS,
    "Muon, the layers of MaskGIT with pre-LN": MUON,
    "Muon and these layers": LAYERS | MUON,
    "and value residual": LAYERS | MUON | VALUES,
    "and stratified mask ratios": LAYERS | MUON | VALUES | STRATIFIED,
    "and complementary masks": LAYERS
    | MUON
    | VALUES
    | STRATIFIED
    | {"masking.complementary": True},
}


def train(row: str, tokenizer: str, folder: Path, num_steps: int, seed: int) -> float:
    """Returns the held-out bits per token after a training of `num_steps` steps."""
    workdir = folder / f"row{list(ROWS).index(row)}-steps{num_steps}-seed{seed}"
    metrics = workdir / "metrics.jsonl"
    if not metrics.exists():
        fit(configuration(row, tokenizer, num_steps, seed), workdir)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line["bits_per_token_bound"] for line in lines if "bits_per_token_bound" in line][-1]


def configuration(row: str, tokenizer: str, num_steps: int, seed: int):
    """Returns the configuration of a row."""
    changes = {"tokenizer": tokenizer, "training.num_steps": num_steps, "seed": seed}
    changes |= {"training.eval_every": num_steps, "training.preview_every": num_steps}
    return load_config("maskgit:digits", **(changes | BEFORE | ROWS[row]))


def step_seconds(row: str, tokenizer: str, folder: Path) -> float:
    """Returns the seconds of a training step, measured once."""
    file = folder / "seconds.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if row not in known:
        config = resolved(configuration(row, tokenizer, 1000, 0), None)
        options = TimingOptions(3, 6.0, lambda text: None)
        speed = measure_train(config, "configs", options, synthetic=False)
        known[row] = speed["step_seconds"]["total"]
        file.write_text(json.dumps(known, indent=2))
    return known[row]


def main(tokenizer: str, folder: Path, num_steps: int = 160, seeds: int = 3) -> None:
    """Prints the rows of the table: mean over the seeds, and smallest to largest value."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds = {row: step_seconds(row, tokenizer, folder) for row in ROWS}
    print("| change | ms per step | bits per token, equal steps | equal minutes | steps |")
    print("| --- | --- | --- | --- | --- |")
    for row in ROWS:
        equal = round(num_steps * seconds[next(iter(ROWS))] / seconds[row])
        cells = []
        for steps in (num_steps, equal):
            values = [train(row, tokenizer, folder, steps, seed) for seed in range(seeds)]
            mean = sum(values) / len(values)
            cells.append(f"{mean:.3f} ({min(values):.3f}–{max(values):.3f})")
        print(
            f"| {row} | {1000 * seconds[row]:.0f} | {cells[0]} | {cells[1]} | {equal} |", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
