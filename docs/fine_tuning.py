"""Held-out bits per token of MaskGIT from scratch and fine-tuned, as in docs/training.md.

`python docs/fine_tuning.py VQGAN_RUN MASKGIT_RUN IMAGES FOLDER [STEPS]` trains the preset
`fashion_mnist` of MaskGIT on the tokens of other images, such as `folder:emoji`, twice: from random
parameters, and from a run that was trained on Fashion-MNIST. A third training is fine-tuned for a
quarter of the steps. An interrupted table goes on where it was.
"""

import json
import math
import sys
from pathlib import Path

from maskgit_jax.configuration import load_config
from maskgit_jax.runs.fit import fit
from maskgit_jax.training.variables import saved_steps


def train(images: str, tokenizer: str, init_from: str, num_steps: int, workdir: Path) -> Path:
    """Trains for `num_steps` steps with four evaluations, unless that is done."""
    quarter = max(1, num_steps // 4)
    changes = {
        "data.source": images,
        "tokenizer": tokenizer,
        "init_from": init_from,
        "training.num_steps": num_steps,
        "training.eval_every": quarter,
        "training.checkpoint_every": quarter,
        "training.preview_every": num_steps,
        "optimizers.prior.warmup_steps": num_steps // 10,
    }
    if (saved_steps(workdir) or [0])[-1] < num_steps:
        fit(load_config("maskgit:fashion_mnist", **changes), workdir)
    if saved_steps(workdir)[-1] < num_steps:
        sys.exit("stopped; run the same command again to go on")
    return workdir


def held_out_bits(workdir: Path) -> dict[int, tuple[float, float]]:
    """Returns step -> cross-entropy of masked tokens and bound of all tokens, bits per token."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: (line["token_cross_entropy"] / math.log(2), line["bits_per_token_bound"])
        for line in lines
        if line["split"] == "eval"
    }


def main(tokenizer: str, source: str, images: str, folder: Path, num_steps: int = 200) -> None:
    """Prints a row for each training: cross-entropy (bound of whole maps) in bits per token."""
    shown = (num_steps // 4, num_steps // 2, num_steps)
    rows = {
        "from scratch": ("", num_steps),
        "fine-tuned, a quarter of the steps": (source, num_steps // 4),
        "fine-tuned": (source, num_steps),
    }
    results = {}
    for number, (row, (init_from, steps)) in enumerate(rows.items()):
        workdir = folder / f"run{number}"
        results[row] = held_out_bits(train(images, tokenizer, init_from, steps, workdir))
    print(f"| bits per token after | {' | '.join(f'{step} steps' for step in shown)} |")
    print("| --- | --- | --- | --- |")
    for row, values in results.items():
        known = [values.get(step) for step in shown]
        cells = [f"{pair[0]:.2f} ({pair[1]:.2f})" if pair else "–" for pair in known]
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), *map(int, sys.argv[5:]))
