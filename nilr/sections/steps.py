"""`steps`: accuracy after every inner step."""

from __future__ import annotations

from dataclasses import replace

from nilr.probes.conditions import META_INIT, Condition
from nilr.sections.curves import STEPS_KIND
from nilr.sections.rows import Rows, build, table
from nilr.sections.section import Request, Section


def _plan(request: Request) -> Rows:
    """Return by number of steps and protocol."""

    def after(steps: int, condition: Condition) -> Condition:
        # No steps and all steps are conditions that the probe evaluates anyway.
        return {request.inner_steps: condition, 0: META_INIT}.get(steps, replace(condition, steps=steps))

    adapted = {p: condition for p, condition in request.conditions.items() if condition != META_INIT}
    return {
        str(steps): {p: request.accuracy(after(steps, condition)) for p, condition in adapted.items()}
        for steps in range(request.inner_steps + 1)
    }


SECTION = Section(
    "steps",
    "steps_curve",
    _plan,
    build,
    table("steps", "inner steps"),
    STEPS_KIND,
    protocols=("same-task", "cross-task"),
)
