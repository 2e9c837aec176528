"""Draw the pictures of the pages from the results in `reproduction/`: `python docs/pictures.py`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.findings_text import DOCS, EVIDENCE
from nilr.config.results import ReportSettings
from nilr.recipes import report
from nilr.reporting import SilentReporter

PICTURES = DOCS / "pictures"

FOR_PAPER = ("protocols",)
# The results that a report reads, and those of its figures that the pages show.
DRAWN: Mapping[tuple[str, ...], Sequence[str]] = {
    ("cpu/probe-s0-s1.json",): FOR_PAPER,
    ("cpu/probe-3000-maml.json", "cpu/probe-3000-metasgd.json"): ("training", "share-negative"),
    ("cpu/reproduce.json",): ("signs", "choices", "seeds"),
    ("measures/rates-metasgd.json",): ("rates", "rate-effects", "consistency", "effective-step"),
    ("cpu/cpu-metasgd-s0/probe-398a4960aadf.json", "cpu/cpu-maml-s0/probe-6c865398308f.json"): (
        "edits",
        "layers",
        "steps",
        "shared-classes",
        "similarity",
    ),
    ("measures/probe-metasgd.json",): ("directions", "geometry", "harm", "transfer"),
    ("measures/universality-metasgd-mini.json", "measures/universality-maml-mini.json"): ("universality",),
}


def draw(results: Sequence[str], names: Sequence[str], folder: Path) -> None:
    """Draw figures as `nilr report RESULT... --out FOLDER --format svg` does, for FOR_PAPER with `--style paper`."""
    paths = tuple(EVIDENCE / result for result in results)
    style = "paper" if names == FOR_PAPER else None
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "figures"
        report.run(ReportSettings(results=paths, out=out, format="svg", style=style), SilentReporter())
        for name in names:
            (folder / f"{name}.svg").write_bytes((out / f"{name}.svg").read_bytes())


def main() -> None:
    """Draw all pictures again."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for results, names in DRAWN.items():
        draw(results, names, PICTURES)


if __name__ == "__main__":
    main()
