import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nilr.errors import ResultError, StoreError
from nilr.report.reading import read_result
from tests.report.material import full_probe, full_rates, result

Save = Callable[..., Path]

COMMITTED = Path(__file__).parents[2] / "docs" / "reproduction"


def test_a_result_is_read_with_its_command_and_digest(save: Save) -> None:
    source = read_result(save(full_probe(), "probe.json"))
    assert (source.name, source.command, len(source.sha256)) == ("probe.json", "probe", 64)
    assert source.result.metrics["maml"].same_task.delta.mean == 0.021
    assert source.result.models[1].algo == "metasgd"


@pytest.mark.parametrize("command", ["probe", "meta-train", "reproduce"])
def test_committed_results_are_read(command: str) -> None:
    paths = [path for path in COMMITTED.rglob("*.json") if f'"nilr/{command}/1"' in path.read_text(encoding="utf-8")]
    assert paths
    for path in paths[:20]:
        assert read_result(path).result.metrics


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ('{"schema": NaN}', "NaN is not allowed in JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", "is not a result of nilr"),
        ("{}", "its `schema` is not nilr/COMMAND/VERSION"),
        ('{"schema": "other/1"}', "its `schema` is not nilr/COMMAND/VERSION"),
        ('{"schema": "nilr/probe/2"}', "was written by a newer nilr: its schema is nilr/probe/2"),
        ('{"schema": "nilr/adapt/1"}', "is a result of `adapt`, which reports do not show"),
        ('{"schema": "nilr/probe/1"}', "is not a valid nilr/probe/1: `command`: field required"),
    ],
)
def test_other_files_are_refused_with_the_reason(save: Save, content: str, message: str) -> None:
    path = save(content, "odd.json")
    with pytest.raises(ResultError) as caught:
        read_result(path)
    assert caught.value.message.startswith(f"`{path}` ")
    assert message in caught.value.message


def test_binary_content_is_refused(save: Save) -> None:
    path = save("x")
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ResultError, match="is not valid JSON"):
        read_result(path)


def test_a_missing_file_is_named(save: Save) -> None:
    path = save("x").with_name("missing.json")
    with pytest.raises(StoreError, match=r"cannot read `.*missing.json`"):
        read_result(path)


def test_a_wrong_type_is_reported_with_its_place(save: Save) -> None:
    content: Any = full_probe()
    content["metrics"]["maml"]["same-task"]["accuracy"]["mean"] = "high"
    with pytest.raises(ResultError, match=r"metrics\.maml\.same-task\.accuracy\.mean"):
        read_result(save(content))


@pytest.mark.parametrize(("section", "key"), [("steps", "many"), ("steps", "inf"), ("shared_classes", "half")])
def test_positions_of_numeric_sections_are_finite_numbers(save: Save, section: str, key: str) -> None:
    content: Any = full_probe()
    content["metrics"]["maml"][section][key] = next(iter(content["metrics"]["maml"][section].values()))
    with pytest.raises(ResultError, match=rf"metrics\.maml\.{section}\.{key}"):
        read_result(save(content))


def test_a_histogram_has_one_more_edge_than_counts(save: Save) -> None:
    content: Any = full_rates()
    content["metrics"]["metasgd"]["layers"]["block1"]["histogram"]["edges"].pop()
    with pytest.raises(ResultError, match=r"metasgd\.all\.histogram`: 40 counts need 41 edges, not 40"):
        read_result(save(content))


def test_unknown_fields_at_any_depth_are_ignored(save: Save) -> None:
    content: Any = full_probe() | {"comes_later": 1}
    content["models"][0]["comes_later"] = {"a": 1}
    content["metrics"]["maml"]["same-task"]["accuracy"]["comes_later"] = []
    source = read_result(save(content))
    assert source.result == read_result(save(full_probe())).result


def test_unprintable_characters_are_escaped_in_names_notes_and_messages(save: Save) -> None:
    evil = "a\x1b[31m\nb"
    content: Any = full_probe() | {"notes": [evil]}
    content["metrics"] = {evil: content["metrics"]["maml"]}
    source = read_result(save(json.dumps(content)))
    assert list(source.result.metrics) == source.result.notes == ["a\\x1b[31m\\nb"]
    with pytest.raises(ResultError) as caught:
        read_result(save(result("probe", {evil: {}}, [])))
    assert caught.value.message.isprintable()
