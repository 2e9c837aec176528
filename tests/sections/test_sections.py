"""Every section of a probe's result matches its field, its flag and its place in the result."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nilr.config.evaluation import ProbeSettings
from nilr.errors import UsageError
from nilr.recipes.probe.plan import plan_model
from nilr.results.probe import ModelProbe
from nilr.sections import SECTIONS
from nilr.sections.section import Request, Section
from nilr.sections.values import Values

every_section = pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.field)


def request_for(n_rules: int = 2, n_edits: int = 2, **settings: Any) -> Request:
    edits, rules = ("negated", "learned")[-n_edits:], ("nearest", "class-mean")[:n_rules]
    return Request(
        ProbeSettings(**settings),
        edits,
        rules,
        ("block1", "block2"),
        ("block1", "block2", "head"),
        n_way=5,
        inner_steps=3,
    )


def requesting(section: Section[Any]) -> dict[str, Any]:
    """Return the settings that request a section."""
    default = ProbeSettings.model_fields[section.flag].default
    values: dict[Any, Any] = {False: True, None: 3 if section.flag == "permutations" else "val", (): ("all",)}
    return {section.flag: values.get(default, default)}


def test_the_sections_are_the_fields_of_the_result_in_its_order() -> None:
    protocols = {"meta_init", "same_task", "cross_task", "signs", "over_bodies"}
    assert [section.field for section in SECTIONS] == [
        name for name in ModelProbe.model_fields if name not in protocols
    ]


@every_section
def test_a_section_that_is_not_requested_measures_nothing(section: Section[Any]) -> None:
    assert section.entries(request_for(n_rules=1, n_edits=1)) == {}


@every_section
def test_a_requested_section_fills_its_field_and_no_other(section: Section[Any]) -> None:
    request = request_for(**requesting(section))
    plan = plan_model(request)
    generator = torch.Generator().manual_seed(0)
    values = Values({q: torch.rand(8, generator=generator, dtype=torch.float64) for q in plan.quantities()})
    found = plan.summarise(values).model_dump()
    assert set(found[section.field]) == set(section.entries(request)) == set(plan.layout(values.listed)[section.field])
    assert all(
        other.field not in found for other in SECTIONS if other.flag not in (section.flag, "rates", "neighbours")
    )


@pytest.mark.parametrize(
    ("field", "protocol"),
    [
        ("own_head", "cross-task"),
        ("steps", "meta-init"),
        ("shared_classes", "same-task"),
        ("universality", "same-task"),
    ],
)
def test_a_section_without_its_protocol_is_an_error(field: str, protocol: Any) -> None:
    (section,) = (section for section in SECTIONS if section.field == field)
    with pytest.raises(UsageError, match=f"and --protocol is {protocol}"):
        section.check(ProbeSettings(protocol=protocol, **requesting(section)))
    section.check(ProbeSettings(protocol=protocol))
