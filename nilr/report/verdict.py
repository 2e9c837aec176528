"""What an experiment found of the paper's four signs, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nilr.claims import claim_word
from nilr.report.figures.figure import Table
from nilr.report.reading import Source
from nilr.report.subjects import measure, reading
from nilr.report.words import points

_HEADER = ("model", "protocol", "the paper claims", "measured, points to meta-init", "seeds", "finding")


def verdicts(sources: Sequence[Source]) -> Iterator[tuple[str, Table]]:
    """Yield the tables of every experiment among the results, each with its title.

    Raises:
        ResultError: a file holds something else than its schema says.
    """
    for source in sources:
        if source.command == "reproduce":
            with reading(source):
                metrics = source.result["metrics"]
                yield "The paper's four signs", Table(_HEADER, [_row(sign) for sign in metrics["signs"]])
                again = [
                    (choice, *_row(sign)) for choice, found in metrics.get("choices", {}).items() for sign in found
                ]
                if again:
                    yield "The signs under other choices", Table(("choice", *_HEADER), again)


def _row(sign: Mapping[str, Any]) -> tuple[str, ...]:
    claim = claim_word(sign["claimed"])
    measured = sign["measured"]
    return sign["run"], sign["protocol"], claim, points(measure(measured)), str(measured["n_seeds"]), sign["finding"]
