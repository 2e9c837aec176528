"""Read Parquet files of a hub of data sets: an image and a label per row.

`image` is an encoded image, or a struct of its `bytes` and `path`. `label` is a number or a name; the names of numbers
are in the file's metadata, as Hugging Face's `datasets` writes them. The files of a folder are read together.
"""

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from nilr.config.base import Split
from nilr.data.sources.array_files import ArrayFile, first_line
from nilr.data.sources.arrays import distinct_names
from nilr.data.sources.members import ClassFolders, Listing, Member, Payload, Unreadable, damaged, read_error
from nilr.data.sources.tree import split_named
from nilr.errors import DataError
from nilr.words import counted

_IMAGES: Final = ("image", "img", "images", "jpg", "png")
_LABELS: Final = ("label", "fine_label", "labels", "class", "target", "wnid", "class_name", "cls")
_MIN_IMAGE: Final = 32  # bytes; a file with more rows than this allows is hostile
_MAX_GROUP: Final = 2**31  # bytes of a row group, without compression
_MAX_BATCH: Final = 2**28
_MAX_THRIFT: Final = 2**24  # bytes of a text in the file's metadata
_AT_ONCE: Final = 64
_FORM: Final = "expected a column `image` of encoded images, and a column `label`"


class _Columns(NamedTuple):
    """Where a file has its images and labels."""

    image: str  # with `.bytes` if it is a struct
    label: str
    names: list[str]  # of labels that are numbers; empty if unknown


class ParquetReader:
    """Reads the Parquet files of one folder; row `i` of `x.parquet` is listed as `<split>/<class>/x-<i>`."""

    kind = "parquet"

    def __init__(self, files: Sequence[ArrayFile], prefix: str) -> None:
        self._files, self._prefix = files, prefix

    def list_into(self, listing: Listing) -> None:
        """Add every image to the listing."""
        folders: dict[Split | None, ClassFolders] = {}
        for number, file in enumerate(self._files):
            split = _split(file.path)
            folder = folders.setdefault(split, ClassFolders(file.path.parent))
            prefix = f"{self._prefix}/{split}" if split else self._prefix
            with _opened(file) as (parquet, columns):
                _check(file, parquet)
                row = 0
                for group, labels in enumerate(_labels(file, parquet, columns)):
                    size = _group_size(parquet, group) // max(1, len(labels))
                    for index, label in enumerate(labels):
                        path = f"{prefix}/{folder.find(label)}/{file.path.stem}-{row:06d}"
                        listing.images.append(Member(path, size, self, (number, group, index)))
                        row += 1

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some images, in the order of the files."""
        by_group: defaultdict[tuple[int, int], dict[int, list[Member]]] = defaultdict(lambda: defaultdict(list))
        for member in members:
            number, group, index = member.where
            by_group[number, group][index].append(member)
        for (number, group), wanted in sorted(by_group.items()):
            file = self._files[number]
            with _opened(file) as (parquet, columns):
                if group >= parquet.num_row_groups or max(wanted) >= parquet.metadata.row_group(group).num_rows:
                    raise DataError(f"`{file.path}` was changed while it was read", hint="run the command again")
                for index, payload in enumerate(_images(parquet, group, columns.image)):
                    for member in wanted.pop(index, ()):
                        yield member, payload
                if wanted:
                    raise damaged(file.path, f"truncated or corrupt: {counted(len(wanted), 'image')} are missing")


def _split(path: Path) -> Split | None:
    """Return the split in the name of a file such as `validation-00000-of-00001.parquet`."""
    return split_named(re.split(r"[-_.]", path.name)[0])


@contextlib.contextmanager
def _opened(file: ArrayFile) -> Iterator[tuple[Any, _Columns]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            f"`{file.path}` is a Parquet file, and PyArrow, which reads it, is not installed",
            hint="install it: pip install 'nilr[parquet]'",
        ) from error
    try:
        content = file.content()
        source = file.path if content is None else pa.BufferReader(content)
        limits = {"thrift_string_size_limit": _MAX_THRIFT, "thrift_container_size_limit": _MAX_THRIFT}
        with pq.ParquetFile(source, pre_buffer=False, **limits) as parquet:
            yield parquet, _columns(file, parquet.schema_arrow)
    except MemoryError as error:
        raise damaged(file.path, "too large for the memory, or corrupt") from error
    except (pa.ArrowException, UnicodeDecodeError, ValueError) as error:
        raise damaged(file.path, f"truncated or corrupt: {first_line(error)}") from error
    except OSError as error:
        if error.errno is None:  # Arrow's own, of damaged content
            raise damaged(file.path, f"truncated or corrupt: {first_line(error)}") from error
        raise read_error(file.path, error) from error


def _columns(file: ArrayFile, schema: Any) -> _Columns:  # noqa: ANN401 - pyarrow may be missing
    import pyarrow.types as types

    image = next((name for name in _IMAGES if name in schema.names), None)
    label = next((name for name in _LABELS if name in schema.names), None)
    if image is None or label is None:
        raise DataError(f"`{file.path}` has the columns {', '.join(schema.names[:8])[:200]}", hint=_FORM)
    kind = schema.field(image).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        image, kind = f"{image}.bytes", kind.field("bytes").type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise DataError(f"the column `{image}` of `{file.path}` is {kind}, not encoded images", hint=_FORM)
    of_label = schema.field(label).type
    if not (types.is_integer(of_label) or types.is_string(of_label) or types.is_large_string(of_label)):
        raise DataError(f"the column `{label}` of `{file.path}` is {of_label}, not numbers or names", hint=_FORM)
    return _Columns(image, label, _class_names(schema.metadata or {}, label))


def _class_names(metadata: dict[bytes, bytes], label: str) -> list[str]:
    """Return the names in the metadata of Hugging Face's `datasets`; none if there are none."""
    value: Any = {}
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(metadata.get(b"huggingface", b"{}"))
    for key in ("info", "features", label, "names"):
        value = value.get(key) if isinstance(value, dict) else None
    return distinct_names([*map(str, value)]) if isinstance(value, list) else []


