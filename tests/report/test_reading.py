import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nilr.errors import ResultError, StoreError
from nilr.report.reading import read_result
from tests.report.material import full_probe, full_rates

Save = Callable[..., Path]


def test_a_result_is_read_with_its_command_and_digest(save: Save) -> None:
    source = read_result(save(full_probe(), "probe.json"))
    assert (source.name, source.command, len(source.sha256)) == ("probe.json", "probe", 64)
    assert source.result == full_probe()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ('{"schema": NaN}', "NaN is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "is no result of nilr"),
        ("{}", "its `schema` is not nilr/COMMAND/VERSION"),
        ('{"schema": "other/1"}', "its `schema` is not nilr/COMMAND/VERSION"),
        ('{"schema": "nilr/probe/2"}', "was written by a newer nilr: its schema is nilr/probe/2"),
        ('{"schema": "nilr/adapt/1"}', "is a result of `nilr adapt`, of which a report draws nothing"),
        ('{"schema": "nilr/probe/1"}', "is not a valid nilr/probe/1: `command`: field required"),
    ],
)
def test_what_is_no_result_is_refused_by_name_and_reason(save: Save, content: str, said: str) -> None:
    path = save(content, "odd.json")
    with pytest.raises(ResultError) as caught:
        read_result(path)
    assert caught.value.message.startswith(f"`{path}` ")
    assert said in caught.value.message


def test_bytes_that_are_no_text_are_refused(save: Save) -> None:
    path = save("x")
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ResultError, match="is no JSON"):
        read_result(path)


def test_a_file_that_is_not_there_is_named(save: Save) -> None:
    path = save("x").with_name("missing.json")
    with pytest.raises(StoreError, match=r"cannot read `.*missing.json`"):
        read_result(path)


def test_a_wrong_type_anywhere_is_told_with_its_place(save: Save) -> None:
    content: Any = full_probe()
    content["metrics"]["maml"]["same-task"]["accuracy"]["mean"] = "high"
    with pytest.raises(ResultError, match=r"metrics\.maml\.same-task\.accuracy\.mean"):
        read_result(save(content))


def test_fields_of_a_later_nilr_are_left_alone(save: Save) -> None:
    content = full_probe() | {"comes_later": 1}
    assert read_result(save(content)).command == "probe"
    assert read_result(save(full_rates())).command == "rates"


def test_nothing_in_a_name_can_steer_a_terminal(save: Save) -> None:
    content = full_probe()
    content["metrics"] = {"a\x1b[31m\nb": content["metrics"]["maml"]}
    names = list(read_result(save(json.dumps(content))).result["metrics"])
    assert names == ["a\\x1b[31m\\nb"]
