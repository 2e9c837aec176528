from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nilr.config.evaluation import ProbeSettings
from nilr.config.results import ReportSettings
from nilr.errors import NilrError, ResultError, StoreError, UsageError
from nilr.recipes import probe, report, results
from nilr.reporting import SilentReporter
from nilr.results.result import to_json, write_result
from nilr.store import Store
from tests.recipes.listening import Listening
from tests.report.material import everything, full_probe, result
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("home")


def save(path: Path, *parts: str) -> Path:
    """Write the result of a probe with some of its parts."""
    content = full_probe()
    content["metrics"] = {name: {p: m[p] for p in parts if p in m} for name, m in content["metrics"].items()}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "probe.json", "meta-init", "same-task")


def make(*results: Path, **settings: Any) -> report.Report:
    return report.run(ReportSettings(results=results, **settings), SilentReporter())


def test_a_page_is_written_with_a_folder_of_its_figures(saved: Path, tmp_path: Path) -> None:
    made = make(saved, out=tmp_path / "report.html")
    assert made.written == [
        tmp_path / "report.html",
        tmp_path / "report-figures" / "protocols.svg",
        tmp_path / "report-figures" / "protocols.png",
    ]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file() and path != saved) == sorted(made.written)
    assert made.written[0].read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "form", "begins"), [("a.md", None, "# "), ("a.txt", "md", "# "), ("a", "html", "<!doctype")]
)
def test_the_format_follows_the_name_unless_it_is_given(
    saved: Path, tmp_path: Path, name: str, form: str | None, begins: str
) -> None:
    made = make(saved, out=tmp_path / name, format=form)
    assert made.written[0].read_text(encoding="utf-8").startswith(begins)


