"""The server process: starts the queue, the menu and uvicorn on a socket, and stops at Ctrl-C."""

import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import uvicorn

from maskgit_jax.configuration import InputError, require
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


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
        InputError: The address is not one of this machine, or the port is in use.
    """
    require(0 <= port < 2**16, f"--port is {port}; it must be from 0 to {2**16 - 1}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=128)
    except OSError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror
        raise InputError(
            f"cannot listen at {host}:{port} ({reason}); choose another --port or --host"
        ) from error


def _names(host: str) -> list[str]:
    """Returns the names that a browser may use for an address to listen at."""
    if host in ("0.0.0.0", "::", ""):
        return ["127.0.0.1", socket.gethostname()]
    return [f"[{host}]" if ":" in host else host]


def serve(
    folders: dict[str, Path],
    load: Callable[[Path], Model],
    host: str,
    port: int,
    origins: Collection[str],
) -> None:
    """Serves runs until the process is stopped.

    Args:
        folders: Name -> run directory.
        load: Loads the run in a directory.
        host: The address to listen at.
        port: The port; 0 for any free one.
        origins: Other origins that are allowed.

    Raises:
        InputError: The address is not one of this machine, the port is in use, or an origin is
            none.
    """
    listener = listen(host, port)
    access, queue = Access(host, origins), JobQueue(without_paths)
    menu = Menu(folders, load, queue)
    menu.request(next(iter(menu.runs.values())))
    app = create_app(menu, queue, ImageStore(), access)
    config = uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="off", server_header=False
    )
    for place in _names(host):
        number = listener.getsockname()[1]
        print(
            f"serving {', '.join(menu.runs)} at http://{place}:{number} (Ctrl-C stops)", flush=True
        )
    _Server(config).run(sockets=[listener])
