"""Find classes and their images in named values, as files of arrays have them.

Known forms, by the names of the values:

- images, and for each class the indices of its images: `image_data` and `class_dict` (Ren et al., Meta-Learning for
  Semi-Supervised Few-Shot Classification, 2018)
- images and a label per image, with or without names of the classes: `data` and `labels`, with `catname2label`
  (Gidaris and Komodakis, Dynamic Few-Shot Visual Learning without Forgetting, 2018), `data` and `fine_labels`, with
  `fine_label_names` (CIFAR-100), `images` and `labels`, and names such as these
- images by class, (classes, n, height, width)

An image is an array of one of the shapes in `as_image`, or an encoded file. Names that begin or end with a split, such
as `train_images`, give the split.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nilr.config.base import SPLITS, Split
from nilr.data.digests import Images
from nilr.data.sources.members import Payload
from nilr.data.sources.unpickling import PickledArray
from nilr.errors import DataError
from nilr.words import counted

Indices = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]

IMAGES: Final = ("image_data", "data", "images", "image", "imgs", "x")
LABELS: Final = ("labels", "fine_labels", "label_specific", "label", "targets", "y")
NAMES: Final = ("catname2label", "fine_label_names", "label_names", "class_names", "label_specific_str")
_NAME: Final = re.compile(r"(?:(?P<before>train|val|test)_)?(?P<base>.+?)(?:_(?P<after>train|val|test))?")
_FORMS: Final = (
    "expected images (`image_data`, `data`, `images` or `x`) with `class_dict` or a label per image (`labels` or `y`); "
    "`docs/datasets.md` shows each form"
)


class Rows(Protocol):
    """The images of a file of arrays."""

    @property
    def n_bytes(self) -> int:
        """The size of an image in memory, or its largest possible one."""

    @property
    def is_sequential(self) -> bool:
        """Whether reading in the order of the indices is faster, because the images are compressed together."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, indices: Iterable[int]) -> Iterator[Payload]:
        """Yield some images, each uint8 (H, W, 3) or (H, W), or an encoded one."""


class LazyArray(Protocol):
    """An array in a file that is read on demand."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def is_sequential(self) -> bool:
        """Whether reading in order is faster."""

    def load(self) -> AnyArray:
        """Return the whole array; DataError if it is too large for anything but images."""

    def items(self, n_axes: int, indices: Iterable[int]) -> Iterator[AnyArray]:
        """Yield items at indices into the first `n_axes` axes, as if these were one."""


class ArrayImages(NamedTuple):
    """The images of one split in a file, and the indices of each class's images, by name."""

    split: Split | None  # of the file's name or of the values' names
    rows: Rows
    classes: dict[str, Indices]

    def owners(self) -> dict[int, str]:
        """Return the class of each image."""
        return {index: name for name, indices in self.classes.items() for index in indices.tolist()}


class _Array:
    """Images of one array, (n, ...) or (classes, n, ...)."""

    def __init__(self, array: LazyArray, n_axes: int) -> None:
        self._array, self._n_axes = array, n_axes
        self.n_bytes, self.is_sequential = math.prod(array.shape[n_axes:]), array.is_sequential

    def __len__(self) -> int:
        return math.prod(self._array.shape[: self._n_axes])

    def read(self, indices: Iterable[int]) -> Iterator[Images]:
        for item in self._array.items(self._n_axes, indices):
            yield np.ascontiguousarray(as_image(item))


class InMemory:
    """An array that is in memory."""

    is_sequential = False

    def __init__(self, array: AnyArray) -> None:
        self._array, self.dtype, self.shape = array, array.dtype, array.shape

    def load(self) -> AnyArray:
        """Return the array."""
        return self._array

    def items(self, n_axes: int, indices: Iterable[int]) -> Iterator[AnyArray]:
        """Yield items."""
        flat = self._array.reshape(-1, *self.shape[n_axes:])
        return (flat[index] for index in indices)


class _Encoded:
    """Images that are encoded files."""

    is_sequential = False

    def __init__(self, files: Sequence[bytes]) -> None:
        self._files, self.n_bytes = files, max(map(len, files))

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: Iterable[int]) -> Iterator[bytes]:
        return (self._files[index] for index in indices)


