import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nilr.report.contents import contents
from nilr.report.figures.figure import Material
from nilr.report.markdown import markdown, plain
from nilr.report.page import page
from nilr.report.style import COLOURS, NARROW, WIDE, svg
from tests.conftest import MadeOnce
from tests.report.material import cells, everything, full_probe, full_rates, material, result, used


def page_of(given: Material) -> str:
    made = contents(given)
    pictures = {
        part.name(kind): (svg(drawing.draw, WIDE), svg(drawing.draw, NARROW))
        for part in made.parts
        for kind, drawing in part.figures
    }
    return page(made, pictures, made_by="nilr 0")


def full_page_file(made_once: MadeOnce) -> Path:
    """Return a page with everything that a report can have."""
    return made_once("report.html", lambda path: path.write_text(page_of(everything()), encoding="utf-8"))


@pytest.fixture(scope="module")
def full_page(made_once: MadeOnce) -> str:
    return full_page_file(made_once).read_text(encoding="utf-8")


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


@pytest.mark.slow
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


def several_questions() -> Material:
    probe = full_probe()
    other = probe | {"config": probe["config"] | {"distance": "euclidean", "n_episodes": 300}}
    return material(other, probe, full_rates())


@pytest.mark.slow
def test_each_question_has_its_own_figures_and_the_first_is_open() -> None:
    made = contents(several_questions())
    assert [part.question for part in made.parts] == ["default", "euclidean, 300 episodes", None]
    assert [[kind.name for kind, _ in part.figures] for part in made.parts[1:]] == [
        [kind.name for kind, _ in made.parts[0].figures],
        ["rates", "rate-effects", "consistency", "effective-step"],
    ]
    assert made.several is not None
    assert "2 different questions" in made.several
    text = page_of(several_questions())
    assert text.count('<details class="part" open>') == 1
    assert text.count('<details class="part">') == 2
    assert 'id="protocols.1-default"' in text
    assert 'id="protocols.2-euclidean-300-episodes"' in text
    ids = re.findall(r"\bid=\"([^\"]+)\"", text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text)) <= set(ids)
    marked = markdown(made, figures="f", made_by="nilr 0")
    assert marked.index("## Question: default") < marked.index("](<f/protocols.1-default.svg>)")
    assert "## Question: euclidean, 300 episodes" in marked


@pytest.mark.slow
def test_a_page_of_one_question_names_it_and_warns_of_nothing() -> None:
    probe = full_probe()
    for config, title in (({}, ""), ({"n_shot": 5}, ": 5-shot")):
        text = page_of(material(probe | {"config": probe["config"] | config}))
        assert f"<h1>Effect of the inner learning rates on the features{title}</h1>" in text
        assert f"Question: {title.removeprefix(': ') or 'default'}</p>" in text
        assert "different questions" not in text


def test_many_files_and_many_rows_of_edits_are_closed_at_first() -> None:
    def page_with(files: int) -> str:
        return page_of(material(*(one_of(f"m{i}") for i in range(files))))

    def one_of(name: str) -> dict[str, object]:
        return result("probe", {name: cells(0.4, 0.01, 0.02)}, [used(name, "maml", 0, "r")])

    assert "<details open><summary>20 models, 20 files" in page_with(20)
    assert "<details><summary>21 models, 21 files" in page_with(21)
