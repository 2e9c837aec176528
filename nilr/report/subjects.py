"""What the results say of each model, in the form that figures need."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nilr.errors import ResultError
from nilr.report.reading import Source

PROTOCOLS = ("meta-init", "same-task", "cross-task")
ADAPTED = PROTOCOLS[1:]

# A difference counts as found below this p.
LEVEL = 0.05


@dataclass(frozen=True)
class Measure:
    """A mean with the bounds of its 95 % interval over episodes; None for a single episode.

    `p` is of a difference: corrected for the number of differences in its result, where that was done.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None = None

    @property
    def found(self) -> int:
        """The sign of a difference that the episodes show, many comparisons considered; 0 where they show none."""
        if self.low is None or self.high is None or (self.p is not None and self.p >= LEVEL):
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True)
class Cell:
    """One model under one protocol: accuracy, and the paired differences there are."""

    accuracy: Measure
    n: int
    delta: Measure | None = None
    to_learned: Measure | None = None


Cells = Mapping[str, Cell]
"""By protocol."""


@dataclass(frozen=True)
class Subject:
    """A model, or a control, in one result.

    Attributes:
        label: its name, with the file's where several results hold that name.
        source: the result.
        used: what the result says of the model; empty for a control.
        cells: by protocol.
        control: whether an experiment has it beside the models that the paper's signs are about.
        edits: by edited rates, then protocol.
        layers: by layer, then protocol.
        steps: by number of inner steps, then protocol.
        shared: by fraction of shared classes, then protocol.
        similarity: by task, layer, measure.
    """

    label: str
    source: Source
    used: Mapping[str, Any]
    cells: Cells
    control: bool = False
    edits: Mapping[str, Cells] = field(default_factory=dict)
    layers: Mapping[str, Cells] = field(default_factory=dict)
    steps: Mapping[str, Cells] = field(default_factory=dict)
    shared: Mapping[str, Cells] = field(default_factory=dict)
    similarity: Mapping[str, Mapping[str, Mapping[str, Measure]]] = field(default_factory=dict)


def probed(sources: Sequence[Source]) -> list[Subject]:
    """Return every model and control of every probe, in order.

    Raises:
        ResultError: a file holds something else than its schema says.
    """
    found, controls = [], _controls(sources)
    for label, name, source in labelled(sources, "probe"):
        with reading(source):
            found.append(_subject(label, name, source, controls))
    return found


def _controls(sources: Sequence[Source]) -> set[str]:
    """Return the digests of the models that experiments trained without a sign that the paper claims of them."""
    found = set()
    for source in sources:
        if source.command == "reproduce":
            with reading(source):
                metrics = source.result["metrics"]
                claimed = {sign["run"] for sign in metrics["signs"]}
                names = {name for run, it in metrics["runs"].items() if run not in claimed for name in it["models"]}
                found |= {str(model["digest"]) for model in source.result["models"] if model["name"] in names}
    return found


def labelled(sources: Sequence[Source], command: str) -> list[tuple[str, str, Source]]:
    """Return label, name and source of every entry of a command's metrics."""
    entries = [(name, source) for source in sources if source.command == command for name in source.result["metrics"]]
    names = [name for name, _ in entries]
    return [(name if names.count(name) == 1 else f"{name} ({source.name})", name, source) for name, source in entries]


def used_by(name: str, source: Source) -> Mapping[str, Any]:
    """Return what a result says of the model that its metrics call `name`."""
    metrics, models = source.result["metrics"], source.result.get("models", [])
    position = list(metrics).index(name)
    # Models come first, in order; controls after them.
    return models[position] if position < len(models) else {}


def groups(subjects: Sequence[Subject]) -> list[list[Subject]]:
    """Return the models that differ in nothing but the seed, judged in the same way, group by group.

    Each seed counts once, however often it was probed; a model whose recipe is unknown is a group of its own.
    """
    found: dict[str, dict[Any, Subject]] = {}
    for number, subject in enumerate(subjects):
        if not subject.used:
            continue
        recipe, seed = subject.used.get("recipe"), subject.used.get("seed")
        if recipe is None or seed is None:
            found[f"alone {number}"] = {None: subject}
        else:
            key = json.dumps([recipe, subject.used.get("checkpoint"), _judging(subject.source)], sort_keys=True)
            found.setdefault(key, {}).setdefault(seed, subject)
    return [list(by_seed.values()) for by_seed in found.values()]


def _judging(source: Source) -> dict[str, Any]:
    """Return the settings of a probe that change what it measures; not how many episodes, nor on what machine."""
    data = source.result.get("data") or {}
    names = (
        "split",
        "n_way",
        "n_shot",
        "n_query",
        "batch_stats",
        "neighbours",
        "distance",
        "task_b",
        "data_b",
        "adapt_part",
    )
    config = source.result["config"]
    first = (config.get("rates") or ["learned"])[0]
    return {"data": data.get("digest"), "rates": first} | {name: config.get(name) for name in names}


def _subject(label: str, name: str, source: Source, controls: Collection[str]) -> Subject:
    raw = source.result["metrics"][name]
    similarity = {
        task: {layer: _defined(measures) for layer, measures in layers.items()}
        for task, layers in (raw.get("similarity") or {}).items()
    }
    nested = {
        into: {key: _cells(cells) for key, cells in (raw.get(part) or {}).items()}
        for into, part in (("edits", "edits"), ("layers", "layers"), ("steps", "steps"), ("shared", "shared_classes"))
    }
    used = used_by(name, source)
    control = used.get("digest") in controls
    return Subject(label, source, used, _cells(raw), control, similarity=similarity, **nested)


def _defined(measures: Mapping[str, Any]) -> dict[str, Measure]:
    return {name: measure(raw) for name, raw in measures.items() if raw is not None}


def _cells(raw: Mapping[str, Any]) -> dict[str, Cell]:
    return {protocol: _cell(raw[protocol]) for protocol in PROTOCOLS if raw.get(protocol) is not None}


def _cell(raw: Mapping[str, Any]) -> Cell:
    accuracy, delta, learned = raw["accuracy"], raw.get("delta"), raw.get("delta_to_learned")
    return Cell(
        accuracy=measure(accuracy),
        n=int(accuracy["n_episodes"]),
        delta=None if delta is None else measure(delta),
        to_learned=None if learned is None else measure(learned),
    )


def measure(raw: Mapping[str, Any]) -> Measure:
    """Return a mean with its bounds: as given, else symmetric."""
    mean, width = float(raw["mean"]), raw.get("ci95")
    p = raw.get("p") if raw.get("p_holm") is None else raw["p_holm"]
    if width is None:
        return Measure(mean, None, None, p)
    low, high = raw.get("low"), raw.get("high")
    return Measure(mean, mean - width if low is None else low, mean + width if high is None else high, p)


@contextlib.contextmanager
def reading(source: Source) -> Iterator[None]:
    """Turn a surprise in a result's content into an error that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ResultError(
            f"`{source.name}` does not read as {source.result['schema']}: {type(error).__name__}: {error}",
            hint="is the file complete? make it again with the command's --json",
        ) from error
