"""What `models import` did."""

from __future__ import annotations

from typing import Literal

from nilr.results.records import Record


class ImportedModel(Record):
    """One imported model.

    Attributes:
        status: incomplete if the training has not finished.
        outer_step: completed outer updates.
        files: its files in the store.
        resumable: whether its training can be resumed.
        imported: false if the store already had the same files.
    """

    status: Literal["complete", "incomplete"]
    outer_step: int
    files: list[str]
    resumable: bool
    imported: bool


ImportMetrics = dict[str, ImportedModel]
