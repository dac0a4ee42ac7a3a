"""The server process: starts the queue, the menu and uvicorn on a socket, and stops at Ctrl-C."""

import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import uvicorn

from maskgit_jax.demo.jobs import JobQueue
from maskgit_jax.demo.menu import Menu, without_paths
from maskgit_jax.demo.security import Access
from maskgit_jax.demo.server import create_app
from maskgit_jax.demo.store import ImageStore
from maskgit_jax.model import Model


class _Server(uvicorn.Server):
    """A server that stops at once: nothing is unfinished that a user could still get."""

    def handle_exit(self, sig: int, frame: object) -> None:
        """Ends the process; the thread of the devices cannot be interrupted otherwise."""
        print("\nstopped", flush=True)
        os._exit(0)


def serve(
    folders: dict[str, Path],
    load: Callable[[Path], Model],
    listener: socket.socket,
    host: str,
    origins: Collection[str],
) -> None:
    """Serves runs until the process is stopped.

    Args:
        folders: Name -> run directory.
        load: Loads the run in a directory.
        listener: A socket that listens.
        host: The address that it is bound to.
        origins: Other origins that are allowed.
    """
    access, queue = Access(host, origins), JobQueue(without_paths)
    menu = Menu(folders, load, queue)
    menu.request(next(iter(menu.runs.values())))
    app = create_app(menu, queue, ImageStore(), access)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False
    )
    shown = f"[{host}]" if ":" in host else host
    names = ", ".join(menu.runs)
    print(f"serving {names} at http://{shown}:{listener.getsockname()[1]} (Ctrl-C stops)",
          flush=True)  # fmt: skip
    _Server(config).run(sockets=[listener])
