"""The summary of a report: what adaptation changes, and what that says about the signs that the paper claims."""

from collections.abc import Sequence

from nilr.claims import claim_word
from nilr.report.figures import seeds
from nilr.report.figures.figure import Table
from nilr.report.numbers import NOTHING, interval_sign, percent, points
from nilr.report.subjects import Subject, by_protocol
from nilr.words import counted

_HEADER = ("model", "protocol", "before", "after", "difference, points", "paper", "verdict")


def verdicts(subjects: Sequence[Subject]) -> Table | None:
    """Return a row for each model and protocol; seeds of one recipe have one row. None without differences."""
    groups = seeds.rows(subjects)
    of_seeds = {label for row in groups for label in row.deltas}
    by_label = {subject.label: subject for subject in subjects}
    rows = []
    for row in groups:
        claims = [by_label[label].claims.get(row.protocol, 0) for label in row.deltas]
        claimed = claims[0] if len(set(claims)) == 1 else 0
        found = {"positive": 1, "negative": -1}.get(row.verdict, 0)
        label = f"{row.label}, {counted(len(row.deltas), 'seed')}"
        after = row.before + row.together.mean
        rows.append(_row(label, row.protocol, row.before, after, points(row.together), claimed, found))
    for subject in subjects:
        measured = by_protocol(subject.probe) if subject.label not in of_seeds else {}
        for protocol, metrics in measured.items():
            if metrics.delta is not None:
                before, after = subject.probe.meta_init.accuracy.mean, metrics.accuracy.mean
                claimed, found = subject.claims.get(protocol, 0), interval_sign(metrics.delta)
                rows.append(_row(subject.label, protocol, before, after, points(metrics.delta), claimed, found))
    return Table(_HEADER, rows) if rows else None


def _row(
    label: str, protocol: str, before: float, after: float, difference: str, claimed: int, found: int
) -> tuple[str, ...]:
    paper = claim_word(claimed) if claimed else NOTHING
    verdict = "undecided" if not found else claim_word(found)
    if claimed and found:
        verdict = "confirmed" if found == claimed else "refuted"
    return label, protocol, percent(before), percent(after), difference, paper, verdict
