"""The public commands as the tests run them, and the smallest runs of each stage."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.example import ROOT

SHORT = [
    "--config.training.batch_size=16",
    "--config.training.num_steps=4",
    "--config.training.eval_every=100",
    "--config.training.preview_every=100",
]
TINY_TOKENIZER = [
    "--config=configs/vqvae.py",
    "--config.model.filters=8",
    "--config.model.residual_filters=4",
    "--config.model.codebook_size=16",
    "--config.model.codebook_dim=4",
    "--config.optimizers.autoencoder.optimizer=adam",
    *SHORT,
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=3",
    "--config.training.keep_last=100",
]
TINY_TRANSFORMER = [
    "--config.model.codebook_size=16",
    "--config.model.width=16",
    "--config.model.num_layers=1",
    "--config.model.num_heads=2",
    "--config.model.mlp_width=32",
    *SHORT,
]
ADAMW = "--config.optimizers.prior.optimizer=adamw"
TINY_MASKGIT = ["--config=configs/maskgit.py", *TINY_TRANSFORMER, ADAMW]
TINY_CRITIC = [
    "--config=configs/token_critic.py",
    *TINY_TRANSFORMER,
    "--config.optimizers.critic.optimizer=adamw",
]
TINY_GPT = ["--config=configs/gpt.py", *TINY_TRANSFORMER, ADAMW]


@functools.cache
def _server() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.command_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(module: str, *arguments) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr of `python -m maskgit_jax.MODULE ARGUMENTS`."""
    server = _server()
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        request = {
            "module": f"maskgit_jax.{module}",
            "arguments": [str(argument) for argument in arguments],
            "stdout": out.name,
            "stderr": err.name,
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return code, Path(out.name).read_text(), Path(err.name).read_text()


def succeed(module: str, *arguments) -> str:
    """Returns the stdout of a command that must succeed."""
    code, out, err = run(module, *arguments)
    assert code == 0, err[-3000:]
    return out


def refused(module: str, *arguments) -> str:
    """Returns the one line with which a command refuses its input."""
    code, _, err = run(module, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err, err[-3000:]
    return lines[0]


def start(module: str, *arguments) -> subprocess.Popen:
    """Starts a command as a user does, for tests that send it signals."""
    return subprocess.Popen(
        [sys.executable, "-m", f"maskgit_jax.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(workdir: Path) -> list[dict]:
    """Returns the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
