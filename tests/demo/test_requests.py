"""What the demo refuses, and which images it takes."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.demo import server, uploads
from maskgit_jax.demo.security import Access, check_origin
from tests.demo.example import ADDRESS, Demo, file_bytes


@pytest.fixture(scope="module")
def api():
    return Demo(sizes=(), origins=("https://example.org",))


def rgb(size: tuple[int, int] = (20, 24)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def upright(image: Image.Image) -> Image.Image:
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return image


@pytest.mark.parametrize(
    ("format", "image"),
    [
        ("PNG", rgb()),
        ("PNG", rgb().convert("RGBA")),
        ("PNG", rgb().convert("LA")),
        ("PNG", rgb().convert("P")),
        ("PNG", rgb().convert("1")),
        ("PNG", Image.fromarray(np.full((24, 20), 40000, np.uint16))),
        ("JPEG", rgb().convert("CMYK")),
        ("JPEG", upright(rgb((24, 20)))),
        ("WEBP", rgb()),
        ("GIF", rgb()),
        ("BMP", rgb()),
        ("TIFF", rgb()),
    ],
)
def test_images_of_all_modes_are_converted(api, format, image):
    exif = {"exif": image.getexif()} if format == "JPEG" else {}
    stored = api.post_image(file_bytes(image, format, **exif)).json()
    assert (stored["width"], stored["height"], stored["channels"]) == (20, 24, 1)
    pixels = api.image(stored["id"])
    assert pixels.shape == (24, 20) and (image.mode != "I;16" or (pixels == 156).all())


def test_a_mask_is_white_where_masked(api):
    mask = np.zeros((24, 20, 4), np.uint8)
    mask[:4] = 255
    mask[4:8] = (255, 255, 255, 0)  # transparent
    stored = api.upload(Image.fromarray(mask), kind="mask")
    pixels = api.image(stored["id"])
    assert (pixels[:4] == 255).all() and (pixels[4:] == 0).all()


def bomb() -> bytes:
    """A PNG file of a few bytes whose header promises 65000 x 65000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 65000, 65000, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no file of PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no file of PNG"),
        (file_bytes(rgb(), "ICO"), "no file of PNG"),
        (file_bytes(rgb())[:500], "damaged"),
        (bomb(), "more than 25 megapixels"),
    ],
)
def test_other_files_are_refused(api, content, message):
    answer = api.post_image(content)
    assert answer.status_code == 400 and message in answer.json()["error"]


def test_large_bodies_are_refused_whatever_their_header_says(api, monkeypatch):
    assert uploads.MAX_BYTES == 20_000_000
    monkeypatch.setattr(server, "MAX_BYTES", 1000)

    def chunks(count):
        for _ in range(count):
            yield bytes(100)

    for content, headers in ((bytes(1001), {}), (chunks(11), {})):
        answer = api.client.post("/api/images?run=tiny", content=content, headers=headers)
        assert answer.status_code == 413 and "1,000 bytes" in answer.json()["error"]
    for length in ("10", "-1", "x"):  # the third and the second are no lengths, the first lies
        headers = {"Content-Length": length}
        answer = api.client.post("/api/images?run=tiny", content=chunks(11), headers=headers)
        assert answer.status_code == 413
    assert api.post_image(bytes(900)).status_code == 400


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"settings": {"steps": 17}}, "steps is 17"),
        ({"settings": {"steps": True}}, "steps is true; it must be a whole number"),
        ({"settings": {"steps": 10**400}}, "whole number"),
        ({"settings": {"temperature": "1"}}, "it must be a number"),
        ({"settings": {"decoder": "token_critic"}}, "needs a trained critic"),
        ({"settings": {"speed": 1}}, "there is no setting"),
        ({"settings": {"size": [32, 32]}}, "there is no setting"),
        ({"settings": {"guidance_interval": [0.5, 0.2]}}, "guidance_interval"),
        ({"seed": -1}, "seed is -1"),
        ({"num": 65}, "from 1 to 64"),
        ({"labels": [10]}, "from 0 to 9"),
        ({"labels": 3}, "a list"),
        ({"colour": "red"}, "unknown member"),
        ({"trace": True, "num": 5}, "at most 4"),
        ({"run": "other"}, "no run of this name"),
        ({"task": "train"}, "there is no task"),
        ({"task": "replace", "image": "?", "label": 1}, "does not hold this image"),
        ({"task": "resume", "tokens": [0] * 15}, "list of 16"),
        ({"task": "encode"}, "lacks 'image'"),
    ],
)
def test_wrong_members_are_one_line(api, members, message):
    answer = api.client.post("/api/jobs", json={"run": "tiny", "task": "generate", **members})
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert message in error and "\n" not in error


def test_edits_that_would_take_too_much_memory_are_refused(api):
    name = api.upload(np.zeros((16, 16), np.uint8))["id"]
    long = api.upload(np.zeros((10, 5000), np.uint8))["id"]
    for task, members, message in (
        ("outpaint", {"image": name, "right": 20_000_000, "top": 10}, "megapixels"),
        ("outpaint", {"image": name, "right": 600, "num": 4}, "too many"),
        ("variations", {"image": long}, "elongated"),
        ("outpaint", {"image": name}, "no pixels are added"),
        ("replace", {"image": name, "box": [0, 0, 20, 4], "label": 1}, "not inside"),
        ("variations", {"image": name, "keep": 1}, "keep is 1"),
    ):
        answer = api.start(task, **members)
        assert answer.status_code == 400 and message in answer.json()["error"]


