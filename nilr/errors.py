"""All of nilr's own exceptions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nilr.words import lower_first

if TYPE_CHECKING:
    from pydantic import ValidationError

_MOST_NAMES = 10  # in a hint


class NilrError(Exception):
    """An error that the user can act on. The exit status is 1.

    Args:
        message: what is wrong, with the value and the place; one line, no full stop.
        hint: what to do; one line.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None:
            self.add_note(f"hint: {hint}")  # in tracebacks, such as those of a notebook


class UsageError(NilrError):
    """A request that is invalid on every machine. The exit status is 2."""

    exit_status = 2


class UnknownNameError(UsageError):
    """An unknown name; the hint gives the known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} `{name}`", hint=known_names(name, known))


class DataError(NilrError):
    """An invalid or missing source, image or pack."""


class ModuleError(NilrError):
    """A module that cannot be a body, or cannot be imported."""


class CheckpointError(NilrError):
    """An invalid model file."""


class ResultError(NilrError):
    """An invalid result file."""


class StoreError(NilrError):
    """A missing or invalid name in the store, a lock of another process, or a path that cannot be read or written."""


class EpisodeError(NilrError):
    """The data is too small for the requested episode, or does not fit the model."""


class DeviceError(NilrError):
    """A missing device, or one with too little memory."""


class DivergedError(NilrError):
    """A number in training or adaptation is not finite, or too large to continue."""


class LostProcessError(NilrError):
    """Another process of the same command has ended or does not respond."""


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP ended the command, after it saved its state.

    Args:
        signum: the signal's number; the exit status is 128 + signum.
        hint: how to continue.
    """

    def __init__(self, signum: int, hint: str | None = None) -> None:
        super().__init__(signum)
        self.signum = signum
        self.hint = hint


# Messages of torch's CPU allocator and of the loader of its libraries.
_OUT_OF_MEMORY = ("can't allocate memory", "failed to map segment")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was missing: Python's, torch's on a CPU or a GPU, or that of the C kernels."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(message in str(error) for message in _OUT_OF_MEMORY)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question with the known name that is nearest to an unknown one; an empty text if none is near."""
    names = {other.lower(): other for other in known}
    nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f"did you mean `{names[nearest[0]]}`? " if nearest else ""


def known_names(name: str, known: Iterable[str], listing: str | None = None) -> str:
    """Return a hint with the known names, and the one that is nearest to an unknown name, if one is near.

    Args:
        name: the unknown name.
        known: all known names. Of many, the hint has the nearest ones and the number of all.
        listing: the command that lists all names.
    """
    known = list(known)
    if len(known) <= _MOST_NAMES:
        return f"{did_you_mean(name, known)}known: {', '.join(known)}"
    names = {other.lower(): other for other in known}
    nearest = [names[other] for other in difflib.get_close_matches(name.lower(), names, n=_MOST_NAMES, cutoff=0)]
    more = f"; `{listing}` lists all" if listing else ""
    return f"{did_you_mean(name, known)}the nearest of {len(known):,} names: {', '.join(nearest)}{more}"


def invalid_field(error: ValidationError) -> str:
    """Describe the first validation error as "`field`: reason"."""
    details = error.errors()[0]
    where = ".".join(str(part) for part in details["loc"])
    return (f"`{where}`: " if where else "") + _reason(details)


# What `invalid_value` says of a path that `Path` would take for the working directory.
EMPTY_PATH = {"type": "empty_path", "msg": "a path is not empty", "input": ""}


def invalid_value(where: str, details: Mapping[str, Any], hint: str) -> UsageError:
    """Return the error for a value that pydantic rejects.

    Args:
        where: the flag, the variable or the setting that has the value.
        details: pydantic's: what it says (`msg`), and the value (`input`).
        hint: what to do.
    """
    given = details["input"]
    text = ",".join(map(str, given)) if isinstance(given, list | tuple) else given
    return UsageError(f"`{where}` cannot be `{text}`: {_reason(details)}", hint=hint)


def _reason(details: Mapping[str, Any]) -> str:
    if details["type"] == "too_short":
        return "give at least one value"
    return lower_first(details["msg"].removeprefix("Value error, "))
