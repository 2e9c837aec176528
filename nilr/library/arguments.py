"""Errors of functions name arguments, where those of commands name flags."""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nilr.errors import NilrError

P = ParamSpec("P")
R = TypeVar("R")

# The flags whose arguments have the same names, with _ for -, and those of `sections`.
_SAME = (
    "algo", "arch", "batch-stats", "consistency", "controls", "data-b", "device", "directions", "distance",
    "effective-step", "engine", "filters", "geometry", "grad-clip", "harm", "image-size", "inner-lr", "layers",
    "meta-batch-size", "n-episodes", "n-query", "n-shot", "n-way", "neighbours", "outer-lr", "own-head", "rates",
    "seed", "shared-classes", "similarity", "skip-broken", "steps-curve", "task-b", "transfer", "universality",
    "universality-images", "universality-tasks", "untrained-bodies", "widths",
)  # fmt: skip
ARGUMENTS = {name: name.replace("-", "_") for name in _SAME} | {
    "adapt-part": "parts",
    "home": "NILR_HOME",
    "inner-lr-init": "inner_lr",
    "inner-steps": "steps",
}
_VALUES = r"any|same-classes|auto|cpu|cuda|reference|apart|together|inductive|all|-?[0-9]+(?:[.,][0-9]+)*"
_FLAG = re.compile(rf"(`[^`]*`)|--([a-z][a-z-]*)(?: ({_VALUES})\b)?")


def naming_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose errors name arguments instead of flags."""

    @functools.wraps(function)
    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except NilrError as error:
            error.message = _with_arguments(error.message)
            error.args = (error.message,)
            if error.hint is not None:
                error.hint = _with_arguments(error.hint)
                error.__notes__ = [f"hint: {error.hint}"]
            raise

    return named


def _with_arguments(text: str) -> str:
    """Replace flags of commands by arguments, such as `--task-b any` by `task_b="any"`; commands stay as they are."""

    def argument(found: re.Match[str]) -> str:
        _code, flag, value = found.groups()
        if flag not in ARGUMENTS:
            return found[0]
        if value is None:
            return f"`{ARGUMENTS[flag]}`"
        shown = value if value.lstrip("-")[0].isdigit() else f'"{value}"'
        return f"`{ARGUMENTS[flag]}={shown}`"

    return _FLAG.sub(argument, text)
