"""The API of the demo with a tiny MaskGIT: jobs, events, the queue, cancelling."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.demo import loaded
from maskgit_jax.demo.codebook import nearest_codes
from maskgit_jax.demo.jobs import Job, JobQueue, QueueFullError
from maskgit_jax.demo.menu import Menu, find_runs, without_paths
from maskgit_jax.demo.serve import listen
from maskgit_jax.demo.store import ImageStore, UnknownImageError
from maskgit_jax.demo.tasks import psnr, walk_tokens
from tests.demo.example import Demo

pytestmark = pytest.mark.slow  # compiles a MaskGIT


@pytest.fixture(scope="module")
def api():
    return Demo()


def lower_half(image: np.ndarray) -> np.ndarray:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[image.shape[0] // 2 :] = 255
    return mask


def test_the_description_has_what_the_page_needs(api):
    assert api.client.get("/api/runs").json()["runs"][0]["state"] == "ready"
    run = api.client.get("/api/runs/tiny").json()
    assert run["tabs"] == ["generate", "edit", "watch", "encode"] and len(run["classes"]) == 10
    assert run["grids"] == [[4, 4]] and run["patch"] == 4 and run["held_out"] > 100
    settings = {setting["name"]: setting for setting in run["settings"]}
    assert settings["steps"]["default"] == 3 and settings["steps"]["maximum"] == 16
    assert settings["guidance_interval"]["type"] == "range" and "size" not in settings
    decoders = settings["decoder"]["choices"]
    assert "halton" in decoders and "token_critic" not in decoders, "there is no critic"


def test_generate_streams_every_step_and_gives_the_images_of_the_decoder(api):
    events = api.job("generate", labels=[3, None], num=2, seed=5, trace=True)
    kinds = [event["type"] for event in events]
    assert kinds == ["queued", "started", *["step"] * 4, "done"]
    steps = [event for event in events if event["type"] == "step"]
    masked = [np.sum(step["masked"]) for step in steps]
    assert masked[0] == 32 and masked[-1] == 0 and masked == sorted(masked, reverse=True)
    assert all(step["preview"].startswith("data:image/png;base64,") for step in steps)
    assert np.shape(steps[1]["tokens"]) == (2, 16) and np.max(steps[-1]["confidence"]) <= 100
    decoder = api.run.loaded.editor.step_decoder
    expected = decoder.images(decoder.generate([3, None], 5))
    for image, stored in zip(expected, events[-1]["images"], strict=True):
        np.testing.assert_array_equal(api.image(stored["id"]), image[..., 0])


def test_resume_goes_on_from_a_step_and_keeps_locked_tokens(api):
    events = api.job("generate", labels=[2], seed=7, trace=True, settings={"steps": 8})
    steps = [event for event in events if event["type"] == "step"]
    state = {"tokens": steps[4]["tokens"][0], "mask": steps[4]["masked"][0]}
    state["confidence"] = steps[4]["confidence"][0]
    none = [0] * 16
    again = api.job("resume", **state, locked=none, label=2, seed=7, settings={"steps": 8})
    assert again[-1]["images"] == events[-1]["images"], "it goes on as if it had not stopped"
    accepted = [1 - masked for masked in state["mask"]]
    request = {**state, "locked": accepted, "settings": {"steps": 8, "decoder": "remask"}}
    other = api.job("resume", **request, num=2, seed=1, trace=True)
    final = np.asarray([event for event in other if event["type"] == "step"][-1]["tokens"])
    kept = np.asarray(accepted, bool)
    np.testing.assert_array_equal(final[:, kept], np.asarray([state["tokens"]] * 2)[:, kept])


def test_inpainting_keeps_the_unmasked_pixels_of_the_downloaded_file(api):
    image = np.tile(api.window, (1, 2, 1))
    mask = lower_half(image)
    stored, painted = api.upload(image), api.upload(mask, kind="mask")
    assert stored["grid"] == [4, 8] and (stored["width"], stored["height"]) == (32, 16)
    done = api.done("inpaint", image=stored["id"], mask=painted["id"], num=2, label=4)
    np.testing.assert_array_equal(api.image(done["mask_id"]), mask)
    results = [api.image(each["id"]) for each in done["images"]]
    for result in results:
        np.testing.assert_array_equal(result[mask == 0], image[..., 0][mask == 0])
    assert (results[0] != results[1]).any()


def test_every_other_task(api):
    name = api.upload(api.window)["id"]
    larger = api.done("outpaint", image=name, right=16)
    assert (larger["images"][0]["width"], larger["images"][0]["height"]) == (32, 16)
    inner = api.image(larger["images"][0]["id"])[:, :16]
    np.testing.assert_array_equal(inner, api.window[..., 0])
    replaced = api.done("replace", image=name, box=[8, 8, 4, 4], label=3)
    kept = api.image(replaced["mask_id"]) == 0
    result = api.image(replaced["images"][0]["id"])
    np.testing.assert_array_equal(result[kept], api.window[kept][:, 0])
    assert len(api.done("variations", image=name, keep=0.6, num=2)["images"]) == 2
    other = api.client.get("/api/runs/tiny/held_out/2").json()["id"]
    walk = api.done("interpolate", image=name, other=other, columns=2)["images"]
    for stored, column in ((name, walk[0]), (other, walk[-1])):
        encoded = api.done("encode", image=stored)
        assert column["id"] == encoded["images"][0]["id"], "the ends are reconstructions"
        assert encoded["images"][1]["id"] == stored and len(encoded["tokens"][0]) == 16


def test_the_peak_signal_to_noise_ratio():
    image = np.zeros((1, 4, 4, 1), np.uint8)
    assert psnr(image, image) is None and psnr(image, image + 255) == 0
    assert psnr(image, image + 1) == pytest.approx(48.13, abs=0.01)


def test_tokens_change_one_by_one_from_one_image_to_the_other():
    ends = np.stack([np.zeros(12, int), np.ones(12, int)])
    between = walk_tokens(ends, 5, seed=3)
    assert between.sum(axis=1).tolist() == [0, 3, 6, 9, 12]
    assert (np.diff(between, axis=0) >= 0).all(), "no token changes twice"


def test_nearest_codes_are_other_codes():
    vectors = np.asarray([[0.0], [1.0], [3.0], [7.0]], np.float32)
    np.testing.assert_array_equal(nearest_codes(vectors)[0], [1, 2, 3])
    np.testing.assert_array_equal(nearest_codes(vectors)[3], [2, 1, 0])


def test_the_codebook_has_a_colour_and_neighbours_of_every_code(api):
    levels = api.client.get("/api/runs/tiny/codebook").json()["levels"]
    assert len(levels) == 1 and np.shape(levels[0]["nearest"]) == (16, 8)
    colours = levels[0]["colors"]
    assert len(colours) == 16 and all(re.fullmatch("#[0-9a-f]{6}", each) for each in colours)


def test_a_client_that_reconnects_misses_nothing(api):
    job = api.start("generate").json()["id"]
    events = api.events(job)
    assert [index for index, _ in events] == list(range(len(events)))
    for last in (0, 2, len(events) - 1):
        assert api.events(job, after=str(last)) == events[last + 1 :]
        assert api.events(job, **{"Last-Event-ID": str(last)}) == events[last + 1 :]
    status = api.client.get(f"/api/jobs/{job}").json()
    assert status == {"id": job, "state": "done", "events": len(events)}


def test_cancelling_stops_a_decoding_within_one_step(api, monkeypatch):
    decoder = api.run.loaded.editor.step_decoder
    reached, go_on, decode = threading.Event(), threading.Event(), decoder.images

    def slow(tokens):
        reached.set()
        assert go_on.wait(10)
        return decode(tokens)

    monkeypatch.setattr(decoder, "images", slow)
    job = api.start("generate", trace=True, settings={"steps": 16}).json()["id"]
    waiting = api.start("generate").json()["id"]
    assert reached.wait(10)
    assert api.client.delete(f"/api/jobs/{waiting}").json()["state"] == "cancelled"
    assert [event["type"] for _, event in api.events(waiting)] == ["queued", "cancelled"]
    api.client.delete(f"/api/jobs/{job}")
    go_on.set()
    kinds = [event["type"] for _, event in api.events(job)]
    assert kinds == ["queued", "started", "step", "cancelled"]
    assert api.done("generate")["images"], "the next job is done as usual"


def test_users_wait_in_the_order_of_arrival(api, monkeypatch):
    start, run = threading.Event(), api.run.loaded
    generate = run.generate
    monkeypatch.setattr(run, "generate", lambda *args: start.wait(10) and generate(*args))
    jobs = [api.start("generate").json()["id"]]
    while api.client.get(f"/api/jobs/{jobs[0]}").json()["state"] == "queued":
        time.sleep(0.01)
    jobs += [api.start("generate", seed=seed).json()["id"] for seed in (1, 2, 3)]
    refused = api.start("generate")
    assert refused.status_code == 429 and "3 jobs are waiting" in refused.json()["error"]
    start.set()
    places = []
    for job in jobs:
        events = [event for _, event in api.events(job)]
        assert events[-1]["type"] == "done"
        places.append([event["place"] for event in events if event["type"] == "queued"])
    assert places == [[0], [1, 0], [2, 1, 0], [3, 2, 1, 0]] or places == [
        [0],
        [1],
        [2, 1],
        [3, 2, 1],
    ]


def test_many_requests_keep_memory_flat_and_lose_nothing(api):
    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    for seed in range(5):
        api.done("generate", seed=seed)
    before = memory()
    results = [api.done("generate", seed=seed)["images"][0]["id"] for seed in range(30)]
    api.queue._max_waiting = 8
    with ThreadPoolExecutor(8) as pool:
        parallel = pool.map(lambda seed: api.done("generate", seed=seed), range(30, 38))
    results += [done["images"][0]["id"] for done in parallel]
    assert len(results) == 38 and all(api.images.get(name).width == 16 for name in results)
    assert memory() < 1.05 * before


def test_a_failed_job_does_not_end_the_thread(capsys):
    queue = JobQueue(without_paths)

    def fail(job):
        raise InputError("/home/somebody/runs/tiny/config.json is damaged; see ~/and/or, /data")

    def crash(job):
        raise KeyError("a mistake of ours")

    jobs = [Job(fail), Job(crash), Job(lambda job: {"images": []})]
    for job in jobs:
        queue.submit(job)
    queue.call(lambda: None).result()
    last = [json.loads(job.events[-1]) for job in jobs]
    assert last[0] == {"type": "failed", "error": "config.json is damaged; see or, data"}
    assert "internal error" in last[1]["error"] and "a mistake of ours" in capsys.readouterr().err
    assert last[2]["type"] == "done"


def test_finished_jobs_and_images_are_bounded():
    queue, store = JobQueue(max_bytes=1000), ImageStore(max_bytes=3000)
    with pytest.raises(QueueFullError, match="0 jobs are waiting"):
        JobQueue(max_waiting=0).submit(Job(lambda job: {}))
    jobs = [Job(lambda job: {"text": "x" * 400}) for _ in range(5)]
    for job in jobs:
        queue.submit(job)
        queue.call(lambda: None).result()
    known = [queue.get(job.id) is not None for job in jobs]
    assert known == [False] * 3 + [True] * 2
    rng = np.random.default_rng(0)
    names = [store.add(rng.integers(0, 256, (32, 32), np.uint8)) for _ in range(5)]
    assert store.num_bytes <= 3000 and store.get(names[-1]).width == 32
    with pytest.raises(UnknownImageError, match="upload it again"):
        store.get(names[0])


def test_a_port_that_is_in_use_is_one_line():
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with pytest.raises(InputError, match=f"127.0.0.1:{port} .* choose another --port"):
        listen("127.0.0.1", port)
    listener.close()
    with pytest.raises(InputError, match="--port is 70000"):
        listen("127.0.0.1", 70000)


def test_runs_are_found_and_loaded_when_asked_for(tmp_path, api):
    with pytest.raises(InputError, match="does not exist"):
        find_runs(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no run"):
        find_runs(tmp_path)
    for name, stage in (("a", "vqgan"), ("b", "maskgit"), ("c", "?")):
        (tmp_path / name).mkdir()
        config = {"stage": stage, "optimizers": {}} if stage != "?" else []
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    runs = find_runs(tmp_path)
    assert list(runs) == ["b", "a", "c"] and list(find_runs(tmp_path / "a")) == ["a"]

    def load(path):
        raise InputError(f"{path} has no checkpoint yet")

    menu = Menu(runs, load, api.queue)
    menu.request(menu.runs["a"])
    api.queue.call(lambda: None).result()
    assert menu.runs["a"].summary() == {
        "name": "a",
        "stage": "vqgan",
        "state": "failed",
        "message": "a has no checkpoint yet",
    }


def test_a_job_says_what_it_compiles_and_old_programs_are_dropped(api, monkeypatch):
    run = api.run.loaded
    images = np.zeros((1, 16, 16, 1), np.uint8)
    monkeypatch.setattr(run, "generate", lambda *arguments: images)
    first, again = (api.job("generate", settings={"decoder": "random"}) for _ in range(2))
    assert first[2]["type"] == "status" and "compiling" in first[2]["message"]
    assert "status" not in [event["type"] for event in again]
    monkeypatch.setattr(loaded, "MAX_PROGRAMS", 3)
    before = run.editor
    run.prepare(1, run.generator.generator.settings, lambda message: None, grid=(4, 9))
    assert run.editor is not before
