"""The routes of the page and of its API, see docs/demo.md."""

import asyncio
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from maskgit_jax.configuration import InputError, require
from maskgit_jax.demo.edits import token_grid
from maskgit_jax.demo.fields import parse_json
from maskgit_jax.demo.jobs import Job, JobQueue, QueueFullError, report_internal
from maskgit_jax.demo.menu import Menu, NotLoadedError, UnknownRunError
from maskgit_jax.demo.progress import Progress
from maskgit_jax.demo.security import Access, Guard, TooLargeError, json_text, read_body
from maskgit_jax.demo.store import ImageStore, UnknownImageError
from maskgit_jax.demo.tasks import read_job
from maskgit_jax.demo.uploads import MAX_BYTES, read_upload

MAX_JSON_BYTES = 2_000_000
HEARTBEAT = 15.0  # seconds; a proxy closes connections that are silent for long
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
STATUS: dict[type[Exception], int] = {
    UnknownImageError: 404,
    UnknownRunError: 404,
    NotLoadedError: 409,
    TooLargeError: 413,
    QueueFullError: 429,
    InputError: 400,
}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Returns the files of the page by name, with their media types."""
    folder = files("maskgit_jax.demo") / "page"
    return {
        file.name: (file.read_bytes(), MEDIA_TYPES[suffix])
        for file in folder.iterdir()
        if (suffix := f".{file.name.rpartition('.')[2]}") in MEDIA_TYPES
    }


def answer(value: Any, status: int = 200) -> Response:
    """Returns a value as the JSON of an answer."""
    headers = {"Cache-Control": "no-store"}
    return Response(json_text(value), status, headers, "application/json")


async def _failed(request: Request, error: Exception) -> Response:
    """Returns the answer to a request that cannot be answered."""
    if isinstance(error, HTTPException):
        return answer({"error": error.detail.lower()}, error.status_code)
    if isinstance(error, InputError):
        return answer({"error": " ".join(str(error).split())}, STATUS[type(error)])
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)
    return answer({"error": report_internal(error)}, 500)


class Api:
    """The functions of the routes.

    Args:
        menu: The runs.
        queue: The jobs.
        images: The images.
    """

    def __init__(self, menu: Menu, queue: JobQueue, images: ImageStore):
        self._menu, self._queue, self._images = menu, queue, images
        self._page = page_files()
        self._decoding = asyncio.Semaphore(2)  # uploads, each of up to 25 megapixels

    def routes(self) -> list[Route]:
        """Returns the routes."""
        return [
            Route("/", self.page),
            Route("/page/{name}", self.page),
            Route("/api/runs", self.list_runs),
            Route("/api/runs/{name}", self.describe_run),
            Route("/api/runs/{name}/codebook", self.codebook),
            Route("/api/runs/{name}/held_out/{index}", self.held_out),
            Route("/api/images", self.upload, methods=["POST"]),
            Route("/api/images/{name}", self.image),
            Route("/api/jobs", self.start_job, methods=["POST"]),
            Route("/api/jobs/{name}", self.job, methods=["GET", "DELETE"]),
            Route("/api/jobs/{name}/events", self.events),
        ]

    async def page(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("name", "index.html")
        if name not in self._page:
            raise HTTPException(404)
        content, kind = self._page[name]
        return Response(content, 200, {"Cache-Control": "no-cache"}, kind)

    async def list_runs(self, request: Request) -> Response:
        """The menu."""
        return answer({"runs": [run.summary() for run in self._menu.runs.values()]})

    async def describe_run(self, request: Request) -> Response:
        """What a run can do; starts loading it."""
        run = self._menu.find(request.path_params["name"])
        self._menu.request(run)
        ready = run.description if run.state == "ready" and run.description else {}
        return answer({**run.summary(), **ready})

    async def codebook(self, request: Request) -> Response:
        """Colours and nearest codes."""
        run = self._menu.find(request.path_params["name"])
        run.described()
        future = self._queue.call(lambda: self._menu.loaded(run, lambda message: None).codebook)
        return answer(await asyncio.wrap_future(future))

    async def held_out(self, request: Request) -> Response:
        """A held-out image."""
        run = self._menu.find(request.path_params["name"])
        description = run.described()
        index = request.path_params["index"]
        require(re.fullmatch(r"\d{1,9}", index, re.ASCII) is not None, "it is no image's number")

        def store() -> str:
            assert run.held_out is not None
            return self._images.add(run.held_out.image(int(index)))

        return answer(self._uploaded(await run_in_threadpool(store), description))

    def _uploaded(self, name: str, description: dict[str, Any]) -> dict[str, Any]:
        stored, can_edit = self._images.get(name), "edit" in description["tabs"]
        return {
            "id": name,
            "width": stored.width,
            "height": stored.height,
            "channels": description["channels"],
            "grid": list(token_grid(description, stored.height, stored.width))
            if can_edit
            else None,
        }

    async def upload(self, request: Request) -> Response:
        """Stores an uploaded image or mask."""
        kind = request.query_params.get("kind", "image")
        require(kind in ("image", "mask"), "kind is neither image nor mask")
        description = self._menu.find(request.query_params.get("run", "")).described()
        is_mask = kind == "mask"
        data = await read_body(request, MAX_BYTES)

        def store() -> str:
            return self._images.add(
                read_upload(data, 1 if is_mask else description["channels"], is_mask)
            )

        async with self._decoding:
            name = await run_in_threadpool(store)
        return answer(self._uploaded(name, description))

    async def image(self, request: Request) -> Response:
        """The PNG file of an image."""
        stored = self._images.get(request.path_params["name"].removesuffix(".png"))
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        if "download" in request.query_params:
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", request.query_params["download"][:100])
            headers["Content-Disposition"] = f'attachment; filename="{name or "image.png"}"'
        return Response(stored.png, 200, headers, "image/png")

    async def start_job(self, request: Request) -> Response:
        """Adds a job to the queue."""
        values = parse_json(await read_body(request, MAX_JSON_BYTES))
        run, work = await run_in_threadpool(read_job, values, self._menu, self._images)

        def do(job: Job) -> dict[str, Any]:
            # Others may wait for the run too: what loads it is not cancelled.
            loaded = self._menu.loaded(run, lambda message: job.emit("status", message=message))
            job.check()
            return work(loaded, Progress(job, self._images))

        job = Job(do)
        self._queue.submit(job)
        return answer({"id": job.id}, 202)

    def _job(self, request: Request) -> Job:
        job = self._queue.get(request.path_params["name"])
        if job is None:
            raise HTTPException(404, "the server does not know this job (any more)")
        return job

    async def job(self, request: Request) -> Response:
        """The state of a job; DELETE cancels it."""
        job = self._job(request)
        if request.method == "DELETE":
            self._queue.cancel(job)
        return answer({"id": job.id, "state": job.state, "events": len(job.events)})

    async def events(self, request: Request) -> Response:
        """The events of a job, those that come later too."""
        job = self._job(request)
        last = request.headers.get("last-event-id", request.query_params.get("after", "-1"))
        require(re.fullmatch(r"-1|\d{1,9}", last, re.ASCII) is not None, "it is no event's id")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(job, int(last) + 1), 200, headers, "text/event-stream")


async def _stream(job: Job, first: int) -> AsyncIterator[str]:
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    with job.listen(lambda: loop.call_soon_threadsafe(changed.set)):
        while True:
            changed.clear()
            is_finished = job.is_finished  # before its events are read: the last one is there then
            for index, event in enumerate(job.events[first:], first):
                yield f"id: {index}\ndata: {event}\n\n"
                first = index + 1
            if is_finished:
                return
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT)
            except TimeoutError:
                yield ": waiting\n\n"


def create_app(menu: Menu, queue: JobQueue, images: ImageStore, access: Access) -> Starlette:
    """Returns the application that answers requests."""
    handlers: Any = {error: _failed for error in (HTTPException, InputError, ClientDisconnect)}
    handlers[Exception] = _failed
    return Starlette(
        routes=Api(menu, queue, images).routes(),
        middleware=[Middleware(Guard, access=access)],
        exception_handlers=handlers,
    )