def test_other_origins_and_hosts_are_refused(api):
    def status(**headers: str) -> int:
        return api.client.get("/api/runs", headers=headers).status_code

    assert status() == status(Origin=ADDRESS) == status(Host="localhost:7860") == 200
    assert status(Origin="https://evil.example") == status(Origin="null") == 403
    assert status(Origin="http://127.0.0.1:7861") == 403, "another port is another origin"
    assert status(Host="evil.example") == status(Host="127.0.0.1.evil.example") == 403
    assert status(**{"Sec-Fetch-Site": "cross-site"}) == 403
    allowed = api.client.get("/api/runs", headers={"Origin": "https://example.org"})
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"
    preflight = api.client.options("/api/jobs", headers={"Origin": "https://example.org"})
    assert preflight.status_code == 200 and status(Host="example.org") == 200
    with pytest.raises(InputError, match="write it as https://example.org"):
        check_origin("example.org")


def test_addresses_are_accepted_as_hosts_of_a_server_for_others():
    everywhere, local = Access("0.0.0.0"), Access("127.0.0.1")
    for host in ("192.168.1.7:7860", "[fe80::1]:7860", "localhost"):
        assert not everywhere.refusal({"host": host}, True)
    assert everywhere.refusal({"host": "evil.example"}, True)
    assert local.refusal({"host": "192.168.1.7:7860"}, True)


def test_answers_have_security_headers_and_files_are_those_of_the_page(api):
    for path in ("/", "/api/runs", "/missing", "/page/app.js"):
        headers = api.client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert "text/javascript" in api.client.get("/page/app.js").headers["content-type"]
    for path in ("/page/..%2f__init__.py", "/page/%2fetc%2fpasswd", "/page/__init__.py"):
        assert api.client.get(path).status_code == 404


def test_the_name_of_a_download_is_harmless(api):
    name = api.upload(np.zeros((4, 4), np.uint8))["id"]
    query = {"download": '../a"b\r\nc.png'}
    headers = api.client.get(f"/api/images/{name}.png", params=query).headers
    assert headers["content-disposition"] == 'attachment; filename=".._a_b__c.png"'


class Fuzz:
    """Malformed requests from a seed."""

    PATHS = (
        "/", "/page/x", "/api", "/api/runs", "/api/runs/tiny", "/api/runs/%00", "/api/runs/../..",
        "/api/runs/tiny/codebook/", "/api/runs/tiny/held_out/-1", "/api/runs/tiny/held_out/99999",
        "/api/runs/tiny/held_out/٣", "/api/images", "/api/images/x.png", "/api/images/..%2f",
        "/api/jobs", "/api/jobs/x", "/api/jobs/x/events", "/api/jobs/" + "x" * 3000,
    )  # fmt: skip
    VALUES = (
        None, True, -1, 0, 1e308, 10**30, "", "x" * 1000, "\ud800", "../../etc/passwd", [], {},
        [[]], {"a": {}}, ["a"] * 100, [1.5] * 16, "tiny", "generate",
    )  # fmt: skip
    MEMBERS = (
        "run", "task", "seed", "num", "label", "labels", "settings", "image", "mask", "box",
        "tokens", "locked", "trace", "keep", "left", "columns", "other", "\x00",
    )  # fmt: skip

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def choose(self, options):
        return options[self.rng.integers(len(options))]

    def json(self) -> bytes:
        task = self.choose(("generate", "inpaint", "resume", "replace", "encode", "outpaint"))
        request = {"run": "tiny", "task": task, "settings": {self.choose(self.MEMBERS): 1}}
        for _ in range(self.rng.integers(1, 4)):
            request[self.choose(self.MEMBERS)] = self.choose(self.VALUES)
        return json.dumps(request).encode()

    def damaged_image(self) -> bytes:
        content = bytearray(file_bytes(rgb(), self.choose(("PNG", "JPEG", "TIFF", "WEBP", "GIF"))))
        header = self.rng.integers(0, min(60, len(content)), 20)
        for place in header:
            content[place] = self.rng.integers(256)
        return bytes(content[: self.rng.integers(len(content))])

    def body(self) -> bytes:
        kind = self.rng.integers(6)
        if kind < 2:
            return self.json()
        if kind < 4:
            return self.damaged_image()
        if kind == 4:
            return self.choose(
                (b"", b"[" * 10_000, b'{"a": NaN}', b"1" * 5000, b"\xff\xfe", b"null")
            )
        return self.rng.bytes(100)

    def request(self) -> dict:
        path = self.choose((*self.PATHS, *["/api/jobs", "/api/images?run=tiny"] * 9))
        wrong = ("PUT", "PATCH", "BREW")
        method = self.choose(("GET", "DELETE", *wrong) if "x" in path else ("POST",) * 9 + wrong)
        headers = {
            self.choose(("Origin", "Last-Event-ID", "Content-Type")): self.choose(("ÿ", "x"))
        }
        headers = headers if self.rng.random() < 0.2 else {}
        return {"method": method, "url": path, "content": self.body(), "headers": headers}


def test_malformed_requests_get_4xx_and_the_server_lives_on(api, capsys):
    fuzz, statuses = Fuzz(0), []
    for _ in range(200):
        request = fuzz.request()
        headers = [(name, text.encode("latin-1")) for name, text in request.pop("headers").items()]
        answer = api.client.request(**request, headers=headers)
        assert 400 <= answer.status_code < 500, (request, answer.status_code, answer.text)
        error = answer.json()["error"] if request["method"] != "HEAD" else ""
        assert "\n" not in error and "Traceback" not in error and "/site-packages" not in error
        statuses.append(answer.status_code)
    assert {400, 404, 405} <= set(statuses)
    stored = api.upload(api.window)["id"]
    assert api.done("encode", image=stored)["images"] and capsys.readouterr().err == ""
