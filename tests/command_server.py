"""Runs commands in forks of a process that has imported the large libraries.

A command that is started in this way need not import them again, which takes longer than most
commands that the tests run. Requests and results are lines of JSON on stdin and stdout.
"""

import json
import os
import runpy
import sys

import flax.linen  # noqa: F401
import grain  # noqa: F401
import jax  # noqa: F401
import ml_collections.config_flags  # noqa: F401
import numpy  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import PIL.Image  # noqa: F401
import tqdm  # noqa: F401

import maskgit_jax.evaluation.evaluate  # noqa: F401
import maskgit_jax.runs.fit  # noqa: F401
from maskgit_jax.pipelines import classifier

classifier.STEPS = 150  # enough for digits; evaluations would train 1,000


def run_command(request: dict) -> None:
    """Runs a module as `python -m` does, in this process, and exits."""
    for number, path in ((1, request["stdout"]), (2, request["stderr"])):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    sys.exit(0)


def serve() -> None:
    """Answers requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    while line := sys.stdin.readline():
        process = os.fork()
        if process == 0:
            answers.close()
            run_command(json.loads(line))
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    serve()
