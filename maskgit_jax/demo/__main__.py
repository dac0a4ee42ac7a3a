"""The editor in the browser: `python -m maskgit_jax.demo --workdir=RUN`.

Opens a page that generates and edits images with a MaskGIT, shows its decoding step by step, and
encodes images with a tokenizer. `--workdir` is a run, or a folder of runs, which become a menu.
Ctrl-C stops it.
"""

from importlib.util import find_spec
from pathlib import Path

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.configuration import require
from maskgit_jax.model import load

FLAGS = (
    (str, "workdir", "runs/maskgit-digits", "Run directory, or a folder of run directories."),
    (str, "host", "127.0.0.1", "Address to listen at; 0.0.0.0: all of this machine, so that others "
     "in the network can use the page."),
    (int, "port", 7860, "Port to listen at; 0: any free one."),
    (list, "allow_origin", [], "Other origins whose pages may use this server, such as "
     "https://example.org; their hosts are accepted as names of this server."),
    (str, "checkpoint", "latest", "Step of the checkpoint of a single run, or latest."),
    (str, "data", "", "Images, as in config.data.source, for held-out images; by default those of "
     "the run."),
)  # fmt: skip
command_line.define_flags(FLAGS)


def main() -> None:
    """Serves the page until it is stopped."""
    given = flags.FLAGS
    require(
        all(find_spec(name) is not None for name in ("starlette", "uvicorn")),
        "the demo needs starlette and uvicorn; install them with: pip install starlette uvicorn",
    )
    from maskgit_jax.demo.menu import find_runs
    from maskgit_jax.demo.serve import serve

    folders = find_runs(given.workdir)
    require(
        len(folders) == 1 or given.checkpoint == "latest",
        f"--checkpoint is of one run, and {given.workdir} holds {len(folders)}; give one of them",
    )

    def load_run(folder: Path):
        return load(folder, given.checkpoint, data=given.data)

    serve(folders, load_run, given.host, given.port, given.allow_origin)


if __name__ == "__main__":
    command_line.run(main)