def as_image(item: AnyArray) -> Images:
    """Return an image as uint8 (H, W, 3) or (H, W), from that, (H, W, 1), (3, H, W), (1, H, W), or (3*S*S,) as CIFAR's.

    Raises:
        ValueError: another shape.
    """
    if item.ndim == 1 and (side := math.isqrt(len(item) // 3)) and 3 * side**2 == len(item):
        item = item.reshape(3, side, side)
    if item.ndim == 3 and item.shape[-1] not in (1, 3) and item.shape[0] in (1, 3):
        item = item.transpose(1, 2, 0)
    if item.ndim == 3 and item.shape[-1] == 1:
        item = item[..., 0]
    is_grey = item.ndim == 2 and item.shape[1] > 3
    if not item.size or not (is_grey or (item.ndim == 3 and item.shape[2] == 3)):
        raise ValueError(f"an image of shape {item.shape}")
    return item


def find_images(path: Path, values: Mapping[str, object], split: Split | None) -> list[ArrayImages]:
    """Return the images of each split in the values of a file; none if no value has a name of `IMAGES`.

    Args:
        path: the file, for errors.
        values: arrays (`PickledArray` or `LazyArray`), dicts, lists and plain values, by name.
        split: that of the file's name.

    Raises:
        DataError: the values have no known form.
    """
    by_split: defaultdict[str, dict[str, object]] = defaultdict(dict)
    for name, value in values.items():
        found = _NAME.fullmatch(name.replace("valid", "val").lower())
        part = found and (found["before"] or found["after"])
        by_split[part or ""][found["base"] if found and part else name] = value
    common = by_split.pop("", {})
    if not any(name in IMAGES for inner in by_split.values() for name in inner):
        by_split = defaultdict(dict, {"": dict(values)})
    known: dict[str, Split] = {name: name for name in SPLITS}
    parts = [(known.get(name, split), common | inner) for name, inner in sorted(by_split.items())]
    return [_find(path, inner, part) for part, inner in parts if any(name in IMAGES for name in inner)]


def _find(path: Path, values: Mapping[str, object], split: Split | None) -> ArrayImages:
    name = next(name for name in IMAGES if name in values)
    label = next((each for each in LABELS if each in values), None)
    if "class_dict" not in values and label is None:
        if not _is_by_class(values[name]):
            raise not_images(path, dict(values) if len(values) > 1 else values[name])
        rows, per_class = _rows(path, name, values[name], by_class=True)
        order = np.arange(len(rows)).reshape(-1, per_class)
        classes = [(f"class{number:04d}", indices) for number, indices in enumerate(order)]
    else:
        rows, _ = _rows(path, name, values[name], by_class=False)
        if label is None:
            given = _mapping(path, values, "class_dict")
            classes = [(text(each), _integers(path, "class_dict", value)) for each, value in given.items()]
        else:
            classes = _classes_by_label(path, values, label, len(rows), split)
    _check_classes(path, classes, len(rows))
    return ArrayImages(split, rows, dict(sorted(classes, key=itemgetter(0))))


def _rows(path: Path, name: str, value: object, *, by_class: bool) -> tuple[Rows, int]:
    """Return the images, and how many each class has if they are by class, else 0."""
    if isinstance(value, list | tuple):
        encoded = [content for item in value if (content := _encoded(item)) is not None]
        if encoded and len(encoded) == len(value):
            return _Encoded(encoded), 0
        parts = [as_array(item) for item in value]
        if not parts or any(part.shape != parts[0].shape or part.dtype != np.uint8 for part in parts):
            items = counted(len(parts), "item")
            raise malformed(path, f"{name} is a list of {items} that are not uint8 images of one size")
        value = PickledArray(np.stack(parts))
    array: LazyArray = value if hasattr(value, "load") else InMemory(as_array(value))  # type: ignore[assignment]
    n_axes, shape = 2 if by_class else 1, array.shape
    try:
        if array.dtype != np.uint8 or 0 in shape or len(shape) <= n_axes:
            raise ValueError(shape)
        as_image(np.broadcast_to(np.uint8(0), shape[n_axes:]))
    except ValueError:
        expected = "not uint8 (n, height, width, 3)"
        raise malformed(path, f"{name} is {array.dtype} of shape {shape}, {expected}") from None
    return _Array(array, n_axes), shape[1] if by_class else 0


def _is_by_class(value: object) -> bool:
    """Return whether an array is (classes, n, height, width) or (classes, n, height, width, channels).

    (n, 1 or 3, height, width) are images with their channels first.
    """
    shape: tuple[int, ...] = getattr(value.value if isinstance(value, PickledArray) else value, "shape", ())
    return len(shape) == 5 or (len(shape) == 4 and not {1, 3} & {shape[1], shape[-1]})


def _encoded(item: object) -> bytes | None:
    """Return the content of an encoded image: bytes, or an array of bytes."""
    array = as_array(item)
    if array.dtype == np.uint8 and array.ndim == 1 and array.size:
        return array.tobytes()
    return bytes(item) if isinstance(item, bytes | bytearray) and item else None


def _classes_by_label(
    path: Path, values: Mapping[str, object], label: str, n_images: int, split: Split | None
) -> list[tuple[str, Indices]]:
    labels = _labels(path, label, values[label])
    if len(labels) != n_images:
        raise malformed(path, f"{counted(len(labels), 'label')} for {counted(n_images, 'image')}")
    if labels.dtype.kind == "U":
        return [(name, np.flatnonzero(labels == name)) for name in np.unique(labels).tolist()]
    found = np.unique(labels).tolist()
    names = _class_names(path, values)
    if names and (unnamed := [number for number in found if number not in names]):
        raise malformed(path, f"label {unnamed[0]} has no name")
    # Each file may count its labels from 0, although two splits never share a class.
    prefix = f"{split}-" if split else ""
    return [(names.get(i, f"{prefix}class{i:03d}"), np.flatnonzero(labels == i)) for i in found]


def _class_names(path: Path, values: Mapping[str, object]) -> dict[int, str]:
    """Return the name of each label; empty if the values have no names."""
    name = next((name for name in NAMES if values.get(name)), None)
    if name is None:
        return {}
    given = values[name]
    if isinstance(given, dict):
        return dict(zip(_integers(path, name, [*given.values()]).tolist(), map(text, given), strict=True))
    listed = given if isinstance(given, list | tuple) else as_array(given).tolist()
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str | bytes) for each in listed):
        raise malformed(path, f"{name} is {describe(given)}, not a dict or a list of names")
    return dict(enumerate(distinct_names([*map(text, listed)])))


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return the names of labels; two labels with one name, such as the crane and the bird, get their numbers."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def _check_classes(path: Path, classes: Sequence[tuple[str, Indices]], n_images: int) -> None:
    if not classes:
        raise malformed(path, "no classes")
    names = Counter(name for name, _ in classes)
    for name, indices in classes:
        if names[name] > 1:
            raise malformed(path, f"two classes are named `{name}`")
        if not len(indices):
            raise malformed(path, f"no image of class `{name}`")
        if indices.min() < 0 or indices.max() >= n_images:
            raise malformed(path, f"class `{name}` has an index outside the {counted(n_images, 'image')}")
    together = np.concatenate([indices for _, indices in classes])
    if len(np.unique(together)) < len(together):
        raise malformed(path, "an image is listed twice")


