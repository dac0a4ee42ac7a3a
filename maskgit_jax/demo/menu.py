"""The runs that the server offers, and those of them that are loaded."""

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from maskgit_jax.configuration import InputError, require
from maskgit_jax.demo.held_out import HeldOut
from maskgit_jax.demo.jobs import JobQueue, report_internal
from maskgit_jax.demo.loaded import LoadedRun
from maskgit_jax.model import Model
from maskgit_jax.runs.directory import read_config
from maskgit_jax.stage import Generator

MAX_LOADED = 2
RETRY_AFTER = 10.0  # seconds after which a run that failed is loaded again when asked for
EDITORS = ("maskgit", "token_critic")
TOKENIZERS = ("vqgan", "vqvae", "vqvae2", "vae")


class MenuRun:
    """A run of the menu.

    Attributes:
        name: The name of its folder.
        stage: Its stage.
        state: idle, loading, ready or failed.
        message: What is being compiled, or the error.
        description: What clients are to know of it; None until it was loaded once.
        generator: The functions of its generator; None until then, and if it has none.
        held_out: Its held-out images, likewise.
        loaded: The loaded run; None while it is not in memory.
    """

    def __init__(self, name: str, stage: str):
        self.name, self.stage, self.state, self.message = name, stage, "idle", ""
        self.description: dict[str, Any] | None = None
        self.generator: Generator | None = None
        self.held_out: HeldOut | None = None
        self.failed_at = 0.0
        self.loaded: LoadedRun | None = None

    def summary(self) -> dict[str, Any]:
        """Returns the entry of the menu."""
        return {
            "name": self.name,
            "stage": self.stage,
            "state": self.state,
            "message": self.message,
        }

    def described(self) -> dict[str, Any]:
        """Returns the description.

        Raises:
            NotLoadedError: The run was never loaded.
        """
        if self.description is None:
            raise NotLoadedError(
                f"the run could not be loaded: {self.message}"
                if self.state == "failed"
                else "the run is not loaded yet; ask for it and wait until its state is 'ready'"
            )
        return self.description


class NotLoadedError(InputError):
    """A run was never loaded."""


class UnknownRunError(InputError):
    """The menu has no run of a name."""


def find_runs(workdir: str | Path) -> dict[str, Path]:
    """Returns the run directory `workdir`, or those that it contains, by name.

    Those that can edit come first, then other generators, then tokenizers.

    Raises:
        InputError: There are none.
    """
    folder = Path(workdir).absolute()
    require(folder.is_dir(), f"{workdir} does not exist; give a run, or a folder of runs")
    found = {}
    for path in [folder] if (folder / "config.json").exists() else sorted(folder.iterdir()):
        if (path / "config.json").exists():
            found[os.path.basename(os.path.normpath(path))] = path
    require(
        bool(found),
        f"{workdir} holds no run (a folder with a config.json) and no folders of runs; train one "
        "with python -m maskgit_jax.train",
    )
    return dict(sorted(found.items(), key=lambda item: _rank(stage_of(item[1]))))


def stage_of(folder: Path) -> str:
    """Returns the stage of a run; "unknown" if its configuration cannot be read."""
    try:
        return read_config(folder).stage
    except (InputError, AttributeError, UnicodeDecodeError, OSError):
        return "unknown"


def _rank(stage: str) -> int:
    return 0 if stage in EDITORS else 2 if stage in TOKENIZERS else 3 if stage == "unknown" else 1


class Menu:
    """The runs by name; the least recently used ones are unloaded.

    Args:
        folders: Name -> run directory.
        load: Loads the run in a directory.
        queue: Its thread loads the runs.
    """

    def __init__(self, folders: dict[str, Path], load: Callable[[Path], Model], queue: JobQueue):
        self._folders, self._load, self._queue = folders, load, queue
        self.runs = {name: MenuRun(name, stage_of(folder)) for name, folder in folders.items()}
        self._loaded: OrderedDict[str, MenuRun] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, name: str) -> MenuRun:
        """Returns a run by its name.

        Raises:
            UnknownRunError: There is none.
        """
        if name not in self.runs:
            raise UnknownRunError("there is no run of this name; GET /api/runs lists them")
        return self.runs[name]

    def request(self, run: MenuRun) -> None:
        """Starts loading a run, unless that is done or under way."""
        with self._lock:
            if run.state == "failed" and time.monotonic() > run.failed_at + RETRY_AFTER:
                run.state = "idle"
            if run.state != "idle":
                return
            run.state, run.message = "loading", "waiting for the jobs before"
        self._queue.call(lambda: self._load_quietly(run))

    def _load_quietly(self, run: MenuRun) -> None:
        with suppress(InputError):  # `run.message` has it
            self.loaded(run, lambda message: None)

    def loaded(self, run: MenuRun, say: Callable[[str], None]) -> LoadedRun:
        """Returns a loaded run; called by the thread of the queue.

        Args:
            run: The run.
            say: Is called with what is being done.

        Raises:
            InputError: The run cannot be loaded.
        """
        if run.loaded is None:

            def show(message: str) -> None:
                run.message = message
                say(message)

            run.state = "loading"
            while len(self._loaded) >= MAX_LOADED:
                _, oldest = self._loaded.popitem(last=False)
                oldest.loaded, oldest.state, oldest.message = None, "idle", ""
            try:
                show("loading the run")
                loaded = LoadedRun(self._load(self._folders[run.name]), show)
            except Exception as error:
                known = isinstance(error, InputError)
                message = without_paths(error) if known else report_internal(error)
                run.state, run.message, run.failed_at = "failed", message, time.monotonic()
                raise InputError(message) from error
            run.generator = loaded.generator and loaded.generator.generator
            run.held_out, run.loaded = loaded.held_out, loaded
            run.description = loaded.description  # the last: requests begin when it is there
            run.state, run.message = "ready", ""
        self._loaded[run.name] = run
        self._loaded.move_to_end(run.name)
        return run.loaded


def without_paths(error: Exception) -> str:
    """Returns the message of an error in one line; names of folders are left out."""
    text = " ".join(str(error).split())
    return re.sub(r"(?<![\w.])[~.]{0,2}/(?:[^\s;:,)'\"]*/)?([^\s;:,)'\"]*)", r"\1", text)
