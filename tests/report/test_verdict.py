"""The findings of an experiment on the paper's signs, in a page and in Markdown."""

import html
import re
from typing import Any

from nilr.claims import DEMONSTRATION
from nilr.report.contents import contents
from nilr.report.markdown import markdown
from nilr.report.numbers import NOTHING
from tests.report.material import cells, material, result, used
from tests.report.test_page import page_of


def experiment() -> list[dict[str, Any]]:
    """Return the result of an experiment on maml, with one-step maml as a control, and probes of both."""
    models = [used("demo-maml-s0", "maml", 0, "a"), used("demo-maml-1step-s0", "maml", 0, "b")]
    measured = {"mean": 0.021, "ci95": 0.0025, "spread": 0.001, "p": 0.01, "n_seeds": 3, "verdict": "positive"}
    parts = dict.fromkeys(("seed", "classes", "seed_class", "episode", "residual"), 0.0)
    classes = {
        "mean": 0.021,
        "error": 0.002,
        "freedom": 4.0,
        "ci95": 0.004,
        "ci90": 0.003,
        "p": 0.005,
        "components": parts,
    }
    measured |= {"seeds": {}, "p_holm": 0.02, "new_classes": classes | {"n_classes": 20, "n_episodes": 600}}
    sign = {"run": "maml", "protocol": "same-task", "claimed": 1, "finding": "confirmed", "measured": measured}
    runs = {name: {"why": "", "models": [f"demo-{name}-s0"], "to_meta_init": {}} for name in ("maml", "maml-1step")}
    other = {**sign, "finding": "exploratory", "measured": {**measured, "mean": -0.013, "new_classes": None}}
    metrics = {"signs": [sign], "choices": {"5-shot": [other]}, "runs": runs, "files": []}
    concluded = result("reproduce", metrics, models, notes=["a", "b", "c", "d"])
    return [concluded, *(result("probe", {it["name"]: cells(0.4, 0.02, 0.02)}, [it]) for it in models)]


def bare(text: str) -> str:
    """Return a page without the attributes of its cells."""
    return re.sub(r"<td[^>]*>", "<td>", text)


def test_the_summary_of_a_probe_has_a_verdict_word_for_each_claimed_sign() -> None:
    (probe,) = experiment()[1:2]
    # of maml the paper claims a gain on the same task and a loss on another; both rise by 2.0 ± 0.3 points
    text = bare(page_of(material(probe)))
    for protocol, claimed, verdict in (("same-task", "gain", "confirmed"), ("cross-task", "loss", "refuted")):
        row = ("demo-maml-s0", protocol, "40.0 %", "42.0 %", "+2.00 ± 0.30", claimed, verdict)
        assert "".join(f"<td>{cell}</td>" for cell in row) in text
    assert "Summary</h2>" not in page_of(material(*experiment()))  # the experiment's findings are the summary


def test_the_finding_on_each_sign_precedes_the_figures_with_its_interval_and_seeds() -> None:
    given = material(*experiment())
    text = bare(page_of(given))
    row = ("maml", "same-task", "gain", "+2.10 ± 0.25", "+2.10 ± 0.40", "3", "0.02", "confirmed")
    assert text.index("The paper&#x27;s four signs</h2>") < text.index("".join(f"<td>{cell}</td>" for cell in row))
    assert text.index("<td>confirmed</td>") < text.index("<figure>")
    text = markdown(contents(given), figures="figures", made_by="nilr 0")
    assert text.index("## The paper's four signs") < text.index(f"| {' | '.join(row)} |") < text.index("![")


def test_the_signs_under_other_choices_have_their_own_table() -> None:
    row = ("5-shot", "maml", "same-task", "gain", "-1.30 ± 0.25*", "3")
    given = material(*experiment())
    text = bare(page_of(given)).partition("other choices: exploratory</h2>")[2]
    assert "".join(f"<td>{cell}</td>" for cell in row) in text
    text = markdown(contents(given), figures="figures", made_by="nilr 0")
    assert f"| {' | '.join(row)} |".replace("*", "\\*") in text


def test_a_report_without_an_experiment_has_no_findings() -> None:
    given = material(*experiment()[1:])
    assert contents(given).verdict == []
    assert "four signs</h2>" not in page_of(given)


def test_an_experiment_s_controls_have_no_claimed_signs() -> None:
    signs = {"same-task": 1, "cross-task": -1}
    given = material(*experiment())
    assert [(subject.label, subject.claims) for subject in given.subjects] == [
        ("demo-maml-s0", signs),
        ("demo-maml-1step-s0", {}),
    ]
    assert all(subject.claims == signs for subject in material(*experiment()[1:]).subjects)


def test_runs_are_compared_by_their_levels_before_and_after_beside_the_gain() -> None:
    def decided(mean: float) -> dict[str, Any]:
        verdict = "positive" if mean > 0 else "negative"
        return {"mean": mean, "ci95": 0.0025, "spread": 0.001, "p": 0.01, "n_seeds": 3, "verdict": verdict, "seeds": {}}

    given = experiment()
    run = given[0]["metrics"]["runs"]["maml-1step"]
    run |= {"counterpart": "maml", "to_counterpart": {"same-task": decided(0.0134)}}
    before = ("maml-1step - maml", "same-task", NOTHING, NOTHING, "+1.34 ± 0.25", NOTHING)
    assert before in contents(material(*given)).verdict[-1][1].rows  # a result without levels
    run["accuracy_to_counterpart"] = {"meta-init": decided(-0.0158), "same-task": decided(-0.0024)}
    equal = {"mean": 0.01, "ci95": 0.0021, "p": 0.01, "slope": -0.2, "slope_ci95": 0.1, "verdict": "positive"}
    run["at_equal_level"] = {"same-task": equal}
    title, table = contents(material(*given)).verdict[-1]
    assert title == "Runs that differ in one choice of training: exploratory"
    assert table.header[2:] == ("before", "after", "gain", "gain at equal level")
    shown = ("maml-1step - maml", "same-task", "-1.58 ± 0.25", "-0.24 ± 0.25", "+1.34 ± 0.25", "+1.00 ± 0.21")
    assert table.rows == [shown]


def test_a_page_on_generated_images_is_a_demonstration_without_claimed_signs() -> None:
    data = {"name": "toy", "digest": "mini", "image_size": 16, "split": "test", "generated": True}
    given = experiment()
    for content in given:
        content["data"] = data
        content["notes"] = [DEMONSTRATION]
    given[0]["metrics"]["signs"][0]["finding"] = "demonstration"
    given[0]["metrics"]["choices"] = {}
    found = material(*given)
    assert all(subject.claims == {} for subject in found.subjects)
    text = page_of(found)
    assert text.count(html.escape(DEMONSTRATION)) == 1
    assert "<td>demonstration</td>" in bare(text)
    assert not any(word in text for word in ("confirmed", "refuted", "claimed sign"))


def test_signs_are_claimed_of_the_learned_rates_only() -> None:
    probe = experiment()[1]
    edited = probe | {"config": probe["config"] | {"rates": ["absolute", "learned"]}}
    assert material(edited).subjects[0].claims == {}
