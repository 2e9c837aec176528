"""`similarity`: how similar the layers' outputs for the query images are before and after adaptation."""

from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.readings import Similarity
from nilr.probes.similarity import MEASURES, WITHIN
from nilr.results.probe import ProbeMetrics
from nilr.results.records import Mean
from nilr.sections import similarity_figure
from nilr.sections.section import Format, Request, Section, Table
from nilr.sections.values import Values, mean_where_defined

Maps = dict[str, dict[str, Quantity]]
"""Quantities by layer and measure."""

_HEADER = {
    "cka": "CKA",
    "svcca": "SVCCA",
    "cosine": "cosine",
    "within-class-cosine": "within class",
    "between-class-cosine": "between",
}


def _plan(request: Request) -> dict[str, Maps]:
    """Return by protocol, layer and measure."""

    def measures(condition: Condition, layer: str) -> dict[str, Quantity]:
        names = WITHIN if condition == META_INIT else MEASURES
        return {name: Quantity(condition, Similarity(layer, name)) for name in names}

    return {
        protocol: {layer: measures(condition, layer) for layer in request.layers}
        for protocol, condition in request.conditions.items()
    }


def _build(maps: Maps, values: Values) -> dict[str, dict[str, Mean | None]]:
    return {
        layer: {name: mean_where_defined(values[quantity]) for name, quantity in measures.items()}
        for layer, measures in maps.items()
    }


def _table(metrics: ProbeMetrics, _text: Format) -> Table | None:
    """Return a row for each model, layer and protocol."""
    rows = []
    for name, model in metrics.items():
        for layer in next(iter(model.similarity.values()), {}):
            for protocol, maps in model.similarity.items():
                means = [maps[layer].get(measure) for measure in _HEADER]
                rows.append((name, layer, protocol, *(None if mean is None else f"{mean.mean:z.3f}" for mean in means)))
    return Table(("model", "layer", "protocol", *_HEADER.values()), rows, names=3) if rows else None


SECTION = Section("similarity", "similarity", _plan, _build, _table, similarity_figure.KIND)
