import re
from html.parser import HTMLParser

import pytest

from nilr.report.contents import contents
from nilr.report.figures.figure import Material
from nilr.report.markdown import markdown, plain
from nilr.report.page import page
from nilr.report.style import COLOURS, NARROW, WIDE, svg
from tests.report.material import cells, everything, full_probe, material, result, used


def page_of(given: Material) -> str:
    made = contents(given)
    pictures = {kind.name: (svg(drawing.draw, WIDE), svg(drawing.draw, NARROW)) for kind, drawing in made.figures}
    return page(made, pictures, made_by="nilr 0")


@pytest.fixture(scope="module")
def full_page() -> str:
    return page_of(everything())


def test_a_page_asks_for_nothing_and_may_not(full_page: str) -> None:
    assert "default-src 'none'" in full_page
    assert "<script" not in full_page
    assert "<img" not in full_page
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", full_page)
    assert not re.search(r"url\((?!#)", full_page)
    # Names of XML namespaces are no addresses; they are all that may look like one.
    assert set(re.findall(r"https?://[^\"' <]+", full_page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_every_id_is_unique_and_every_reference_is_met(full_page: str) -> None:
    ids = re.findall(r"\bid=\"([^\"]+)\"", full_page)
    assert len(ids) == len(set(ids))
    references = re.findall(r"(?:href=\"#|url\(#)([^\")]+)", full_page)
    assert references
    assert set(references) <= set(ids)


def test_every_figure_follows_the_readers_scheme(full_page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", full_page, flags=re.DOTALL)
    assert len(drawings) == 2 * len(contents(everything()).figures)
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert not any(light in drawing for light, _ in COLOURS.values())


def test_tags_are_balanced(full_page: str) -> None:
    open_tags: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "link"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Balance().feed(full_page)
    assert open_tags == []


def test_what_users_wrote_is_text_in_a_page_and_in_markdown() -> None:
    content = full_probe()
    evil = "<script>alert(1)</script>|`*"
    content["metrics"] = {evil: content["metrics"]["maml"]}
    content["notes"] = [evil]
    content["models"][0]["name"] = evil
    given = material(content)
    text = page_of(given)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|`*" in text
    marked = markdown(contents(given), figures="x-figures", made_by="nilr 0")
    assert "<script" not in marked.replace("\\<", "")
    assert plain(evil) == "\\<script\\>alert(1)\\</script\\>\\|\\`\\*"


def test_many_notes_stand_behind_the_figures_and_few_before_them() -> None:
    probe = result("probe", {"m": cells(0.4, 0.01, 0.02)}, [used("m", "maml", 0, "r")])
    few = page_of(material(probe | {"notes": ["first"]}))
    many = page_of(material(probe | {"notes": [f"note {i}" for i in range(9)]}))
    assert few.index("first") < few.index("<section")
    assert many.index("note 0") > many.index('id="protocols"')


def test_markdown_shows_each_figure_with_its_sentence_and_table() -> None:
    made = contents(everything())
    text = markdown(made, figures="my report-figures", made_by="nilr 0")
    for kind, drawing in made.figures:
        assert f"](<my report-figures/{kind.name}.svg>)" in text
        assert plain(drawing.sentence) in text