def _check(file: ArrayFile, parquet: Any) -> None:  # noqa: ANN401 - pyarrow may be missing
    """Raise DataError if the file declares far more than it can contain."""
    content = file.content()
    size = file.path.stat().st_size if content is None else len(content)
    if parquet.metadata.num_rows > size // _MIN_IMAGE:
        raise damaged(
            file.path, f"corrupt or hostile: it declares {parquet.metadata.num_rows:,} images in {size:,} bytes"
        )


def _group_size(parquet: Any, group: int) -> int:  # noqa: ANN401 - pyarrow may be missing
    """Return the bytes of a row group without compression; ValueError if they are too many.

    PyArrow's metadata of a column is not used: damaged statistics in it end the process.
    """
    size: int = parquet.metadata.row_group(group).total_byte_size
    if not 0 <= size <= _MAX_GROUP:
        raise ValueError(f"{size:,} bytes in one row group")
    return size


def _labels(file: ArrayFile, parquet: Any, columns: _Columns) -> Iterator[list[str]]:  # noqa: ANN401
    """Yield the class names of the rows of each row group."""
    for group in range(parquet.num_row_groups):
        _group_size(parquet, group)
        values = parquet.read_row_group(group, columns=[columns.label], use_threads=False).column(0).to_pylist()
        if nameless := [v for v in values if v == "" or (isinstance(v, int) and v < 0)]:
            raise DataError(
                f"`{file.path}` has the label {nameless[0]!r}, which is that of no class",
                hint="give the files that have labels",
            )
        if None in values:
            raise DataError(f"`{file.path}` has rows without `{columns.label}`", hint=_FORM)
        if columns.names and (
            unnamed := [v for v in values if not isinstance(v, int) or v not in range(len(columns.names))]
        ):
            raise DataError(f"label {unnamed[0]} of `{file.path}` has no name in its metadata", hint=_FORM)
        names = columns.names or {v: v if isinstance(v, str) else f"class{v:03d}" for v in set(values)}
        yield [names[value] for value in values]


def _images(parquet: Any, group: int, column: str) -> Iterator[Payload]:  # noqa: ANN401
    """Yield the images of a row group, in batches of bounded memory even if all rows share one large image."""
    size = max(1, _group_size(parquet, group))
    n_rows = max(1, min(_AT_ONCE, _MAX_BATCH // size))
    for batch in parquet.iter_batches(n_rows, row_groups=[group], columns=[column], use_threads=False):
        values = batch.column(0)
        for value in values.field("bytes") if "." in column else values:
            content = value.as_py()
            yield content if content is not None else Unreadable("has no content in the Parquet file")
