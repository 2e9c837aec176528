"""`layers`: accuracy on the flattened output of each layer."""

from __future__ import annotations

from nilr.sections.curves import LAYERS_KIND
from nilr.sections.rows import Rows, build, table
from nilr.sections.section import Request, Section


def _plan(request: Request) -> Rows:
    """Return by layer and protocol."""
    return {layer: request.accuracies(layer=layer) for layer in request.layers}


SECTION = Section("layers", "layers", _plan, build, table("layers", "layer"), LAYERS_KIND, of_controls=True)
