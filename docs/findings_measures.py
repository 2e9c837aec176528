"""Tables of `findings.md` about the mechanism and universality, from the results in `reproduction/measures/`.

Each file there is a result of `nilr probe` or `nilr rates` of several seeds, without its `per_episode`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from docs.findings_text import across, across_numbers, percent, read, table
from nilr.config.base import ADAPTED

RUNS = ("maml", "metasgd", "metasgd-nonneg")
UNIVERSALITY = (("maml", "mini"), ("metasgd", "mini"), ("metasgd", "tiny"), ("metasgd", "omniglot"))
PACKS = {"mini": "Mini-ImageNet, 16 classes", "tiny": "Tiny-ImageNet, 39", "omniglot": "Omniglot, 120"}


def _seeds(file: str) -> list[Any]:
    """Return the metrics of each model of a result."""
    return list(read(f"measures/{file}.json")["metrics"].values())


def _rows(runs: Sequence[str], cells: Callable[[list[Any], str], Sequence[str]]) -> Iterator[Sequence[str]]:
    """Yield a row for each run and protocol; `cells` takes the metrics of all seeds and the protocol."""
    for run in runs:
        seeds = _seeds(f"probe-{run}")
        for protocol in ADAPTED:
            yield f"`{run}`, {protocol}", *cells(seeds, protocol)


def directions() -> str:
    """Return the effects of displacements of the body, and the odd and even parts of the learned one."""

    def cells(seeds: list[Any], protocol: str) -> list[str]:
        found = [model["directions"][protocol]["body"] for model in seeds]
        accuracies = ("learned", "negative", "twice", "random-signs", "gaussian")
        effects = [across([one[name]["delta"]["mean"] for one in found]) for name in accuracies]
        return [*effects, *(across([one[part]["mean"] for one in found]) for part in ("odd", "even"))]

    header = ("", "d", "-d", "2 d", "random signs", "Gaussian", "odd", "even")
    return table(header, _rows(RUNS, cells))


def directions_by_layer() -> str:
    """Return the odd and even parts of the effect of each layer's displacement in Meta-SGD."""
    seeds = _seeds("probe-metasgd")
    rows = []
    for part in ("block1", "block2", "block3", "block4"):
        found = [[model["directions"][protocol][part] for model in seeds] for protocol in ADAPTED]
        rows.append((f"`{part}`", *(across([one[k]["mean"] for one in of]) for of in found for k in ("odd", "even"))))
    return table(("", *(f"{protocol}, {kind}" for protocol in ADAPTED for kind in ("odd", "even"))), rows)


def transfer() -> str:
    """Return the change of the query loss by the body to first order, by sign of the rates, and in fact."""

    def cells(seeds: list[Any], protocol: str) -> list[str]:
        found = [model["transfer"][protocol] for model in seeds]
        parts = ("predicted", "predicted_positive", "predicted_negative")
        body = [across_numbers([one["parts"]["body"][part]["mean"] for one in found]) for part in parts]
        return [*body, across_numbers([one["actual"]["mean"] for one in found])]

    header = ("", "body, predicted", "by rates > 0", "by rates < 0", "whole network, actual")
    return table(header, _rows(("maml", "metasgd"), cells))


def universality() -> str:
    """Return the accuracy of linear classifiers of all classes before adaptation, and its change."""
    rows = []
    for run, pack in UNIVERSALITY:
        found = [model["universality"] for model in _seeds(f"universality-{run}-{pack}")]
        cells = []
        for kind in ("ridge", "logistic"):
            cells.append(percent(one[kind]["meta-init"]["accuracy"]["mean"] for one in found))
            cells.append(across([one[kind]["cross-task"]["delta"]["mean"] for one in found]))
        rows.append((PACKS[pack], f"`{run}`", *cells))
    return table(("classes", "run", "ridge before, %", "gain", "logistic before, %", "gain"), rows)


def consistency() -> str:
    """Return by layer what gradients share between episodes under positive and under negative rates, in percent."""
    seeds = [model["consistency"] for model in _seeds("rates-metasgd")]
    rows = []
    for layer in seeds[0]:
        shared = [[one[layer][sign]["shared"]["mean"] for one in seeds] for sign in ("positive", "negative")]
        rows.append((f"`{layer}`", *map(across, shared), across([one[layer]["difference"]["mean"] for one in seeds])))
    return table(("", "rates > 0", "rates < 0", "difference"), rows)


def adaptation_rates() -> str:
    """Return the differences to `meta-init` of one-step MAML that adapts with other rates than it was trained with."""
    seeds = _seeds("rates-grid-maml-1step")
    rates = sorted(float(edit) for edit in seeds[0]["edits"] if edit != "learned")
    names = {**{f"{rate:g}": f"{rate:g}" for rate in rates if rate < 0.2}, "0.2, as trained": "learned", "0.4": "0.4"}
    rows = [
        (
            title,
            *(across([model["edits"][edit][protocol]["delta"]["mean"] for model in seeds]) for protocol in ADAPTED),
        )
        for title, edit in names.items()
    ]
    return table(("rate", *ADAPTED), rows)


def harm() -> str:
    """Return the share of episodes that adaptation harms, and its excess over chance."""

    def cells(seeds: list[Any], protocol: str) -> list[str]:
        found = [model["harm"][protocol]["harmed"] for model in seeds]
        return [percent(one["share"]["mean"] for one in found), across([one["excess"]["mean"] for one in found])]

    return table(("", "harmed, %", "excess over chance"), _rows(RUNS, cells))


TABLES: Mapping[str, Callable[[], str]] = {
    "directions": directions,
    "directions by layer": directions_by_layer,
    "transfer": transfer,
    "universality": universality,
    "adaptation rates": adaptation_rates,
    "consistency": consistency,
    "harm": harm,
}
