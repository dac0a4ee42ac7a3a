"""A server of a tiny MaskGIT with random weights, without a socket, and its client."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from maskgit_jax.demo import loaded
from maskgit_jax.demo.jobs import JobQueue
from maskgit_jax.demo.menu import Menu, MenuRun, without_paths
from maskgit_jax.demo.security import Access
from maskgit_jax.demo.server import create_app
from maskgit_jax.demo.store import ImageStore
from maskgit_jax.model import Model
from maskgit_jax.runs.directory import Run
from maskgit_jax.training.sharding import make_mesh
from tests.example import digits_batch, tiny_stage, tiny_tokenizer

ADDRESS = "http://127.0.0.1:7860"


def tiny_model() -> Model:
    stage, config, frozen = tiny_stage("maskgit", losses__label_dropout_rate=0.1)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    run = Run(config, stage, variables, 1, {"tokenizer": tiny_tokenizer()[0]})
    return Model(run, Path("tiny"), make_mesh(config.mesh, jax.devices()[:1]))


class Demo:
    """A server with a run "tiny" that is loaded, and a client."""

    def __init__(self, sizes: tuple[int, ...] = (1,), origins: tuple[str, ...] = ()):
        loaded.SIZES = sizes  # fewer programs to compile
        self.queue, self.images = JobQueue(without_paths, max_waiting=3), ImageStore()
        self.menu = Menu({"tiny": Path("tiny")}, lambda path: tiny_model(), self.queue)
        self.app = create_app(self.menu, self.queue, self.images, Access("127.0.0.1", origins))
        with warnings.catch_warnings(action="ignore"):  # it asks for a successor of httpx
            from starlette.testclient import TestClient
        self.client = TestClient(self.app, ADDRESS, raise_server_exceptions=False)
        self.menu.request(self.run)
        self.queue.call(lambda: None).result()
        assert self.run.state == "ready", self.run.message
        self.window = digits_batch()["image"][3]

    @property
    def run(self) -> MenuRun:
        return self.menu.runs["tiny"]

    def upload(self, image: Any, **query: str) -> dict[str, Any]:
        return self.post_image(file_bytes(image), **query).json()

    def post_image(self, content: bytes, **query: str):
        query = {"run": "tiny", **query}
        return self.client.post("/api/images", params=query, content=content)

    def start(self, task: str, **members: Any):
        return self.client.post("/api/jobs", json={"run": "tiny", "task": task, **members})

    def job(self, task: str, **members: Any) -> list[dict[str, Any]]:
        """Returns all events of a new job."""
        started = self.start(task, **members)
        assert started.status_code == 202, started.text
        return [event for _, event in self.events(started.json()["id"])]

    def done(self, task: str, **members: Any) -> dict[str, Any]:
        """Returns the event "done" of a new job."""
        events = self.job(task, **members)
        assert events[-1]["type"] == "done", events[-1]
        return events[-1]

    def events(self, job: str, after: str = "", **headers: str) -> list[tuple[int, dict]]:
        query = {"after": after} if after else {}
        answer = self.client.get(f"/api/jobs/{job}/events", params=query, headers=headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        parts = [part.splitlines() for part in answer.text.split("\n\n") if "data: " in part]
        return [(int(i.removeprefix("id: ")), json.loads(d[6:])) for i, d in parts]

    def image(self, name: str) -> np.ndarray:
        answer = self.client.get(f"/api/images/{name}.png")
        assert answer.headers["content-type"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(answer.content)))


def file_bytes(image: Any, format: str = "PNG", **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.squeeze(image))
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
