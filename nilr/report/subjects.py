"""The models and controls that probes evaluated, across result files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nilr.claims import claimed_signs
from nilr.claims.over_seeds import EpisodeValues, episode_values
from nilr.config.base import PROTOCOLS
from nilr.probes.edits import LEARNED
from nilr.report.reading import Source
from nilr.results.probe import EditProbe, ModelProbe, ProbeMetrics, ProtocolMetrics, Row
from nilr.results.question import DEFAULT
from nilr.results.records import ModelUsed


@dataclass(frozen=True)
class Subject:
    """A model, or a control, in one probe's result."""

    label: str  # its name, with the file's name if several results of the same question contain that name
    question: str  # of the probe
    probe: ModelProbe  # its metrics
    model: ModelUsed | None  # which model; None for a control
    claims: Mapping[str, int] = field(default_factory=dict)  # the signs that the paper claims of it, by protocol
    episodes: EpisodeValues | None = None  # its accuracies in every episode, if the result has them
    n_way: int | None = None  # of the episodes


def by_protocol(entry: ModelProbe | Row | EditProbe) -> dict[str, ProtocolMetrics]:
    """Return the measured protocols of an entry."""
    found: dict[str, ProtocolMetrics | None] = {p: getattr(entry, p.replace("-", "_"), None) for p in PROTOCOLS}
    return {protocol: metrics for protocol, metrics in found.items() if metrics is not None}


def by_question(sources: Sequence[Source[Any]]) -> dict[str, list[Source[ProbeMetrics]]]:
    """Return the probes by question, the default one first; the question names the pack if there are several."""
    probes = [source for source in sources if source.command == "probe"]
    probes.sort(key=lambda source: source.result.question != DEFAULT)
    packs = {_pack(source): source.result.data for source in probes}
    names = [data and data.name for data in packs.values()]
    found: dict[str, list[Source[ProbeMetrics]]] = {}
    for source in probes:
        question, data = source.result.question or DEFAULT, source.result.data
        if len(packs) > 1 and data and f"on {data.name}" not in question:
            question += f", on {data.name}"
        if len(packs) > 1 and data and names.count(data.name) > 1:
            question += f" ({data.digest[:12]})"
        found.setdefault(question, []).append(source)
    return found


def _pack(source: Source[ProbeMetrics]) -> str | None:
    return source.result.data.digest if source.result.data else None


def probed(sources: Sequence[Source[Any]]) -> list[Subject]:
    """Return every model and control of every probe, question by question."""
    found, unclaimed = [], _unclaimed(sources)
    for question, of_question in by_question(sources).items():
        for label, name, source in labelled(of_question, "probe"):
            # models come first, in the order of `models`, then controls
            model = dict(zip(source.result.metrics, source.result.models, strict=False)).get(name)
            claims = _claims(source, model) if model and model.digest not in unclaimed else {}
            episodes = episode_values(source.result, name)
            n_way = source.result.config.get("n_way")
            n_way = n_way if isinstance(n_way, int) and n_way > 0 else None
            found.append(Subject(label, question, source.result.metrics[name], model, claims, episodes, n_way))
    return found


def _claims(source: Source[ProbeMetrics], model: ModelUsed) -> Mapping[str, int]:
    """Return the claimed signs, if the first of the probe's rates are the learned ones."""
    result = source.result
    rates = result.config.get("rates")
    if isinstance(rates, list) and rates[:1] not in ([], [LEARNED]):
        return {}
    return claimed_signs(model, result.data_b or result.data, result.config)


def _unclaimed(sources: Sequence[Source[Any]]) -> set[str]:
    """Return the digests of the models that experiments trained as controls, which the paper's signs are not about."""
    found = set()
    for source in sources:
        if source.command == "reproduce":
            claimed = {sign.run for sign in source.result.metrics.signs}
            runs = source.result.metrics.runs
            names = {name for run, figures in runs.items() if run not in claimed for name in figures.models}
            found |= {model.digest for model in source.result.models if model.name in names}
    return found


def labelled(sources: Sequence[Source[Any]], command: str) -> list[tuple[str, str, Source[Any]]]:
    """Return label, name and source of every entry of a command's metrics."""
    entries = [(name, source) for source in sources if source.command == command for name in source.result.metrics]
    names = [name for name, _ in entries]
    labels = [name if names.count(name) == 1 else f"{name} ({source.name})" for name, source in entries]
    return [
        (label if labels.count(label) == 1 else f"{label} {labels[: i + 1].count(label)}", name, source)
        for i, (label, (name, source)) in enumerate(zip(labels, entries, strict=True))
    ]


def groups(subjects: Sequence[Subject]) -> list[list[tuple[Subject, ModelUsed]]]:
    """Return the models that differ only in the seed and were probed with the same question, group by group.

    Each seed counts once, even if several results contain it. A model without a recipe is a group of its own.
    """
    found: dict[tuple[object, ...], dict[int | None, tuple[Subject, ModelUsed]]] = {}
    for number, subject in enumerate(subjects):
        model = subject.model
        if model is None:
            continue
        if model.recipe is None or model.seed is None:
            found[number,] = {None: (subject, model)}
        else:
            key = (model.recipe, model.checkpoint, subject.question)
            found.setdefault(key, {}).setdefault(model.seed, (subject, model))
    return [list(by_seed.values()) for by_seed in found.values()]
