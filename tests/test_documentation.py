"""The documentation: relative links resolve, and tables of settings equal their declaration."""

import dataclasses
import re
from pathlib import Path

import pytest

from maskgit_jax.decoding import rules  # noqa: F401  (registers the decoders)
from maskgit_jax.decoding.settings import (
    DecodeSettings,
    MaskingSettings,
    PriorSettings,
    SlidingWindowSettings,
)
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.settings import settings_table

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "launch/*.md", "configs/*.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r'\]\(([^)\s]+)\)|src="([^"]+)"')
README_LINES = 160


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for match in LINK.finditer(text):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{page.relative_to(ROOT)}: {link}")
    return broken


def test_relative_links_resolve():
    broken = [link for page in PAGES for link in broken_links(page)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("settings", "page"),
    [
        (DecodeSettings, "decoding"),
        (SlidingWindowSettings, "decoding"),
        (PriorSettings, "decoding"),
        (LayerOptions, "presets"),
        (MaskingSettings, "presets"),
    ],
)
def test_tables_of_settings_equal_their_declaration(settings, page):
    assert settings_table(settings) in (ROOT / f"docs/{page}.md").read_text()


def test_the_table_of_searched_values_equals_their_declaration():
    page = (ROOT / "docs/evaluation.md").read_text()
    table = page.partition("| setting | values |")[2].partition("\n\n")[0]
    for field in dataclasses.fields(DecodeSettings):
        rows = [line for line in table.splitlines() if f"`{field.name}`" in line]
        assert len(rows) == bool(field.metadata["candidates"]), field.name
        for value in set(field.metadata["candidates"]) - set(field.metadata["choices"]):
            parts = value if isinstance(value, tuple) else (value,)
            words = ",".join(part if isinstance(part, str) else f"{part:g}" for part in parts)
            assert words in rows[0], field.name


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
