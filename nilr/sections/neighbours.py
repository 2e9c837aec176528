"""`neighbours`: the same features with several rules of labelled neighbours."""

from __future__ import annotations

from nilr.sections.rows import Rows, build, table
from nilr.sections.section import Request, Section


def _plan(request: Request) -> Rows:
    """Return by rule and protocol; nothing if there is only one rule."""
    if len(request.rules) == 1:
        return {}
    return {rule: request.accuracies(rule=rule) for rule in request.rules}


SECTION = Section("neighbours", "neighbours", _plan, build, table("neighbours", "neighbours"), of_controls=True)
