"""The page in a real browser: quiet, alone, and legible on a telephone and on a wide screen, by day and by night."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MadeOnce
from tests.report.browser import CHROMIUM, Browser, Page, running
from tests.report.test_page import full_page_file

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

SCREENS = [(width, scheme) for width in (400, 1600) for scheme in ("light", "dark")]

VISIBLE_TEXTS = """
[...document.querySelectorAll('h1,h2,p,figcaption,summary,th,td,dt,dd,svg text')]
  .filter(e => e.getBoundingClientRect().width > 0)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(browser: Browser, made_once: MadeOnce) -> Page:
    return browser.open(full_page_file(made_once).as_uri())


def test_the_browser_hears_what_a_page_says_and_asks(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "loud.html"
    path.write_text("<script>console.error('oh')</script><img src='http://127.0.0.1:9/x.png'>", encoding="utf-8")
    loud = browser.open(path.as_uri())
    assert any("oh" in complaint for complaint in loud.complaints)
    assert "http://127.0.0.1:9/x.png" in loud.requests


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_page_complains_of_nothing_and_asks_for_nothing(
    opened: Page, width: int, scheme: str, tmp_path: Path
) -> None:
    opened.look(width, scheme)
    opened.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000
    assert opened.complaints == []
    assert [url for url in opened.requests if not re.match(r"file://.*/report\.html$|data:", url)] == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_nothing_is_wider_than_the_screen_and_no_text_is_small(opened: Page, width: int, scheme: str) -> None:
    opened.look(width, scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    sizes = opened.evaluate(
        f"{VISIBLE_TEXTS}.map(e => parseFloat(getComputedStyle(e).fontSize) * (e.ownerSVGElement ? "
        "e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.viewBox.baseVal.width : 1))"
    )
    assert len(sizes) > 100
    assert min(sizes) >= 11
    shown = opened.evaluate(
        "[...document.querySelectorAll('figure')].map(f => [...f.querySelectorAll('svg')]"
        ".filter(s => s.getBoundingClientRect().width > 0).length)"
    )
    assert set(shown) == {1}


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_no_label_of_a_figure_leaves_it(opened: Page, width: int, scheme: str) -> None:
    opened.look(width, scheme)
    outside = opened.evaluate(
        f"{VISIBLE_TEXTS}.filter(e => e.ownerSVGElement).filter(e => {{"
        "const t = e.getBoundingClientRect(), s = e.ownerSVGElement.getBoundingClientRect();"
        "return t.left < s.left - 2 || t.right > s.right + 2 || t.top < s.top - 2 || t.bottom > s.bottom + 2})"
        ".map(e => e.textContent)"
    )
    assert outside == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_every_text_stands_out_from_its_ground(opened: Page, width: int, scheme: str) -> None:
    """WCAG 2.1 asks for a contrast of 4.5; numbers in the cells of a map are on grounds of their own."""
    opened.look(width, scheme)
    colours = opened.evaluate(
        f"[getComputedStyle(document.body).backgroundColor, ...new Set({VISIBLE_TEXTS}.map(e => "
        "e.ownerSVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color))]"
    )
    ground, *inks = [tuple(float(part) for part in re.findall(r"[\d.]+", text)[:3]) for text in colours]
    on_cells = [(0, 0, 1), (255, 255, 254)]
    assert len(inks) >= 3
    for ink in inks:
        if ink not in on_cells:
            assert contrast(ground, ink) >= 4.5, (ground, ink)


def test_paper_is_white_whatever_the_screen_was(opened: Page) -> None:
    opened.look(1000, "dark")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 29)"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    opened.call("Emulation.setEmulatedMedia", media="print", features=dark)
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == "rgb(28, 33, 38)"
    opened.call("Emulation.setEmulatedMedia", media="")


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast ratio of two sRGB colours, by WCAG's formula."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
