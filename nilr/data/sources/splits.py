"""Where a split comes from: a draw by seed, or split files.

A split is a partition of classes, so that the classes of an episode were never seen in training. Split files are
train.csv, val.csv and test.csv with columns `filename` and `label`.
"""

import codecs
import csv
import hashlib
import io
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from nilr.config.base import SPLITS, Split
from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.data.sources.members import MAX_SPLIT_FILE_BYTES, SPLIT_FILES, Listing, Member, is_image_name, read_error
from nilr.errors import DataError, UsageError
from nilr.words import counted

# File names by split and class, in the order of the rows.
SplitTable = Mapping[Split, Mapping[str, Sequence[str]]]
# Images by split and class.
Splits = dict[Split, dict[str, list[Member]]]

_QUOTED: Final = 80  # characters of a row in an error
# Names of columns, without spaces, `-` and `_`; the first one that the header has counts.
_FILENAME_COLUMNS: Final = (
    "filename",
    "filepath",
    "file",
    "imagename",
    "imagepath",
    "imagefile",
    "image",
    "img",
    "path",
)
_LABEL_COLUMNS: Final = ("label", "labels", "class", "classname", "category")
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


def find_split_files(listing: Listing, paths: Sequence[Path], warnings: list[str]) -> tuple[SplitTable, str] | None:
    """Return the split files in the sources, else beside them, and their folder.

    If they are not complete, return None and add a warning. Different split files in two folders are a DataError.
    """
    folders: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for path, content in sorted(listing.split_files.items()):
        folder, _, name = path.rpartition("/")
        folders[folder][name] = content
    complete = [folder for folder, contents in folders.items() if set(contents) == set(SPLIT_FILES)]
    if other := next((folder for folder in complete if folders[folder] != folders[complete[0]]), None):
        raise DataError(
            f"the split files in `{complete[0]}` and `{other}` differ",
            hint="copy those to use to another folder, and give it as --split-files",
        )
    if complete:
        return read_split_files(folders[complete[0]], complete[0]), complete[0]
    for parent in dict.fromkeys(path.resolve().parent for path in paths):
        present = [name for name in SPLIT_FILES if (parent / name).is_file()]
        if len(present) == len(SPLIT_FILES):
            return read_split_folder(parent), str(parent)
        folders[str(parent)].update(dict.fromkeys(present, b""))
    for folder, contents in folders.items():
        if contents:
            there, missing = ([n for n in SPLIT_FILES if (n in contents) is wanted] for wanted in (True, False))
            warnings.append(f"{' and '.join(there)} in `{folder}` ignored: {' and '.join(missing)} missing")
    return None


@dataclass
class Matched:
    """The images that the rows of split files name."""

    splits: Splits = field(default_factory=dict)  # the images by split and class
    absent: list[str] = field(default_factory=list)  # classes without any image
    missing: list[str] = field(default_factory=list)  # rows without an image, in classes that have others
    elsewhere: dict[str, str] = field(default_factory=dict)  # rows without an image: an image of a similar name
    relabelled: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # images in the folder of another class: the label of their row, and that class
    original: bool = False  # whether rows were matched to ILSVRC's own files by number


def match_split_files(table: SplitTable, images: Iterable[Member]) -> Matched:
    """Find the image of each row: by its path or name, or by its number in ILSVRC's own class folders.

    `n0153282900000005.jpg` is the fifth image of class n01532829 in the order of the numbers in ILSVRC's names
    (`n01532829_4.JPEG`). The public tools that build Mini-ImageNet from ILSVRC count in the same way.

    Raises:
        DataError: several images fit a row, or several rows name one image.
    """
    labels = {label for classes in table.values() for label in classes}
    index = _Index(labels)
    originals: defaultdict[str, list[tuple[int, Member]]] = defaultdict(list)
    for image in images:
        index.add(image)
        if found := _ORIGINAL.fullmatch(image.filename):
            originals[found[1]].append((int(found[2]), image))
    matched = Matched()
    row_of: dict[Member, str] = {}
    for split, classes in table.items():
        chosen: dict[str, list[Member]] = {}
        for label, rows in classes.items():
            members = index.find(rows, label)
            if not any(members) and label in originals:
                members = _by_number(rows, [image for _, image in sorted(originals[label])])
                matched.original = True
            found_rows = [(row, member) for row, member in zip(rows, members, strict=True) if member]
            for row, member in found_rows:
                if member in row_of:
                    raise DataError(
                        f"the rows `{row_of[member]}` and `{split}.csv: {row},{label}` name one image: `{member.path}`",
                        hint="name each image once, in one class",
                    )
                row_of[member] = f"{split}.csv: {row},{label}"
                *folders, _ = member.path.split("/")
                if label not in folders and folders[-1] in labels:
                    matched.relabelled[member.path] = label, folders[-1]
            lost = [row for row, member in zip(rows, members, strict=True) if not member]
            misnamed = {row: other.path for row in lost if (other := index.misnamed(row, label))}
            matched.elsewhere.update((row, other.path) for row in lost if (other := index.same_name(row)))
            matched.elsewhere.update(misnamed)
            if found_rows:
                chosen[label] = [member for _, member in found_rows]
            if found_rows or misnamed:
                matched.missing += lost
            else:
                matched.absent.append(label)
        if chosen:
            matched.splits[split] = chosen
    return matched


