"""The model card: what README.md of a shared model says."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from nilr.checkpoint import Manifest
from nilr.config.base import Settings
from nilr.words import number

_TAGS = ("meta-learning", "few-shot-learning", "image-classification")
_ROW = ("moves", "order", "rates", "inner_steps", "eval_inner_steps", "inner_lr_init", "paper")


def write_card(name: str, repo: str, manifest: Manifest, *, licence: str | None, data_licence: str | None) -> str:
    """Return the card of a model.

    Args:
        name: of the model.
        repo: user/repo.
        manifest: of its checkpoint.
        licence: of the model, as the Hub's identifier; None: not stated.
        data_licence: the note of its pack on permitted use; None: unknown.
    """
    stated = licence or "not stated: ask its author before you use it"
    data = manifest.data
    made = {"name": data.name, "digest": data.digest, "image size": f"{data.image_size} px", "resampled": data.resample}
    architecture = {"body": manifest.architecture.name, **manifest.architecture.arguments}
    algorithm = {"algorithm": manifest.algorithm.get("name"), **{key: manifest.algorithm.get(key) for key in _ROW}}
    notes = manifest.origin.notes if manifest.origin else []
    parts = [
        "---",
        *([f"license: {licence}"] if licence else []),
        "library_name: nilr",
        "tags:",
        *(f"- {tag}" for tag in _TAGS),
        "---",
        "",
        f"# {name}",
        "",
        f"A few-shot learner that nilr saved after {manifest.outer_step:,} updates. No file here contains code.",
        "",
        *(
            f"    {Settings().command(*words)}"
            for words in (("models", "pull", f"hf://{repo}"), ("probe", repo.partition("/")[2]))
        ),
        *_table("Network", architecture),
        *_table("Algorithm", algorithm),
        *_table("Training", {key: value for key, value in manifest.settings.items() if key != "paths"}),
        *_table("Metrics", manifest.metrics),
        *_table("Data", made),
        *(["", "## Origin", "", f"Imported from {manifest.origin.format}.", *notes] if manifest.origin else []),
        "",
        "## Licence",
        "",
        f"Model: {stated}.",
        "",
        f"Images that it was trained on: {data_licence or 'unknown; see their source'}.",
    ]
    return "\n".join(parts) + "\n"


def _table(title: str, values: Mapping[str, Any]) -> list[str]:
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in values.items() if value is not None]
    return ["", f"## {title}", "", "| | |", "|---|---|", *rows] if rows else []


def _cell(value: JsonValue) -> str:
    """Return a value on one line; a mean with its interval in percent."""
    if isinstance(value, dict) and {"mean", "ci95"} <= value.keys() and isinstance(value["mean"], float):
        interval = f" ± {100 * value['ci95']:.2f}" if isinstance(value["ci95"], float) else ""
        return f"{100 * value['mean']:.2f}{interval} %"
    if isinstance(value, float):
        return number(value)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
