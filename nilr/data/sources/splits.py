"""Where a split comes from: the published split of Mini-ImageNet, a draw by seed, or split files.

A split is a partition of classes, so that the classes of an episode were never seen in training. Split files are
train.csv, val.csv and test.csv with columns `filename` and `label`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nilr.config.base import SPLITS, Split
from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.data.sources.members import MAX_SPLIT_FILE_BYTES, SPLIT_FILES, Listing, Member, read_error
from nilr.errors import DataError, UsageError
from nilr.words import counted

# File names by split and class, in the order of the rows.
SplitTable = Mapping[Split, Mapping[str, Sequence[str]]]
# Images by split and class.
Splits = dict[Split, dict[str, list[Member]]]

# Ravi and Larochelle, Optimization as a Model for Few-Shot Learning, 2017: train.csv, val.csv, test.csv.
_TRAIN: Final = """
n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867 n02091831
n02101006 n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079 n02165456 n02457408
n02606052 n02687172 n02747177 n02795169 n02823428 n02966193 n03017168 n03047690 n03062245 n03207743
n03220513 n03337140 n03347037 n03400231 n03476684 n03527444 n03676483 n03838899 n03854065 n03888605
n03908618 n03924679 n03998194 n04067472 n04243546 n04251144 n04258138 n04275548 n04296562 n04389033
n04435653 n04443257 n04509417 n04515003 n04596742 n04604644 n04612504 n06794110 n07584110 n07697537
n07747607 n09246464 n13054560 n13133613
"""
_VAL: Final = """
n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042
n03535780 n03584254 n03770439 n03773504 n03980874 n09256479
"""
_TEST: Final = """
n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525
n03127925 n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480
"""
RAVI_CLASSES: Final[Mapping[Split, frozenset[str]]] = {
    "train": frozenset(_TRAIN.split()),
    "val": frozenset(_VAL.split()),
    "test": frozenset(_TEST.split()),
}
RAVI_SPLIT_OF: Final[Mapping[str, Split]] = {name: split for split, names in RAVI_CLASSES.items() for name in names}
RAVI_IMAGES_PER_CLASS: Final = 600


_FORM: Final = "write `filename,label` in the first line, and one line per image below it"
_ORIGINAL: Final = re.compile(r"(n\d{8})_(\d+)\.jpe?g", re.IGNORECASE)
_NUMBERED: Final = re.compile(r"(n\d{8})(\d{8})\.jpg")


def parse_split_classes(text: str) -> dict[Split, int]:
    """Parse the numbers of train, val and test classes, such as `64/16/20`; UsageError if they are invalid."""
    parts = text.split("/")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts) or int(parts[0]) == 0:
        raise UsageError(
            f"invalid numbers of train, val and test classes `{text}`",
            hint="write three whole numbers, such as --split-classes 64/16/20; the first is at least 1",
        )
    return dict(zip(SPLITS, map(int, parts), strict=True))


def draw_split(classes: Collection[str], numbers: Mapping[Split, int], *, seed: int) -> dict[str, Split]:
    """Draw the split of each class; classes beyond the numbers get none.

    The draw depends on the seed and the names only: classes are sorted by a hash of both. Too few classes are a
    DataError.
    """
    if sum(numbers.values()) > len(classes):
        requested, needed = "/".join(str(numbers[split]) for split in SPLITS), counted(sum(numbers.values()), "class")
        raise DataError(
            f"--split-classes {requested} needs {needed}, but the source has {len(classes)}",
            hint="use smaller numbers, or add sources",
        )
    drawn = iter(sorted(classes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode(errors="replace")).digest()))
    return {next(drawn): split for split in SPLITS for _ in range(numbers[split])}


def read_split_files(contents: Mapping[str, bytes], where: str) -> SplitTable:
    """Read train.csv, val.csv and test.csv.

    Args:
        contents: the files by name; some may be missing.
        where: their folder, for errors.

    Raises:
        DataError: invalid files, or a class in two splits, or an image twice in a file.
    """
    table = {
        split: _read_split_file(contents[f"{split}.csv"], f"{where}/{split}.csv")
        for split in SPLITS
        if f"{split}.csv" in contents
    }
    split_of: dict[str, str] = {}
    for split, classes in table.items():
        for name in classes:
            if split_of.setdefault(name, split) != split:
                raise DataError(
                    f"class `{name}` is in both {split_of[name]}.csv and {split}.csv in `{where}`",
                    hint="each class belongs to one split; choose other files with --split-files",
                )
    return table


def read_split_folder(folder: Path) -> SplitTable:
    """Read the three split files of a folder; DataError also if a file is missing or too large."""
    contents = {}
    for name in SPLIT_FILES:
        try:
            with (folder / name).open("rb") as file:
                contents[name] = file.read(MAX_SPLIT_FILE_BYTES + 1)
        except OSError as error:
            hint = "give --split-files a folder that contains train.csv, val.csv and test.csv"
            raise read_error(folder / name, error, hint) from error
        if len(contents[name]) > MAX_SPLIT_FILE_BYTES:
            raise DataError(f"`{folder / name}` has more than {MAX_SPLIT_FILE_BYTES:,} bytes", hint=_FORM)
    return read_split_files(contents, str(folder))


def find_split_files(listing: Listing, paths: Sequence[Path]) -> tuple[SplitTable, str] | None:
    """Return the split files in the sources, else beside them, and their folder; None if they are not complete."""
    folders: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for path, content in sorted(listing.split_files.items()):
        folder, _, name = path.rpartition("/")
        folders[folder][name] = content
    for folder, contents in folders.items():
        if set(contents) == set(SPLIT_FILES):
            return read_split_files(contents, folder), folder
    for parent in dict.fromkeys(path.resolve().parent for path in paths):
        if all((parent / name).is_file() for name in SPLIT_FILES):
            return read_split_folder(parent), str(parent)
    return None


@dataclass
class Matched:
    """The images that the rows of split files name."""

    splits: Splits = field(default_factory=dict)  # the images by split and class
    absent: list[str] = field(default_factory=list)  # classes without any image
    missing: list[str] = field(default_factory=list)  # rows without an image, in classes that have others
    original: bool = False  # whether rows were matched to ILSVRC's own files by number


def match_split_files(table: SplitTable, images: Iterable[Member]) -> Matched:
    """Find the image of each row: by its path or name, or by its number in ILSVRC's own class folders.

    `n0153282900000005.jpg` is the fifth image of class n01532829 in the order of the numbers in ILSVRC's names
    (`n01532829_4.JPEG`). The public tools that build Mini-ImageNet from ILSVRC count in the same way.
    """
    by_name: defaultdict[str, list[Member]] = defaultdict(list)
    originals: defaultdict[str, list[tuple[int, Member]]] = defaultdict(list)
    for image in images:
        by_name[image.filename].append(image)
        if found := _ORIGINAL.fullmatch(image.filename):
            originals[found[1]].append((int(found[2]), image))
    matched = Matched()
    for split, classes in table.items():
        chosen: dict[str, list[Member]] = {}
        for label, rows in classes.items():
            members = [_by_name(row, label, by_name) for row in rows]
            if not any(members) and label in originals:
                members = _by_number(rows, [image for _, image in sorted(originals[label])])
                matched.original = True
            if present := [member for member in members if member]:
                chosen[label] = present
                matched.missing += [row for row, member in zip(rows, members, strict=True) if not member]
            else:
                matched.absent.append(label)
        if chosen:
            matched.splits[split] = chosen
    return matched


def _read_split_file(content: bytes, where: str) -> dict[str, list[str]]:
    classes: defaultdict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        fields = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if not {"filename", "label"} <= set(fields):
            raise ValueError("its first line should be `filename,label`")
        for row in rows:
            filename, label = (row[fields[name]] or "" for name in ("filename", "label"))
            if not filename.strip() or not label.strip() or filename in seen:
                raise ValueError(f"line {rows.line_num} has no file name, no label, or a file name that occurs twice")
            seen.add(filename)
            classes[label.strip()].append(filename.strip())
    except (ValueError, csv.Error) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        what = describe_content(content[:HEAD_SIZE])
        raise DataError(f"`{where}` ({what}) is not a split file: {reason}", hint=_FORM) from error
    if not classes:
        raise DataError(f"`{where}` lists no image", hint=_FORM)
    return dict(classes)


def _by_name(row: str, label: str, by_name: Mapping[str, Sequence[Member]]) -> Member | None:
    candidates = by_name.get(row.rpartition("/")[2], ())
    if len(candidates) > 1:
        # If several folders have a file of this name: prefer the path in the row, then the folder of the class.
        in_row = [image for image in candidates if image.path.endswith(f"/{row}")] if "/" in row else []
        candidates = in_row or [image for image in candidates if label in image.path.split("/")[:-1]] or candidates
    return candidates[0] if candidates else None


def _by_number(rows: Sequence[str], images: Sequence[Member]) -> list[Member | None]:
    numbers = [int(found[2]) if (found := _NUMBERED.fullmatch(row)) else 0 for row in rows]
    return [images[number - 1] if 1 <= number <= len(images) else None for number in numbers]