class _Index:
    """Finds images by the names in split files with these labels."""

    def __init__(self, labels: Collection[str]) -> None:
        self._labels = labels
        self._by_name: defaultdict[str, list[Member]] = defaultdict(list)
        self._by_stem: defaultdict[str, list[Member]] = defaultdict(list)
        self._folders: set[str] = set()

    def add(self, image: Member) -> None:
        folder, _, filename = image.path.rpartition("/")
        self._folders.add(folder)
        self._by_name[filename].append(image)
        self._by_stem[filename.rpartition(".")[0]].append(image)

    @cached_property
    def _label_folders(self) -> set[str]:
        return {part for folder in self._folders for part in folder.split("/")} & set(self._labels)

    def find(self, rows: Sequence[str], label: str) -> list[Member | None]:
        """Return the image that each row of a class names, or None.

        A path is that of the image below its source. If no row of the class has such an image, a path may be the end of
        the image's, else begin with more folders. A file name alone means the image of this name in the folder of the
        class; if there is no such folder, the only image of this name.
        """
        found: list[Member | None] = []
        for fits in (_is_path, _ends_path, _continues_path):
            found = [self._find(row, label, fits) for row in rows]
            if any(found) or not any("/" in row for row in rows):
                break
        return found

    def _find(self, row: str, label: str, fits: Callable[[str, str], bool]) -> Member | None:
        if "/" in row:
            has_suffix = row.rpartition("/")[2] in self._by_name
            images = [
                image
                for image in self._same_name(row)
                if fits(row, image.path if has_suffix else image.path.rpartition(".")[0])
            ]
        else:
            images = self._named(row, label)
        if len(images) > 1:
            images = [image for image in images if label in image.path.split("/")[:-1]] or images
        if len(images) > 1:
            raise DataError(
                f"`{row}` of class `{label}` in the split files fits `{images[0].path}` and `{images[1].path}`",
                hint="write the folders before the file name, or give fewer sources",
            )
        return images[0] if images else None

    def same_name(self, row: str) -> Member | None:
        """Return an image with the file name of a row, in whatever folder."""
        return next(iter(self._same_name(row)), None)

    def misnamed(self, row: str, label: str) -> Member | None:
        """Return the image that a row without an image may mean: with another suffix, in another case or folder.

        It lies in the folder of the class, or in none of a class, or its path is that of the row.
        """
        path = _without_suffix(row)
        for image in self._by_folded_stem.get(path.rpartition("/")[2], ()):
            folders = set(image.path.split("/")[:-1])
            if "/" in row:
                fits = f"/{_without_suffix(image.path)}".endswith(f"/{path}")
            else:
                fits = label not in self._label_folders and not self._label_folders & folders
            if fits or label in folders:
                return image
        return None

    @cached_property
    def _by_folded_stem(self) -> dict[str, list[Member]]:
        by_stem: defaultdict[str, list[Member]] = defaultdict(list)
        for image in itertools.chain.from_iterable(self._by_name.values()):
            by_stem[_without_suffix(image.filename)].append(image)
        return by_stem

    def _same_name(self, row: str) -> list[Member]:
        name = row.rpartition("/")[2]
        return self._by_name.get(name) or self._by_stem.get(name) or []

    def _named(self, row: str, label: str) -> list[Member]:
        if label in self._label_folders:
            return [image for image in self._same_name(row) if label in image.path.split("/")[:-1]]
        return [image for image in self._same_name(row) if not self._label_folders & set(image.path.split("/")[:-1])]


