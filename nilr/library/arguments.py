"""Check the arguments of functions; errors name arguments, where those of commands name flags."""

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError

from nilr.config.base import Settings
from nilr.errors import NilrError, UnknownNameError, UsageError, invalid_field, known_names

P = ParamSpec("P")
R = TypeVar("R")
AnySettings = TypeVar("AnySettings", bound=Settings)

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


def checked_settings(
    kind: type[AnySettings],
    names: Mapping[str, str],
    /,
    **values: Any,  # noqa: ANN401 - the settings check them
) -> AnySettings:
    """Return the settings with these values; `names` has the names of arguments that differ from those of settings."""
    try:
        return kind(**values)
    except ValidationError as error:
        problem = invalid_field(error)
        for name, argument in names.items():
            problem = problem.replace(f"`{name}`", f"`{argument}`")
        raise UsageError(f"invalid argument {problem}", hint="see the function's help") from error


def checked_integer(name: str, value: object, least: int = 1, most: int = 2**63 - 1) -> int:
    """Return an integer, also one of NumPy, as Python's; UsageError for another type or value."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type] # it checks it
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        problem = f"`{name}` cannot be {value!r}, a value of type {type(value).__name__}"
        largest = "2**63 - 1" if most == 2**63 - 1 else most
        raise UsageError(problem, hint=f"give an integer from {least} to {largest}")
    return number


def check_type(name: str, value: object, kind: type, hint: str) -> None:
    """Check that an argument has a type; UsageError if not."""
    if not isinstance(value, kind):
        raise UsageError(f"`{name}` has type {type(value).__name__}, not {kind.__name__}", hint=hint)


def check_name(kind: str, value: object, known: Iterable[str]) -> None:
    """Check that a value is one of the known names; UsageError if not."""
    known = tuple(known)
    if not isinstance(value, str):
        problem = f"`{value}` is not the name of a {kind}, but a value of type {type(value).__name__}"
        raise UsageError(problem, hint=known_names(str(value), known))
    if value not in known:
        raise UnknownNameError(kind, value, known)


def texts(values: object) -> tuple[str, ...]:
    """Return a text or a number, or each of several, as texts. Those of a set are sorted, as it has no order."""
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        return (str(values),)
    found = tuple(map(str, values))
    return tuple(sorted(found)) if isinstance(values, Set) else found
