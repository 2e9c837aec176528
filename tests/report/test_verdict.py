"""The findings of an experiment on the paper's signs, in a page and in Markdown."""

from typing import Any

from nilr.report.contents import contents
from nilr.report.markdown import markdown
from tests.report.material import cells, material, result, used
from tests.report.test_page import page_of


def experiment() -> list[dict[str, Any]]:
    """Return the result of an experiment on maml, with one-step maml as a control, and probes of both."""
    models = [used("demo-maml-s0", "maml", 0, "a"), used("demo-maml-1step-s0", "maml", 0, "b")]
    measured = {"mean": 0.021, "ci95": 0.0025, "spread": 0.001, "p": 0.01, "n_seeds": 3, "verdict": "positive"}
    measured["seeds"] = {}
    sign = {"run": "maml", "protocol": "same-task", "claimed": 1, "finding": "confirmed", "measured": measured}
    runs = {name: {"why": "", "models": [f"demo-{name}-s0"], "to_meta_init": {}} for name in ("maml", "maml-1step")}
    other = {**sign, "finding": "refuted", "measured": {**measured, "mean": -0.013}}
    metrics = {"signs": [sign], "choices": {"5-shot": [other]}, "runs": runs, "files": []}
    concluded = result("reproduce", metrics, models, notes=["a", "b", "c", "d"])
    return [concluded, *(result("probe", {it["name"]: cells(0.4, 0.02, 0.02)}, [it]) for it in models)]


def test_the_finding_on_each_sign_precedes_the_figures_with_its_interval_and_seeds() -> None:
    given = material(*experiment())
    html = page_of(given)
    row = ("maml", "same-task", "gain", "+2.10 ± 0.25", "3", "confirmed")
    assert html.index("<h2>The paper&#x27;s four signs</h2>") < html.index("".join(f"<td>{cell}</td>" for cell in row))
    assert html.index("<td>confirmed</td>") < html.index("<figure>")
    text = markdown(contents(given), figures="figures", made_by="nilr 0")
    assert text.index("## The paper's four signs") < text.index(f"| {' | '.join(row)} |") < text.index("![")


def test_the_signs_under_other_choices_have_their_own_table() -> None:
    row = ("5-shot", "maml", "same-task", "gain", "-1.30 ± 0.25", "3", "refuted")
    given = material(*experiment())
    assert "".join(f"<td>{cell}</td>" for cell in row) in page_of(given).partition("other choices</h2>")[2]
    assert f"| {' | '.join(row)} |" in markdown(contents(given), figures="figures", made_by="nilr 0")


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
