"""The environment variables that nilr reads, and warnings about others with its prefix."""

import difflib
from collections.abc import Iterable, Iterator

from nilr.cli.options import ARGUMENTS, envvar, is_switch
from nilr.commands import COMMANDS
from nilr.words import as_flag

_PREFIX = "NILR_"
# NILR_HOME is read by the store, the places of real images by the tests.
_OTHERS = ("NILR_HOME", "NILR_QUIET", "NILR_DEBUG", "NILR_MINI_IMAGENET", "NILR_OMNIGLOT", "NILR_TINY_IMAGENET")
_FIELDS = [field for command in COMMANDS for field in command.settings.model_fields.items()]

KNOWN = {*_OTHERS, *filter(None, (envvar(name, field) for name, field in _FIELDS))}
# Options and arguments that have no environment variable.
_COMMAND_LINE_ONLY = {
    f"{_PREFIX}{name.upper()}"
    for name in ("json", "config", "save_config", "log_file", "dry_run", *(name for name, _ in _FIELDS))
} - KNOWN
_SWITCHES = {"NILR_QUIET", "NILR_DEBUG", *(envvar(name, field) for name, field in _FIELDS if is_switch(field))}


def variable_warnings(variables: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each unknown variable with the prefix, with the most similar known one."""
    names = {name.removeprefix(_PREFIX): name for name in sorted(KNOWN | _COMMAND_LINE_ONLY)}
    for variable in sorted(variables):
        if not variable.upper().startswith(_PREFIX) or variable in KNOWN:
            continue
        nearest = difflib.get_close_matches(variable.upper().removeprefix(_PREFIX), names, n=1)
        meant = names[nearest[0]] if nearest else None
        known = variable.upper() == meant and meant in _COMMAND_LINE_ONLY
        yield f"the environment variable {variable} is {'' if known else 'unknown and '}ignored: {_advice(meant)}"


def _advice(meant: str | None) -> str:
    if meant is None:
        return "`nilr COMMAND --help` lists the options"
    if meant in _COMMAND_LINE_ONLY:
        word = meant.removeprefix(_PREFIX).lower()
        return f"give {ARGUMENTS.get(word) or as_flag(word)} on the command line"
    return f"did you mean {meant}?{' It takes 0 or 1.' if meant in _SWITCHES else ''}"
