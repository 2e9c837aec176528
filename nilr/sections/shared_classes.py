"""`shared_classes`: cross-task accuracy by the share of the evaluated classes that episode A has too."""

from __future__ import annotations

from dataclasses import replace

from nilr.sections.curves import SHARED_KIND
from nilr.sections.rows import Rows, build, table
from nilr.sections.section import Request, Section


def _plan(request: Request) -> Rows:
    """Return by the share of common classes, for 0 to N of them."""
    cross = request.conditions["cross-task"]
    # The probe evaluates what --task-b requests anyway.
    known = {"disjoint": 0, "same-classes": request.n_way}.get(request.settings.task_b)
    return {
        f"{shared / request.n_way:.4g}": {
            "cross-task": request.accuracy(cross if shared == known else replace(cross, shared=shared))
        }
        for shared in range(request.n_way + 1)
    }


SECTION = Section(
    "shared_classes",
    "shared_classes",
    _plan,
    build,
    table("shared_classes", "shared classes"),
    SHARED_KIND,
    protocols=("cross-task",),
)
