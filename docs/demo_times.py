"""Measures the times of a running demo, and what its memory does under many requests.

    python -m maskgit_jax.demo --workdir=runs/quickstart --port=7860
    python docs/demo_times.py http://127.0.0.1:7860/api maskgit PID

The run is one of 16x16 digits; PID is the process of the server.
"""

import io
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

REPEATS = 15  # the first one is reported alone


def do_job(client: httpx.Client, **request) -> tuple[float | None, float]:
    """Returns the seconds from a request to its first preview (None without) and to its end."""
    start, first, event = time.perf_counter(), None, {}
    job = client.post("jobs", json=request).json()["id"]
    with client.stream("GET", f"jobs/{job}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if event.get("preview") and first is None:
                    first = time.perf_counter() - start
    assert event["type"] == "done", event
    return first, time.perf_counter() - start


def main(api: str, run: str, process: str) -> None:
    """Prints a table of times, then the memory of the server before and after many requests."""
    client = httpx.Client(base_url=api, timeout=120)
    while client.get(f"runs/{run}").json()["state"] != "ready":
        time.sleep(0.5)
    file, rows = io.BytesIO(), np.arange(16)[:, None] >= 8
    Image.fromarray(np.repeat(rows, 16, axis=1)).save(file, "PNG")
    query = {"run": run, "kind": "mask"}
    mask = client.post("images", params=query, content=file.getvalue()).json()["id"]
    image = client.get(f"runs/{run}/held_out/3").json()["id"]
    generate = [{"task": "generate", "num": num} for num in (1, 4, 16)]
    edit = {"task": "inpaint", "num": 4, "image": image, "mask": mask}
    for request in (*generate, edit, {"task": "encode", "image": image}):
        times = [do_job(client, run=run, seed=seed, **request) for seed in range(REPEATS)]
        previews = [first for first, _ in times[1:] if first is not None]
        ends = [end for _, end in times[1:]]
        medians = [f"{1000 * statistics.median(x):.0f} ms" if x else "" for x in (previews, ends)]
        name = f"{request['task']} {request.get('num', '')}"
        print(f"| {name} | {' | '.join(medians)} | first {1000 * times[0][1]:.0f} ms |")

    def memory() -> str:
        status = Path(f"/proc/{process}/status").read_text()
        return f"{int(status.split('VmRSS:')[1].split()[0]) / 1024:.0f} MiB"

    def many(user: int, count: int) -> None:
        for number in range(count):
            do_job(client, run=run, task="generate", num=4, seed=1000 * user + number)

    print("before", memory())
    many(1, 100)
    print("after 100 requests", memory())
    with ThreadPoolExecutor(8) as users:
        list(users.map(lambda user: many(user, 5), range(2, 10)))
    print("after 8 users with 5 requests each", memory())


if __name__ == "__main__":
    main(*sys.argv[1:])
