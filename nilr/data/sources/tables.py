"""The published split files train.csv, val.csv and test.csv (`filename,label`), and the images that they name."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nilr.config import SPLITS, Split
from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.data.sources.members import MAX_TABLE_BYTES, TABLES, Listing, Member
from nilr.errors import DataError

Table = Mapping[Split, Mapping[str, Sequence[str]]]
Splits = dict[Split, dict[str, list[Member]]]

_FORM: Final = "write `filename,label` in the first line, and below it a line for each image"

_ORIGINAL: Final = re.compile(r"(n\d{8})_(\d+)\.jpe?g", re.IGNORECASE)
_NUMBERED: Final = re.compile(r"(n\d{8})(\d{8})\.jpg")


@dataclass
class Matched:
    """What became of the rows.

    Attributes:
        splits: the images by split and class.
        absent: classes of which no image is there.
        missing: rows whose image is not there although others of its class are.
        original: whether ILSVRC's own files were counted off.
    """

    splits: Splits = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    original: bool = False


def read_tables(contents: Mapping[str, bytes], where: str) -> Table:
    """Read train.csv, val.csv and test.csv.

    Args:
        contents: the files by name; one may be left out, but not all.
        where: where they are, for errors.

    Returns:
        The file names by split and class, in the order of the rows.

    Raises:
        DataError: not such files, or a class or an image that stands in two splits.
    """
    table = {
        split: _read_table(contents[f"{split}.csv"], f"{where}/{split}.csv")
        for split in SPLITS
        if f"{split}.csv" in contents
    }
    split_of: dict[str, str] = {}
    for split, classes in table.items():
        for name in classes:
            if split_of.setdefault(name, split) != split:
                raise DataError(
                    f"class `{name}` stands in both {split_of[name]}.csv and {split}.csv in `{where}`",
                    hint="a split is a partition of classes; --split-files reads other files than those found",
                )
    return table


def read_table_folder(folder: Path) -> Table:
    """Read the three files of a folder.

    Raises:
        DataError: one of them is not there, or see `read_tables`.
    """
    contents = {}
    for name in TABLES:
        try:
            with (folder / name).open("rb") as file:
                contents[name] = file.read(MAX_TABLE_BYTES + 1)
            if len(contents[name]) > MAX_TABLE_BYTES:
                raise DataError(f"`{folder / name}` has more than {MAX_TABLE_BYTES:,} bytes", hint=_FORM)
        except OSError as error:
            raise DataError(
                f"cannot read `{folder / name}`: {(error.strerror or str(error)).lower()}",
                hint="--split-files wants the folder that holds train.csv, val.csv and test.csv",
            ) from error
    return read_tables(contents, str(folder))


def find_tables(listing: Listing, paths: Sequence[Path]) -> tuple[Table, str] | None:
    """Return split files that lie in the sources, else beside them, and where; None where all three are not."""
    folders: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for path, content in sorted(listing.tables.items()):
        folder, _, name = path.rpartition("/")
        folders[folder][name] = content
    for folder, contents in folders.items():
        if set(contents) == set(TABLES):
            return read_tables(contents, folder), folder
    for parent in dict.fromkeys(path.resolve().parent for path in paths):
        if all((parent / name).is_file() for name in TABLES):
            return read_table_folder(parent), str(parent)
    return None


def match_tables(table: Table, images: Iterable[Member]) -> Matched:
    """Find the image of each row: by its path or name, and in ILSVRC's own folders by counting.

    `n0153282900000005.jpg` is the fifth image of class n01532829 in the order of the numbers in ILSVRC's names
    (`n01532829_4.JPEG`), as the public tools that build Mini-ImageNet from ILSVRC count.
    """
    by_name: defaultdict[str, list[Member]] = defaultdict(list)
    originals: defaultdict[str, list[tuple[int, Member]]] = defaultdict(list)
    for image in images:
        by_name[image.filename].append(image)
        if found := _ORIGINAL.fullmatch(image.filename):
            originals[found[1]].append((int(found[2]), image))
    matched = Matched()
    for split, classes in table.items():
        matched.splits[split] = {}
        for label, rows in classes.items():
            members = [_by_name(row, label, by_name) for row in rows]
            if not any(members) and label in originals:
                members = _by_number(rows, [image for _, image in sorted(originals[label])])
                matched.original = True
            there = [member for member in members if member]
            if there:
                matched.splits[split][label] = there
                matched.missing += [row for row, member in zip(rows, members, strict=True) if not member]
            else:
                matched.absent.append(label)
    matched.splits = {split: classes for split, classes in matched.splits.items() if classes}
    return matched


def _read_table(content: bytes, where: str) -> dict[str, list[str]]:
    try:
        text = content.decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        fields = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if not {"filename", "label"} <= set(fields):
            raise ValueError("its first line should be `filename,label`")
        classes: defaultdict[str, list[str]] = defaultdict(list)
        seen: set[str] = set()
        for row in rows:
            filename, label = (row[fields[name]] or "" for name in ("filename", "label"))
            if not filename.strip() or not label.strip() or filename in seen:
                raise ValueError(f"line {rows.line_num} lacks a name or a label, or repeats a name")
            seen.add(filename)
            classes[label.strip()].append(filename.strip())
    except (ValueError, csv.Error) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        what = describe_content(content[:HEAD_SIZE])
        raise DataError(f"`{where}` ({what}) is not a split file: {reason}", hint=_FORM) from error
    if not classes:
        raise DataError(f"`{where}` names no image", hint=_FORM)
    return dict(classes)


def _by_name(row: str, label: str, by_name: Mapping[str, Sequence[Member]]) -> Member | None:
    candidates = by_name.get(row.rpartition("/")[2], ())
    if len(candidates) > 1:
        # The same name in several folders: the one whose path ends as the row says, else that of the class's folder.
        ends = [image for image in candidates if image.path.endswith(f"/{row}")] if "/" in row else []
        candidates = ends or [image for image in candidates if label in image.path.split("/")[:-1]] or candidates
    return candidates[0] if candidates else None


def _by_number(rows: Sequence[str], images: Sequence[Member]) -> list[Member | None]:
    numbers = [int(found[2]) if (found := _NUMBERED.fullmatch(row)) else 0 for row in rows]
    return [images[number - 1] if 1 <= number <= len(images) else None for number in numbers]
