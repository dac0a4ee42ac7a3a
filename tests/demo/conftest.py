"""One server with an untrained MaskGIT of the digits and one browser for the tests of a file."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
BROWSER_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking",
                 "--no-first-run")  # fmt: skip
SECONDS = 20  # until what a test waits for must have happened; compiling is slow on a busy machine


@pytest.fixture(scope="module")
def demo() -> Iterator[SimpleNamespace]:
    """A server: its `url`, its store of `images`, and the seconds to `pause` after each step."""
    uvicorn = pytest.importorskip("uvicorn", reason="the demo needs maskgit_jax[demo]")
    from maskgit_jax.demo.jobs import Job
    from tests.demo.example import Demo

    served = Demo(sizes=(1, 4))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(served.app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    demo = SimpleNamespace(url=url, pause=0.0, images=served.images)
    emit = Job.emit

    def emit_and_pause(job: Job, kind: str, **members: Any) -> None:
        emit(job, kind, **members)
        if kind == "step":
            time.sleep(demo.pause)

    Job.emit = emit_and_pause
    yield demo
    Job.emit = emit
    server.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=list(BROWSER_FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(demo, browser):
    """Returns a function that opens the page, for another user each time, and waits for the run.

    The test fails if a script of a page does.
    """
    contexts, errors = [], []

    def open_page(state: str = "", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{demo.url}#{state}")
        page.wait_for_selector("[role=tab][aria-selected=true]:visible")
        return page

    yield open_page
    demo.pause = 0.0
    for context in contexts:
        context.close()
    assert not errors, errors
