"""Everything nilr raises on purpose.

NilrError                exit status 1: depends on the world; one message, an optional hint
|-- UsageError           exit status 2: what was asked for makes no sense anywhere
|   `-- UnknownNameError     a name that stands in no table
|-- DataError            a source, an image or a pack that cannot be used
|-- CheckpointError      a model file that cannot be used
|-- ResultError          a result file that cannot be used
|-- StoreError           a registry name, a lock or a place that cannot be used
|-- EpisodeError         the data cannot give the episode that was asked for
|-- DeviceError          the device is not there, or has too little memory
`-- DivergedError        a number is not finite
Interrupted              (a KeyboardInterrupt) SIGINT, SIGTERM or SIGHUP, after saving
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class NilrError(Exception):
    """An error that the user can understand and act on.

    Args:
        message: what happened, with the value, the place and what was expected; one line, no full stop.
        hint: what to do about it; one line.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(NilrError):
    """A request that makes no sense whatever is on disk."""

    exit_status = 2


class UnknownNameError(UsageError):
    """A name that stands in no table; the message lists the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} `{name}`", hint=f"known: {', '.join(known)}")


class DataError(NilrError):
    """A source, an image or a pack that cannot be used."""


class CheckpointError(NilrError):
    """A model file that cannot be used."""


class ResultError(NilrError):
    """A result file that cannot be used."""


class StoreError(NilrError):
    """A registry name, a lock or a place on disk that cannot be used."""


class EpisodeError(NilrError):
    """The data cannot give the episode that was asked for."""


class DeviceError(NilrError):
    """The device is not there, or has too little memory."""


class DivergedError(NilrError):
    """Training or adaptation met a number that is not finite, or too large to go on with."""


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP arrived; what could be saved has been.

    Args:
        signum: the signal's number; the exit status is 128 + signum.
        hint: how to go on.
    """

    def __init__(self, signum: int, hint: str | None = None) -> None:
        super().__init__(signum)
        self.signum = signum
        self.hint = hint


def invalid_field(error: ValidationError, *, ignore: str = "") -> str:
    """Return the first fault that pydantic found, as `field`: reason; "" if there is none.

    Args:
        error: of pydantic.
        ignore: a type of fault that does not count, such as "extra_forbidden".
    """
    for details in error.errors():
        if details["type"] != ignore:
            where = ".".join(str(part) for part in details["loc"])
            reason = details["msg"].removeprefix("Value error, ")
            return (f"`{where}`: " if where else "") + reason[:1].lower() + reason[1:]
    return ""
