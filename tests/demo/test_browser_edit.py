"""The Edit tab in a browser: open, paint, generate, compare, accept, and take back."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from maskgit_jax.decoding.regions import box_token_mask, token_mask
from maskgit_jax.pipelines.canvas import add_border, resize_mask, working_size

pytestmark = pytest.mark.browser
HEIGHT, WIDTH, ROWS, COLUMNS, PATCH = 40, 60, 4, 6, 4
STATE = "tab=edit&candidates=2&steps=2&label=3"
DRAWN = """async () => {
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
  return document.querySelector(".view canvas").toDataURL();
}"""
TRANSFER = """([kind, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(bytes)], "a.png", { type: "image/png" }));
  const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data })
    : new DragEvent(kind, { dataTransfer: data });
  document.dispatchEvent(event);
}"""
LAWS = """async cases => {
  const { boxTokens, dilate, erode, Mask } = await import("/page/mask.js");
  return cases.map(({ size: [height, width], grid, patch, mask, box, radius }) => {
    const bitmap = new Mask(width, height, grid, patch);
    bitmap.begin();
    bitmap.set(Uint8Array.from(mask));
    const change = bitmap.end();
    const painted = [...bitmap.data];
    const undone = [...bitmap.data];
    if (change) {
      const redo = bitmap.swap(change);
      undone.splice(0, undone.length, ...bitmap.data);
      bitmap.swap(redo);
    }
    const strokes = new Mask(width, height, grid, patch);
    strokes.stroke([1, 2], [width - 3, height / 2], 2.5, true, false);
    strokes.stroke([width / 2, 0], [2, height], 1, false, false);
    const again = new Mask(width, height, grid, patch);
    again.set(strokes.data);
    return {
      tokens: [...bitmap.tokens], redone: [...bitmap.data], undone, painted,
      box: [...boxTokens(box, { width, height }, grid, patch)],
      dilated: [...dilate(bitmap.data, width, height, radius)],
      eroded: [...erode(bitmap.data, width, height, radius)],
      strokes: [[...strokes.tokens], [...again.tokens]],
    };
  });
}"""


@pytest.fixture
def photo() -> bytes:
    """A grey PNG file, larger than the images of the run and not square."""
    return png(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def open_file(page, content: bytes) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open an image").click()
    chooser.value.set_files({"name": "photo.png", "mimeType": "image/png", "buffer": content})
    page.wait_for_selector(".edit:not([hidden])")


def token(page, row: float, column: float, rows: int = ROWS, columns: int = COLUMNS):
    """Returns where the centre of a token is on the page; the image fills the view's height."""
    page.locator(".view").scroll_into_view_if_needed()
    view = page.locator(".view canvas").bounding_box()
    side = min((view["width"] - 4) / columns, (view["height"] - 4) / rows)
    x = view["x"] + view["width"] / 2 + (column + 0.5 - columns / 2) * side
    return x, view["y"] + view["height"] / 2 + (row + 0.5 - rows / 2) * side


def drag(page, start, end) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def press(page, name: str) -> None:
    page.locator(".edit").get_by_role("button", name=name, exact=True).click()


def cost(page) -> str:
    return page.locator(".cost").inner_text()


def run(page) -> None:
    """Generates candidates and waits until they are shown."""
    before = page.locator(".candidates .item").count()
    page.click(".edit-run .primary")
    page.locator(".candidates .item").nth(max(before, 1) + 1).wait_for()
    page.wait_for_selector("[aria-pressed=true]:has-text('Candidate')")
    page.wait_for_selector("#panel-edit .job", state="hidden")


def download(page, name: str) -> np.ndarray:
    with page.expect_download() as saved:
        page.locator(
            f".edit :is(a, button)[aria-label='{name}'], .edit a:text-is('{name}')"
        ).click()
    return np.asarray(Image.open(saved.value.path()).convert("L"))


def view_of(page) -> str:
    """Returns what the canvas shows, once it is drawn."""
    return page.evaluate(DRAWN)


def test_unmasked_pixels_are_preserved_and_the_mask_survives(open_page, photo):
    page = open_page(STATE)
    open_file(page, photo)
    page.click(".edit-run .primary")
    assert page.locator(".error:visible").inner_text().startswith("Nothing is masked;")
    drag(page, token(page, 1, 1), token(page, 2, 3))
    assert not page.locator(".error:visible").count()
    masked = cost(page)
    run(page)
    assert masked == cost(page) != "Nothing is masked yet."
    mask = download(page, "Download the mask") > 127
    image, edited = np.asarray(Image.open(io.BytesIO(photo))), download(page, "Download")
    assert 0 < mask.mean() < 1 and edited.shape == image.shape
    np.testing.assert_array_equal(edited[~mask], image[~mask])
    assert (edited[mask] != image[mask]).any()

    result = view_of(page)
    page.keyboard.down("c")
    original = view_of(page)
    assert original != result
    page.keyboard.up("c")
    assert view_of(page) == result
    page.mouse.move(*token(page, 0, 0))
    page.mouse.down()
    assert view_of(page) == original  # press and hold
    page.mouse.up()

    run(page)  # the same again: the next seed
    assert page.get_by_label("Seed", exact=True).input_value() == "1"
    names = page.locator(".candidates .item").all_inner_texts()
    assert names == ["Before", *(f"Candidate {i}" for i in range(1, 5))]
    press(page, "Discard")
    assert page.locator(".candidates .item").count() == 4
    press(page, "Accept")
    page.wait_for_selector("[aria-label='Images so far']")
    assert cost(page) == masked and not page.is_visible("[aria-label=Candidates]")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    accepted = download(page, "Download")
    np.testing.assert_array_equal(accepted[~mask], image[~mask])
    page.keyboard.press("Control+z")
    assert not page.is_visible("[aria-label='Images so far']")
    assert page.locator(".candidates .item").count() == 4
    page.keyboard.press("y")
    np.testing.assert_array_equal(download(page, "Download"), accepted)


