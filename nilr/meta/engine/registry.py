"""The table of engines."""

from __future__ import annotations

from nilr.errors import UnknownNameError, UsageError
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.meta.engine.reference import ReferenceEngine
from nilr.models.learner import Learner

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (ExplicitEngine(), ReferenceEngine())}


def choose_engine(name: str, learner: Learner) -> Engine:
    """Return the engine of that name; `auto` is the first in the table that supports the learner.

    The choice is a fixed function of the architecture, never of a timing.

    Raises:
        UnknownNameError: there is none of that name.
        UsageError: it does not support the learner.
    """
    if name == "auto":
        return next(engine for engine in ENGINES.values() if engine.supports(learner))
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ("auto", *ENGINES))
    if not ENGINES[name].supports(learner):
        raise UsageError(f"the engine `{name}` does not execute this architecture", hint="use --engine auto")
    return ENGINES[name]
