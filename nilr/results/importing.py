"""What `models import` did."""

from __future__ import annotations

from typing import Literal

from nilr.results.records import Record


class ImportedModel(Record):
    """One model that was given.

    Attributes:
        status: complete, or incomplete where its training has more updates to go.
        outer_step: completed outer updates of its newest checkpoint.
        files: what stands in the store.
        resumable: whether its training can go on.
        imported: false where the same files were there already.
    """

    status: Literal["complete", "incomplete"]
    outer_step: int
    files: list[str]
    resumable: bool
    imported: bool


ImportMetrics = dict[str, ImportedModel]