def test_masks_are_painted_snapped_and_taken_back(open_page, photo, tmp_path):
    page = open_page(STATE)
    open_file(page, photo)
    for name in ("Grid", "Snap"):
        press(page, name)
    for _ in range(6):
        page.keyboard.press("[")
    page.mouse.move(*token(page, 1, 1))
    page.mouse.down()
    assert cost(page) == "1 of 24 tokens are masked. This stroke: +1."
    page.mouse.move(*token(page, 1, 3), steps=5)
    assert cost(page) == "3 of 24 tokens are masked. This stroke: +3."
    page.mouse.up()
    press(page, "Rectangle")
    drag(page, token(page, 2, 4), token(page, 3, 5))
    assert cost(page) == "7 of 24 tokens are masked."
    page.keyboard.press("e")
    drag(page, token(page, 1, 3), token(page, 1, 3))
    assert cost(page) == "6 of 24 tokens are masked."
    for key, tokens in (("z", 7), ("z", 3), ("y", 7), ("Control+Shift+z", 6), ("i", 18)):
        page.keyboard.press(key)
        assert cost(page) == f"{tokens} of 24 tokens are masked."
    mask = download(page, "Download the mask")
    press(page, "Shrink")
    assert download(page, "Download the mask").sum() < mask.sum()
    press(page, "Grow")
    press(page, "Clear")
    assert cost(page) == "Nothing is masked yet."
    for content in (png(mask[:-1]), png(mask)):
        with page.expect_file_chooser() as chooser:
            press(page, "Upload a mask")
        file = {"name": "mask.png", "mimeType": "image/png", "buffer": content}
        chooser.value.set_files(file)
        page.wait_for_selector(
            ".error:has-text('60 × 39')" if content != png(mask) else ".cost:has-text('18 of 24')"
        )
    np.testing.assert_array_equal(download(page, "Download the mask"), mask)


