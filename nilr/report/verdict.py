"""What an experiment found of the paper's four signs, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nilr.report.figures.figure import Table
from nilr.report.reading import Source
from nilr.report.subjects import measure, reading
from nilr.report.words import points

TITLE = "The paper's four signs"

_HEADER = ("model", "protocol", "the paper claims", "measured, points to meta-init", "seeds", "finding")


def verdicts(sources: Sequence[Source]) -> Iterator[Table]:
    """Yield the table of every experiment among the results.

    Raises:
        ResultError: a file holds something else than its schema says.
    """
    for source in sources:
        if source.command == "reproduce":
            with reading(source):
                yield Table(_HEADER, [_row(sign) for sign in source.result["metrics"]["signs"]])


def _row(sign: Mapping[str, Any]) -> tuple[str, ...]:
    claim = "a gain" if sign["claimed"] > 0 else "a loss"
    measured = sign["measured"]
    return sign["run"], sign["protocol"], claim, points(measure(measured)), str(measured["n_seeds"]), sign["finding"]