def _without_suffix(path: str) -> str:
    return (path.rpartition(".")[0] if is_image_name(path.rpartition("/")[2]) else path).casefold()


def _is_path(row: str, path: str) -> bool:
    return row in (path, path.partition("/")[2])


def _ends_path(row: str, path: str) -> bool:
    return path.endswith(f"/{row}")


def _continues_path(row: str, path: str) -> bool:
    inside = path.partition("/")[2]  # without the name of the source
    return "/" in inside and row.endswith(f"/{inside}")


def _read_split_file(content: bytes, where: str) -> dict[str, list[str]]:
    classes: defaultdict[str, list[str]] = defaultdict(list)
    line_of: dict[str, int] = {}
    hint = _FORM
    try:
        for line, row, filename, label in _rows(content):
            if not filename or not label:
                raise ValueError(f"line {line} has no {'label' if filename else 'file name'}: `{row}`")
            if first := line_of.get(filename):
                raise ValueError(f"line {line} has the file name of line {first}: `{row}`")
            line_of[filename] = line
            classes[label].append(filename)
    except ValueError as error:
        reason: object = error
        if isinstance(error, UnicodeDecodeError):
            reason = f"line {len((content[: error.start] + b'x').splitlines())} is not UTF-8 text"
            hint = "save it as UTF-8"
        what = describe_content(content[:HEAD_SIZE])
        raise DataError(f"`{where}` ({what}) is not a split file: {reason}", hint=hint) from error
    if not classes:
        raise DataError(f"`{where}` lists no image", hint=f"each of {', '.join(SPLIT_FILES)} lists images: {_FORM}")
    return dict(classes)


def _rows(content: bytes) -> Iterator[tuple[int, str, str, str]]:
    """Yield the line number of each row, its start, and its file name and label.

    The separator is a comma, semicolon, tab or `|`. Without a header, the column of the file names is the one that has
    the suffix of an image; a number before it is an index.
    """
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = unicodedata.normalize("NFC", content.decode("utf-16" if utf16 else "utf-8-sig"))
    n_before = 0
    if text.startswith("sep="):  # Excel's own first line
        text, n_before = text.partition("\n")[2], 1
    first = text.partition("\n")[0]
    separator = max(",;\t|", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[int] | None = None
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise ValueError(f"line {rows.line_num + n_before}: {error}") from error
        if row is None:
            break
        cells = [cell.strip() for cell in row]
        if not cells:
            continue
        if columns is None:
            columns = _header_columns(cells)
            if columns is not None:
                continue
            columns = _columns(cells)
            if columns is None:
                raise ValueError(f"its first line should be `filename,label`, not `{separator.join(row)[:_QUOTED]}`")
        filename, label = (cells[column] if column < len(cells) else "" for column in columns)
        filename = re.sub(r"^(\./+)+", "", re.sub(r"[/\\]+", "/", filename))
        yield rows.line_num + n_before, separator.join(row)[:_QUOTED], filename, label
    if columns is None:
        raise ValueError("its first line should be `filename,label`")


def _header_columns(cells: Sequence[str]) -> list[int] | None:
    """Return the columns of file names and labels that a header names, or None."""
    names = [re.sub(r"[\s_-]", "", cell.lower()) for cell in cells]
    known = [next((name for name in of if name in names), None) for of in (_FILENAME_COLUMNS, _LABEL_COLUMNS)]
    return [names.index(name) for name in known if name] if all(known) else None


def _columns(cells: Sequence[str]) -> list[int] | None:
    """Return the columns of file names and labels of a row without a header above it, or None."""
    index = len(cells) == 3 and cells[0].isdecimal()
    columns = [1, 2] if index else [0, 1]
    if len(cells) != 2 + index:
        return None
    return next((order for order in (columns, columns[::-1]) if is_image_name(cells[order[0]])), None)


def _by_number(rows: Sequence[str], images: Sequence[Member]) -> list[Member | None]:
    numbers = [int(found[2]) if (found := _NUMBERED.fullmatch(row)) else 0 for row in rows]
    return [images[number - 1] if 1 <= number <= len(images) else None for number in numbers]
