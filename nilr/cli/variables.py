"""The environment variables that nilr reads, and warnings about others with its prefix."""

import difflib
from collections.abc import Iterable, Iterator

from nilr.cli.options import ARGUMENTS, envvar
from nilr.commands import COMMANDS

_PREFIX = "NILR_"
# NILR_HOME is read by the store, NILR_MINI_IMAGENET by the tests.
_OTHERS = ("NILR_HOME", "NILR_QUIET", "NILR_DEBUG", "NILR_MINI_IMAGENET")
_FIELDS = [field for command in COMMANDS for field in command.settings.model_fields.items()]

KNOWN = {*_OTHERS, *filter(None, (envvar(name, field) for name, field in _FIELDS))}
# Options and arguments that have no environment variable.
_COMMAND_LINE_ONLY = {f"{_PREFIX}{name.upper()}" for name in ("json", *(name for name, _ in _FIELDS))} - KNOWN


def variable_warnings(variables: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each unknown variable with the prefix, with the most similar known one."""
    names = {name.removeprefix(_PREFIX): name for name in sorted(KNOWN)}
    for variable in sorted(variables):
        if not variable.upper().startswith(_PREFIX) or variable in KNOWN:
            continue
        if variable in _COMMAND_LINE_ONLY:
            word = variable.removeprefix(_PREFIX).lower()
            what = ARGUMENTS.get(word) or f"--{word.replace('_', '-')}"
            yield f"the environment variable {variable} is ignored: give {what} on the command line"
            continue
        nearest = difflib.get_close_matches(variable.upper().removeprefix(_PREFIX), names, n=1)
        advice = f"did you mean {names[nearest[0]]}?" if nearest else "`nilr COMMAND --help` lists the options"
        yield f"the environment variable {variable} is unknown and ignored: {advice}"