def test_pictures_alone_are_written_to_the_given_folder(saved: Path, tmp_path: Path) -> None:
    made = make(saved, out=tmp_path / "pictures", format="png")
    assert [path.name for path in made.written] == ["protocols.png"]
    for form in ("pdf", "svg"):
        made = make(saved, out=tmp_path / "pictures", format=form, width="column", force=True)
        assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"protocols.{form}"]
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"format": "pdf"}, "--format pdf needs --out"), ({"style": "screen", "width": "page"}, "--width is for a paper")],
)
def test_settings_of_figures_that_exclude_each_other_are_refused(saved: Path, settings: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(saved, **settings)


def test_the_files_that_an_experiment_names_are_read_where_they_lie(saved: Path, tmp_path: Path) -> None:
    content = everything().sources[2].result.model_dump(mode="json", by_alias=True)
    metrics = content["metrics"] | {"grids": {}, "files": ["m.probe-1.json", "m.probe-2.json", "../m.probe-3.json"]}
    experiment = tmp_path / "reproduce.json"
    experiment.write_text(json.dumps(content | {"metrics": metrics}))
    (tmp_path / "m").mkdir()
    saved.rename(tmp_path / "m" / "probe-1.json")
    made = make(experiment)
    assert [source.name for source in made.material.sources] == ["reproduce.json", "probe-1.json"]
    assert [kind.name for kind, _ in made.contents.figures] == ["signs", "choices", "protocols"]


def test_an_unknown_format_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the format of `--out .*report\.pdf` is unknown"):
        make(saved, out=tmp_path / "report.pdf")


def test_nothing_is_replaced_without_force(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(StoreError, match="already exists"):
        make(saved, out=out)
    assert out.read_text() == "mine"
    assert make(saved, out=out, force=True).written[0].read_text() != "mine"


def test_stale_figures_of_an_earlier_report_are_removed(saved: Path, tmp_path: Path) -> None:
    full = save(tmp_path / "full.json", "meta-init", "same-task", "layers")
    out = tmp_path / "report.html"
    before = make(full, out=out).written
    mine = tmp_path / "report-figures" / "mine.svg"
    mine.write_text("mine")
    after = make(saved, out=out, force=True).written
    assert len(after) < len(before)
    assert sorted((tmp_path / "report-figures").iterdir()) == sorted([*after[1:], mine])


def test_results_of_different_questions_are_drawn_apart_and_their_stale_figures_removed(
    saved: Path, tmp_path: Path
) -> None:
    content = json.loads(saved.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content | {"config": content["config"] | {"n_shot": 5}}))
    out = tmp_path / "report.html"
    made = make(saved, other, out=out)
    names = {path.name for path in made.written}
    assert {"protocols.1-default.svg", "protocols.2-5-shot.svg", "protocols.2-5-shot.png"} <= names
    assert {subject.question for subject in made.material.subjects} == {"default", "5-shot"}
    make(saved, out=out, force=True)
    assert {path.name for path in (tmp_path / "report-figures").iterdir()} == {"protocols.svg", "protocols.png"}


def test_a_setting_of_a_wrong_type_is_an_error_that_names_the_file(saved: Path) -> None:
    content = json.loads(saved.read_text())
    for wrong in ({"n_episodes": "many"}, {"n_query": []}, {"until_ci": {}}):
        saved.write_text(json.dumps(content | {"config": content["config"] | wrong}))
        if wrong == {"n_query": []}:
            assert make(saved).material.subjects[0].question == "default"
        else:
            with pytest.raises(ResultError, match="setting of a wrong type"):
                make(saved)


def test_a_failure_while_drawing_leaves_the_old_page(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    monkeypatch.setattr(report, "page", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(saved, out=out, force=True)
    assert out.read_text() == "mine"


def test_without_matplotlib_a_page_cannot_be_drawn_but_a_table_can(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NilrError, match="cannot be imported") as caught:
        make(saved, out=tmp_path / "report.html")
    assert caught.value.hint is not None
    assert "pip install" in caught.value.hint
    assert not list(tmp_path.glob("report*"))
    assert make(saved).contents.figures


def test_one_invalid_file_is_named_and_nothing_is_written(saved: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(ResultError, match=r"bad\.json"):
        make(saved, bad, out=tmp_path / "report.html")
    assert not list(tmp_path.glob("report*"))


def test_a_file_that_is_given_twice_counts_once(saved: Path) -> None:
    assert len(make(saved, saved).material.sources) == 1


def test_the_default_is_the_newest_probe_in_the_store(saved: Path) -> None:
    with pytest.raises(StoreError, match="no result of a probe"):
        make()
    results = Store(None).home / "results"
    results.mkdir(parents=True)
    for stamp in ("20260101T000000Z", "20260102T000000Z"):
        (results / f"{stamp}-probe-abc.json").write_text(saved.read_text())
    assert make().material.sources[0].name.startswith("20260102")


def store_results(saved: Path, **models: str) -> None:
    """Write results to the store: the end of a name -> the models of the result."""
    results = Store(None).home / "results"
    results.mkdir(parents=True, exist_ok=True)
    rates = everything().sources[1]
    assert rates.command == "rates"
    contents = {"probe": json.loads(saved.read_text()), "rates": rates.result.model_dump(mode="json", by_alias=True)}
    for name, listed in models.items():
        day, kind = name.lstrip("_").split("_")
        content = contents[kind] | {"models": [contents[kind]["models"][0] | {"name": n} for n in listed.split()]}
        (results / f"202601{day}T000000Z-{kind}-abcdefabcdef.json").write_text(json.dumps(content))


def test_a_model_stands_for_its_newest_results(saved: Path) -> None:
    store_results(
        saved, _01_probe="a b", _02_probe="a", _03_rates="a", _04_probe="c-s0", _05_probe="c-s1", _06_probe="d"
    )

    def days(*refs: str) -> list[str]:
        return [source.name[6:8] for source in make(*map(Path, refs)).material.sources]

    assert days("a") == ["02", "03"]
    assert days("b") == ["01"]
    assert days("c-s*") == ["04", "05"]
    assert days("c-s*", "a", "c-s1") == ["04", "05", "02", "03"]
    assert days("20260104T000000Z-probe-abcdefabcdef") == ["04"]
    assert days("202601*-rates-*", str(saved)) == ["03", saved.name[6:8]]


def test_a_file_that_is_named_like_a_model_is_taken_with_a_note(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved.rename("maml")
    listening = Listening()
    report.run(ReportSettings(results=(Path("maml"),)), listening)
    assert listening.notes == []
    Store().new_model_name("maml")
    report.run(ReportSettings(results=(Path("maml"),)), listening)
    file = f"`maml` is the file `{tmp_path / 'maml'}`"
    assert listening.notes == [f"{file}; for the model, run the command in another directory"]


def test_results_of_other_commands_are_not_opened_to_find_those_of_a_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    row = results._row
    monkeypatch.setattr(results, "_row", lambda file: opened.append(file.name) or row(file))
    for command in ("probe", "meta-train", "calibrate", "rates"):
        path = Store().result_path(command)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved.read_bytes())
    with pytest.raises(StoreError, match="no model `boil`"):
        make(Path("boil"))
    assert [name.split("-")[1] for name in opened] == ["probe", "rates"]


def test_a_model_without_results_is_an_error_with_the_command_that_makes_one(saved: Path) -> None:
    store_results(saved, _01_probe="a")
    for name in ("maml-s0", "maml-s1"):
        (Store(None).home / "models" / name).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"no result of `probe` or `rates` in .* contains `maml-s0`") as one:
        make(Path("maml-s0"))
    assert one.value.hint == "make one: `nilr probe maml-s0`"
    with pytest.raises(StoreError, match=r"contains `maml-s\*`") as several:
        make(Path("maml-s*"))
    assert "nilr probe maml-s0 maml-s1" in str(several.value.hint)
    with pytest.raises(StoreError, match="there is no file, no result and no model `mamls0`") as unknown:
        make(Path("mamls0"))
    assert "did you mean `maml-s0`" in str(unknown.value.hint)
    with pytest.raises(StoreError, match=r"cannot read `no/probe\.json`: no such file"):
        make(Path("no/probe.json"))


@pytest.mark.usefixtures("pack", "one_thread")
def test_histories_are_found_in_the_store_by_name_and_digest(quick: dict[str, Any], tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        train_model(algo="metasgd", name=f"s{seed}", seed=seed, inner_lr_init="0.001", **quick)
    judged = probe.run(
        ProbeSettings(models=("s0@last", "s1@last", "s2@last"), n_episodes=5, threads=1), SilentReporter()
    )
    path = tmp_path / "probe.json"
    write_result(path, judged)
    made = make(path, out=tmp_path / "report.html")
    assert [kind.name for kind, _ in made.contents.figures] == ["protocols", "seeds", "training", "share-negative"]
    assert [history.label for history in made.material.histories] == ["s0", "s1", "s2"]
    assert all(history.evaluated == history.steps[-1] for history in made.material.histories)
    assert all(set(history.by_layer) > {"block1", "head"} for history in made.material.histories)
    changed = json.loads(to_json(judged))
    changed["models"][1]["digest"] = "0" * 64
    path.write_text(json.dumps(changed))
    assert [history.label for history in make(path).material.histories] == ["s0", "s2"]


def test_unreadable_lines_of_a_history_are_skipped() -> None:
    lines = [
        {"outer_step": 1, "share_negative": 0.0, "share_negative_by_layer": {"block1": 0.0}},
        {"outer_step": 2, "val_accuracy": {"mean": 0.4}},
        {"outer_step": 3, "share_negative": 0.25, "share_negative_by_layer": {"block1": 0.5}},
    ]
    odd = ["[" * 100_000, '{"outer_step": 4, "share_negative": NaN}', '{"outer_step": 4, "share_negative": "0.5"}']
    odd.append('{"outer_step": 4, "share_negative": 0.5, "share_negative_by_layer": {"block1": "many"}}')
    text = "\n".join([*(json.dumps(line) for line in lines), *odd, '{"outer_step": 4, "share_ne'])
    history = report._read_history("m", text, evaluated=3)
    assert history is not None
    assert (list(history.steps), list(history.share_negative)) == ([1, 3], [0.0, 0.25])
    assert history.by_layer == {"block1": [0.0, 0.5]}
    assert report._read_history("m", json.dumps({"outer_step": 1, "share_negative": None}), evaluated=1) is None


def test_a_report_without_figures_lists_what_they_need(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(result("probe", {}, [])))
    made = make(path, out=tmp_path / "report.html")
    assert len(made.contents.left_out) == len(report.KINDS)
    assert "nilr probe" in made.written[0].read_text(encoding="utf-8")
