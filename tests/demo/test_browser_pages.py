"""The page in a browser: generating, watching, encoding, links, two users, phones, keyboards."""

import re

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TOKENS = ".track >> nth={} >> .tokens button"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


def state_of(page) -> dict[str, str]:
    """Returns the state in the page's address."""
    return dict(re.findall(r"[#&](\w+)=([^&]*)", page.url))


def number(page, name: str):
    return page.get_by_role("spinbutton", name=name, exact=True)


def wait_until_done(page, tab: str) -> None:
    page.wait_for_selector(f"#panel-{tab} .job", state="hidden")
    assert not page.locator(f"#panel-{tab} .error:visible").count()


def test_images_are_generated_and_a_link_restores_the_settings(open_page, demo):
    page = open_page("labels=3,5&num=3", viewport=WIDE)
    number(page, "Steps").fill("5")
    number(page, "Seed").fill("7")
    demo.pause = 0.2
    page.click("#panel-generate .primary")
    page.wait_for_selector("text=/Step [1-4] of 5/")
    assert page.locator(".gallery canvas").count() == 3
    page.wait_for_selector(".gallery img")
    names = page.locator(".gallery img").evaluate_all("images => images.map(image => image.alt)")
    assert names == [f"{name}, image {i} of 3, seed 7" for i, name in ((1, 3), (2, 5), (3, 3))]
    images = page.locator(".gallery img").evaluate_all("images => images.map(image => image.src)")

    assert state_of(page) == {"run": "tiny", "tab": "generate", "labels": "3%2C5", "num": "3",
                              "steps": "5", "seed": "7"}  # fmt: skip
    other = open_page(page.url.partition("#")[2], viewport=WIDE)
    assert number(other, "Steps").input_value() == "5"
    number(other, "Seed").press("Enter")
    other.wait_for_selector(".gallery img")
    again = other.locator(".gallery img").evaluate_all("images => images.map(image => image.src)")
    assert again == images


def test_a_dialog_shows_an_image_and_escape_closes_it(open_page):
    page = open_page("num=2", viewport=WIDE)
    page.click("#panel-generate .primary")
    page.click(".gallery button >> nth=0")
    caption = page.locator(".viewer .caption")
    page.keyboard.press("ArrowRight")
    assert caption.inner_text() == "1, image 2 of 2, seed 0"
    with page.expect_download() as download:
        page.get_by_text("Download").click()
    assert download.value.suggested_filename == "1-image-2-of-2-seed-0.png"
    page.keyboard.press("Escape")
    assert not caption.is_visible()
    page.focus("#tab-generate")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.id") == "tab-encode"
    page.wait_for_selector("#panel-encode")
    assert not page.is_visible("#panel-generate")


def test_tokens_are_taken_back_and_locked_ones_do_not_change(open_page):
    page = open_page("tab=watch&steps=6&label=4", viewport=WIDE)
    page.click("#panel-watch .primary")
    wait_until_done(page, "watch")
    slider = page.get_by_label("Step", exact=True)
    slider.press("Home")
    assert page.locator("[aria-label*=masked]").count() == 16
    slider.press("End")
    tokens = page.locator(TOKENS.format(0))
    before = tokens.evaluate_all("buttons => buttons.map(button => button.ariaLabel)")
    assert not any("masked" in name for name in before)
    for index in range(12):
        tokens.nth(index).click()
    page.get_by_role("button", name="Lock").click()
    tokens.nth(12).focus()
    for key in ("Enter", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert "12 taken back. 2 locked." in page.locator(".track .note").inner_text()
    number(page, "Seed to go on with").fill("5")
    page.get_by_text("Go on from here").click()
    page.wait_for_selector(".track >> nth=1")
    wait_until_done(page, "watch")
    after = page.locator(TOKENS.format(1)).evaluate_all("all => all.map(each => each.ariaLabel)")
    codes = [[re.findall(r"code (\d+)", name)[0] for name in names] for names in (before, after)]
    assert codes[0][12:14] == codes[1][12:14] and codes[0][:12] != codes[1][:12]
    assert all("locked" in name for name in after[12:14])


def test_two_users_wait_and_cancel(open_page, demo):
    demo.pause = 0.3
    first, second = open_page("steps=12&num=1"), open_page("steps=12&num=1")
    first.click("#panel-generate .primary")
    first.wait_for_selector("text=/Step [1-9] of 12/")
    second.click("#panel-generate .primary")
    second.wait_for_selector(".job >> text=Place 1 in the queue")
    first.get_by_text("Cancel", exact=True).click()
    first.wait_for_selector("#panel-generate .job", state="hidden", timeout=1500)
    assert not first.locator(".gallery img").count()
    demo.pause = 0.0
    second.wait_for_selector(".gallery img")


def test_a_lost_connection_loses_no_result(open_page, demo):
    page = open_page("num=1&steps=6")
    broken = []

    def break_twice(route):
        broken.append(route.request.url)
        route.abort() if len(broken) < 3 else route.continue_()

    page.route("**/events*", break_twice)
    page.click("#panel-generate .primary")
    page.wait_for_selector("text=The connection to the server is lost")
    page.wait_for_selector(".gallery img")
    assert len(broken) == 3 and not page.is_visible("#connection")


def test_a_held_out_image_is_encoded_and_interpolated(open_page, demo):
    page = open_page("tab=encode&held_out=4&columns=4", viewport=WIDE)
    page.wait_for_selector("text=/PSNR [0-9.]+ dB/")
    page.hover(".encoded .tokens button >> nth=5")
    page.wait_for_selector("text=row 2, column 2")
    hold = page.get_by_text("Hold for original")
    hold.focus()
    page.keyboard.down("Space")
    assert page.is_visible(".over")
    page.keyboard.up("Space")
    assert not page.is_visible(".over")
    demo.images._images.clear()  # the page uploads them again
    page.get_by_role("button", name="Interpolate").click()
    page.wait_for_selector(".path >> text=Image 2 of 4")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_horizontal_scrolling(open_page, scheme):
    page = open_page("num=2&steps=2&second=confidence", viewport=PHONE, color_scheme=scheme)
    for tab in ("generate", "watch", "encode"):
        page.click(f"#tab-{tab}")
        if tab != "encode":
            page.click(f"#panel-{tab} .primary")
        page.wait_for_selector({"generate": ".gallery img", "watch": ".track >> nth=1",
                                "encode": ".encoded img"}[tab])  # fmt: skip
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