def test_tokens_are_painted_with_the_keyboard(open_page, photo):
    page = open_page(STATE)
    open_file(page, photo)
    page.locator(".view canvas").focus()
    for key in ("ArrowRight", "ArrowRight", "Space", "Shift+ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert cost(page) == "2 of 24 tokens are masked."
    said = page.locator("#live").inner_text()
    assert said == "Row 3, column 5, masked. 2 of 24 tokens are masked."
    page.keyboard.press("Space")
    assert cost(page) == "1 of 24 tokens are masked."
    page.get_by_role("radio", name="Replace").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("slider", name="Pixels to add on the left").press("ArrowLeft")
    left = page.locator("input[aria-label='Pixels to add on the left']")
    assert left.input_value() == "10"


def test_an_image_is_outpainted_by_dragging_and_taken_back(open_page, photo):
    page = open_page(f"{STATE}&mode=outpaint")
    open_file(page, photo)
    press(page, "Snap")
    handle = page.get_by_role("slider", name="Pixels to add on the right")
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    drag(page, (x, y), (x + 60, y))
    right = int(handle.get_attribute("aria-valuenow"))
    assert right > 0 and right % 10 == 0
    page.locator("input[aria-label='Pixels to add on the top']").fill("7")
    page.keyboard.press("Enter")
    image = np.asarray(Image.open(io.BytesIO(photo)))
    larger, mask = add_border(image[..., None], 0, right, 7, 0)
    size = working_size(mask.shape, 16 / HEIGHT, PATCH, 16)
    grid = (size[0] // PATCH, size[1] // PATCH)
    tokens = token_mask(jnp.asarray(resize_mask(mask, size)[None]), (grid,))
    words = f"{mask.shape[1]} × {mask.shape[0]} pixels, {int(tokens.sum())} of {tokens.size}"
    assert cost(page) == f"{words} tokens are generated."
    run(page)
    press(page, "Accept")
    page.wait_for_selector("text=No pixels are added yet.")
    edited = download(page, "Download")
    np.testing.assert_array_equal(edited[~mask], larger[..., 0][~mask])
    press(page, "Undo")
    press(page, "Before")
    np.testing.assert_array_equal(download(page, "Download"), image)


def test_a_box_is_replaced_and_a_job_is_cancelled(open_page, photo, demo):
    page = open_page("tab=edit&candidates=2&steps=2&mode=replace")
    open_file(page, photo)
    drag(page, token(page, 1, 1), token(page, 2, 2))
    page.click(".edit-run .primary")
    assert page.locator(".error:visible").inner_text().startswith("No class is picked;")
    page.get_by_label("5", exact=True).check(force=True)
    box = [int(page.get_by_label(f"{name} of the box").input_value())
           for name in ("Top", "Left", "Height", "Width")]  # fmt: skip
    scaled = (round(side * 0.4) for side in box)
    masked = box_token_mask(tuple(scaled), (ROWS, COLUMNS), PATCH).sum()
    assert cost(page) == f"{masked} of 24 tokens, in the box and around it."
    run(page)
    demo.pause = 0.4
    page.get_by_role("radio", name="Variations").check(force=True)
    assert cost(page) == "12 of 24 tokens are generated again."
    page.click(".edit-run .primary")
    page.wait_for_selector(".candidates canvas")
    page.get_by_text("Cancel", exact=True).click()
    page.wait_for_selector(".candidates canvas", state="detached")
    assert page.locator(".candidates .item").count() == 3


def test_a_phone_pinches_without_painting(open_page, photo):
    size = {"width": 360, "height": 740}
    page = open_page(STATE, viewport=size, has_touch=True, is_mobile=True)
    open_file(page, photo)
    (x, y), touch = token(page, 2, 2), page.context.new_cdp_session(page)

    def send(kind: str, *points) -> None:
        each = [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": each})

    before = view_of(page)
    send("touchStart", (x, y))
    assert cost(page) != "Nothing is masked yet."
    send("touchStart", (x, y), (x + 20, y))
    send("touchMove", (x - 20, y), (x + 60, y))
    send("touchEnd")
    assert cost(page) == "Nothing is masked yet." and view_of(page) != before
    press(page, "Fit")
    assert view_of(page) == before
    send("touchStart", (x, y))
    send("touchMove", (x + 30, y))
    send("touchEnd")
    run(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_images_are_pasted_dropped_and_taken_from_the_held_out_ones(open_page, photo):
    page = open_page(STATE)
    page.wait_for_selector(".drop")
    page.evaluate(TRANSFER, ["paste", list(photo)])
    page.wait_for_selector(".edit:not([hidden])")
    np.testing.assert_array_equal(download(page, "Download"), Image.open(io.BytesIO(photo)))
    page.evaluate(TRANSFER, ["drop", [1, 2, 3]])
    page.wait_for_selector("#panel-edit .error:visible")
    page.evaluate(TRANSFER, ["drop", list(png(np.zeros((32, 16), np.uint8)))])
    page.wait_for_selector("text=16 × 32 pixels, 4 × 8 tokens.")
    assert not page.locator("#panel-edit .error:visible").count()
    press(page, "Open another image")
    page.get_by_role("button", name="Open held-out image 2", exact=True).click()
    page.wait_for_selector("text=16 × 16 pixels, 4 × 4 tokens.")


def test_masks_follow_the_editor(open_page):
    page, rng, cases = open_page("tab=edit"), np.random.default_rng(0), []
    for height, width in ((16, 16), (23, 40), (100, 37), (64, 129), (9, 21)):
        scale = 16 / min(height, width)
        size = working_size((height, width), scale, PATCH, 16)
        grid = (size[0] // PATCH, size[1] // PATCH)
        mask = ndimage.gaussian_filter(rng.random((height, width)), 2) > 0.52
        box = (height // 4, width // 3, height // 2, width // 3)
        cases.append({"size": [height, width], "grid": grid, "patch": PATCH, "radius": 2.5,
                      "mask": mask.ravel().astype(int).tolist(), "working": size,
                      "box": [box[0], box[1], box[0] + box[2], box[1] + box[3]]})  # fmt: skip
    for case, answer in zip(cases, page.evaluate(LAWS, cases), strict=True):
        mask = np.array(case["mask"], bool).reshape(case["size"])
        size, (top, left, bottom, right) = case["working"], case["box"]
        pixels = jnp.asarray(resize_mask(mask, size)[None])
        expected = np.asarray(token_mask(pixels, (case["grid"],)))[0]
        np.testing.assert_array_equal(np.array(answer["tokens"], bool), expected)
        ratios = (size[0] / mask.shape[0], size[1] / mask.shape[1]) * 2
        sides = (top, left, bottom - top, right - left)
        scaled = tuple(round(a * b) for a, b in zip(sides, ratios, strict=True))
        box = box_token_mask(scaled, case["grid"], PATCH)
        np.testing.assert_array_equal(np.array(answer["box"], bool), box.ravel())
        y, x = np.mgrid[-2:3, -2:3]
        disc = y**2 + x**2 <= 2.5**2
        dilated, eroded = (np.array(answer[key], bool).reshape(mask.shape)
                           for key in ("dilated", "eroded"))  # fmt: skip
        np.testing.assert_array_equal(dilated, ndimage.binary_dilation(mask, disc))
        np.testing.assert_array_equal(eroded, ndimage.binary_erosion(mask, disc, border_value=1))
        assert not any(answer["undone"]) and answer["redone"] == answer["painted"]
        assert answer["strokes"][0] == answer["strokes"][1]
