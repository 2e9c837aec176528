from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

import pytest
from pydantic import ValidationError

from nilr import config
from nilr.config.base import Settings, listed_seeds
from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import PRESETS, TrainSettings
from nilr.config.models import ExportSettings, ImportSettings, ListModelsSettings, PullSettings, PushSettings
from nilr.config.packs import ComparePacksSettings, PrepareDataSettings
from nilr.config.reproduce import DemoSettings
from nilr.errors import UsageError

MODULES = [importlib.import_module(f"nilr.config.{found.name}") for found in pkgutil.iter_modules(config.__path__)]
MODELS = {
    value: None
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Settings)
}
# what these commands need, or what has no default value
UNEXPLAINED = {
    (PrepareDataSettings, "verify"),
    (ExportSettings, "output"),
    (PushSettings, "model"),
    (PushSettings, "repo"),
    (PullSettings, "repo"),
    (ComparePacksSettings, "a"),
    (ComparePacksSettings, "b"),
}
FIELDS = [(model, name) for model in MODELS for name in model.model_fields]

every_field = pytest.mark.parametrize(("model", "name"), FIELDS, ids=[f"{m.__name__}.{n}" for m, n in FIELDS])


def extra(model: type[Settings], name: str) -> dict[str, Any]:
    found = model.model_fields[name].json_schema_extra
    assert isinstance(found, dict)
    return found


@every_field
def test_every_field_has_a_help_text_that_is_a_sentence_without_markup(model: type[Settings], name: str) -> None:
    text = model.model_fields[name].description
    assert text
    assert text.endswith(".")
    assert "[" not in text, "rich would take it for markup"


@every_field
def test_a_default_of_none_is_explained(model: type[Settings], name: str) -> None:
    if model.model_fields[name].default is None and (model, name) not in UNEXPLAINED:
        assert extra(model, name)["shown"]


@every_field
def test_a_name_is_the_words_of_a_flag(model: type[Settings], name: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)


def test_a_field_has_one_type_wherever_it_stands() -> None:
    optional = {"data", "n_way", "n_shot", "n_query", "filters", "outer_steps", "n_episodes", "preset", "seeds"}
    optional |= {"arch", "widths", "image_size", "channels"}  # of one training, or of several models; of a data set
    optional.add("algo")  # of a training, or of the models to list
    optional |= {"format"}  # of a report, of a state dict, of an export
    optional.add("batch_stats")  # of a training never `together`
    seen: dict[str, Any] = {}
    for model, name in FIELDS:
        if name not in optional:
            annotation = model.model_fields[name].annotation
            assert seen.setdefault(name, annotation) == annotation, f"{model.__name__}.{name}"


def test_only_these_settings_have_no_environment_variable() -> None:
    """Those of models on the way in or out are about one file; those of a list of models only select rows."""
    portable = {ImportSettings, ExportSettings, PushSettings, PullSettings, ListModelsSettings}
    kept_out = {name for model, name in FIELDS if model not in portable and not extra(model, name)["env"]}
    assert kept_out == {"home", "name", "force", "resume", "verify", "yes"}


def test_defaults_are_within_their_bounds() -> None:
    for model in MODELS:
        model.model_validate(model().model_dump())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_made_of_training_settings(name: str) -> None:
    TrainSettings(**PRESETS[name])


def test_explicit_returns_only_the_settings_that_were_set() -> None:
    assert ProbeSettings(n_episodes=600).explicit() == {"n_episodes": 600}
    assert ProbeSettings().explicit() == {}


def test_settings_are_frozen_and_know_their_names() -> None:
    with pytest.raises(ValidationError):
        DemoSettings().seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        DemoSettings(sead=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(("validated_at", "left"), [(-1, 3), (0, 3), (400, 2), (800, 1), (1000, 0)])
def test_validations_follow_every_so_many_updates_and_the_last_one(validated_at: int, left: int) -> None:
    assert TrainSettings(outer_steps=1000, eval_every=400).validations_after(validated_at) == left


def fields_of_numbers() -> list[tuple[type[Settings], str]]:
    return [
        (model, name)
        for model in MODELS
        for name, field in model.model_fields.items()
        if re.search(r"\bfloat\b", str(field.annotation))
    ]


def test_numbers_with_validators_of_their_own_are_found() -> None:
    assert {(TrainSettings, "inner_lr"), (TrainSettings, "grad_clip"), (ImportSettings, "inner_lr")} <= {
        *fields_of_numbers()
    }


@pytest.mark.parametrize(("model", "name"), fields_of_numbers(), ids=str)
def test_every_number_fits_into_float32(model: type[Settings], name: str) -> None:
    for number in (1e39, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            model.model_validate({name: number})


def test_a_number_of_seeds_stays_below_the_largest_seed() -> None:
    assert listed_seeds(2, 2**63 - 2) == (2**63 - 2, 2**63 - 1)
    with pytest.raises(UsageError, match="2 seeds from --seed 9223372036854775807 are not all below"):
        listed_seeds(2, 2**63 - 1)


def test_true_is_no_number_of_channels() -> None:
    with pytest.raises(ValidationError, match="give four numbers"):
        TrainSettings.model_validate({"widths": [True, 1, 1, 1]})