def _labels(path: Path, name: str, value: object) -> AnyArray:
    """Return one label per image: int64, or text."""
    listed = value if isinstance(value, list | tuple) else as_array(value).reshape(-1).tolist()
    if listed and all(isinstance(each, str | bytes) for each in listed):
        return np.array([text(each) for each in listed])
    labels = _integers(path, name, listed)
    if len(labels) and labels.min() < 0:
        raise malformed(path, f"{name} contains {labels.min()}, which is the label of no class")
    return labels


def _integers(path: Path, name: str, value: object) -> Indices:
    numbers = value if isinstance(value, list | tuple) else as_array(value).tolist()
    # tolist() of an array of shape () returns a number.
    if not isinstance(numbers, list | tuple) or not all(type(number) is int for number in numbers):
        kinds = f": {type(numbers[0]).__name__}" if isinstance(numbers, list | tuple) and numbers else ""
        raise malformed(path, f"{name} contains values that are not integers{kinds}")
    try:
        return np.array(numbers, dtype=np.int64).reshape(-1)
    except OverflowError:
        raise malformed(path, f"{name} contains a number beyond 64 bits") from None


def as_array(value: object) -> AnyArray:
    """Return the array, or an empty one for any other value."""
    if isinstance(value, PickledArray):
        return np.empty(0) if value.value is None else value.value
    load: Callable[[], AnyArray] | None = getattr(value, "load", None)
    return load() if load else np.empty(0)


def _mapping(path: Path, values: Mapping[str, object], name: str) -> dict[object, Any]:
    value = values[name]
    if not isinstance(value, dict):
        raise malformed(path, f"{name} is {describe(value)}, not a dict")
    return value


def text(key: object) -> str:
    """Return a name, whatever its type."""
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)


def describe(value: object) -> str:
    """Return what a value is, for errors."""
    if isinstance(value, dict):
        return f"a dict of {', '.join(sorted(text(key)[:40] for key in value)[:5]) or 'nothing'}"
    return "an array" if isinstance(value, PickledArray) or hasattr(value, "load") else f"a {type(value).__name__}"


def not_images(path: Path, content: object) -> DataError:
    """Return the error for a file of arrays without images or labels."""
    return DataError(f"`{path}` contains {describe(content)}, not images with labels", hint=_FORMS)


def malformed(path: Path, what: str) -> DataError:
    """Return the error for a file of arrays in another form."""
    return DataError(f"`{path}` has no images in a known form: {what}", hint=_FORMS)
