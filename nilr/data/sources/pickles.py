"""Read the pickles in which Mini-ImageNet was published, without unpickling, as the folders of images they represent.

`mini-imagenet-cache-{train,val,test}.pkl` (Ren et al., Meta-Learning for Semi-Supervised Few-Shot Classification,
2018): a dict of `image_data`, uint8 (n, 84, 84, 3), and `class_dict`, from class name to indices.

`miniImageNet_category_split_{train_phase_train,val,test}.pickle` (Gidaris and Komodakis, Dynamic Few-Shot Visual
Learning without Forgetting, 2018): a dict of `data`, uint8 (n, 84, 84, 3), and `labels`, sometimes also
`catname2label`. Its `train_phase_val` and `train_phase_test` are further images of the 64 training classes, which
belong to no split of Mini-ImageNet; they are refused.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from nilr.config.base import SPLITS, Split
from nilr.data.digests import Images
from nilr.data.sources.members import Listing, Member, Payload, Unreadable
from nilr.data.sources.unpickling import PickledArray, load_plain
from nilr.errors import DataError
from nilr.words import counted

# The largest published pickle has 813 MB.
_MAX_BYTES: Final = 2**30
_FORMS: Final = "expected a dict of image_data and class_dict, or of data and labels, as Mini-ImageNet was published"

Indices = npt.NDArray[np.int64]


class PickleReader:
    """Reads a pickle of images; its image `i` of class `c` is listed as `<split>/<c>/<c>-<i>`.

    Args:
        path: the pickle, or only its name if `inside` is given.
        prefix: put before the path of each image.
        inside: the member of an archive that is the pickle.
    """

    kind = "pickle"

    def __init__(self, path: Path, prefix: str, inside: Member | None = None) -> None:
        self._path, self._prefix, self._inside = path, prefix, inside

    def list_into(self, listing: Listing) -> None:
        """Add every image to the listing."""
        pickled = self._read()
        prefix = f"{self._prefix}/{pickled.split_hint}" if pickled.split_hint else self._prefix
        names: dict[str, str] = {}
        for name, images in pickled.classes.items():
            folder = name.replace("/", "_")
            if (other := names.setdefault(folder, name)) != name:
                raise DataError(
                    f"`{self._path}` has classes {other!r} and {name!r}, which would get the same name",
                    hint="rename one of them",
                )
            for index, image in enumerate(images):
                path = f"{prefix}/{folder}/{folder}-{index:05d}"
                listing.images.append(Member(path, image.nbytes, self, (name, index)))

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some images, in the order given."""
        classes = self._read().classes
        for member in members:
            name, index = member.where
            if name not in classes or index >= len(classes[name]):
                raise DataError(f"`{self._path}` was changed while it was read", hint="run the command again")
            yield member, classes[name][index]

    def _read(self) -> "PickleImages":
        if self._inside is None:
            return read_pickle_arrays(self._path)
        if self._inside.size > _MAX_BYTES:
            raise DataError(
                f"`{self._path}` has {self._inside.size:,} bytes; a pickle in an archive may have {_MAX_BYTES:,}",
                hint="extract it from the archive, and give it directly",
            )
        _, content = next(iter(self._inside.reader.fetch([self._inside])))
        if not isinstance(content, bytes):
            reason = content.reason if isinstance(content, Unreadable) else "is not a file"
            raise DataError(f"`{self._path}` {reason}", hint="download the archive again")
        return read_pickle_arrays(self._path, content)


class PickleImages(NamedTuple):
    """The split in the file's name, if any, and for each class its images, uint8 (n, H, W, 3)."""

    split_hint: Split | None
    classes: dict[str, Images]


def read_pickle_arrays(path: Path, content: bytes | None = None) -> PickleImages:
    """Read the images of a Mini-ImageNet pickle.

    The whole file is held in memory; if a class's images are consecutive, they are views of it. Arguments and errors
    are those of `load_plain`; a pickle in another form is a DataError.
    """
    if phase := re.search(r"train_phase_(val|test)", path.name):
        raise DataError(
            f"`{path}` contains further images of the training classes, which belong to no split of Mini-ImageNet",
            hint=f"leave the {phase[0]} file out; train_phase_train is the train split",
        )
    loaded = load_plain(path, content)
    fields = {_name(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}
    if {"image_data", "class_dict"} <= fields.keys():
        images = _images(path, "image_data", fields["image_data"])
        indices = _mapping(path, fields, "class_dict")
        classes = [(_name(name), _integers(path, "class_dict", value)) for name, value in indices.items()]
    elif {"data", "labels"} <= fields.keys():
        images = _images(path, "data", fields["data"])
        classes = _classes_by_label(path, fields, len(images))
    else:
        raise DataError(
            f"`{path}` contains {_describe(loaded)}, not the images of a Mini-ImageNet pickle",
            hint=_FORMS,
        )
    _check_classes(path, classes, len(images))
    return PickleImages(_split_hint(path), {name: _take(images, i) for name, i in sorted(classes, key=itemgetter(0))})


def _classes_by_label(path: Path, fields: Mapping[str, object], n_images: int) -> list[tuple[str, Indices]]:
    labels = _integers(path, "labels", fields["labels"])
    if len(labels) != n_images:
        raise _malformed(path, f"{counted(len(labels), 'label')} for {counted(n_images, 'image')}")
    names = {}
    if fields.get("catname2label"):
        named = _mapping(path, fields, "catname2label")
        names = dict(zip(_integers(path, "catname2label", [*named.values()]).tolist(), map(_name, named), strict=True))
    # Each file may count its labels from 0, although two splits never share a class.
    prefix = f"{split}-" if (split := _split_hint(path)) else ""
    found = np.unique(labels).tolist()
    return [(names.get(i, f"{prefix}class{i:03d}"), np.flatnonzero(labels == i)) for i in found]


def _check_classes(path: Path, classes: Sequence[tuple[str, Indices]], n_images: int) -> None:
    if not classes:
        raise _malformed(path, "no classes")
    names = Counter(name for name, _ in classes)
    for name, indices in classes:
        if names[name] > 1:
            raise _malformed(path, f"two classes are named `{name}`")
        if not len(indices):
            raise _malformed(path, f"no image of class `{name}`")
        if indices.min() < 0 or indices.max() >= n_images:
            raise _malformed(path, f"class `{name}` has an index outside the {counted(n_images, 'image')}")
    together = np.concatenate([indices for _, indices in classes])
    if len(np.unique(together)) < len(together):
        raise _malformed(path, "an image is listed twice")


def _images(path: Path, name: str, value: object) -> Images:
    if isinstance(value, list | tuple):
        parts = [_array(item) for item in value]
        if not parts or any(part.shape != parts[0].shape or part.dtype != np.uint8 for part in parts):
            items = counted(len(parts), "item")
            raise _malformed(path, f"{name} is a list of {items} that are not uint8 images of one size")
        images = np.stack(parts)
    else:
        images = _array(value)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise _malformed(path, f"{name} is {images.dtype} of shape {images.shape}, not uint8 (n, height, width, 3)")
    return images


def _integers(path: Path, name: str, value: object) -> Indices:
    numbers = value if isinstance(value, list | tuple) else _array(value).tolist()
    # tolist() of an array of shape () returns a number.
    if not isinstance(numbers, list | tuple) or not all(type(number) is int for number in numbers):
        raise _malformed(path, f"{name} contains values that are not whole numbers")
    try:
        return np.array(numbers, dtype=np.int64).reshape(-1)
    except OverflowError:
        raise _malformed(path, f"{name} contains a number beyond 64 bits") from None


def _array(value: object) -> npt.NDArray[Any]:
    """Return the array, or an empty one for any other value."""
    array = value.value if isinstance(value, PickledArray) else None
    return np.empty(0) if array is None else array


def _mapping(path: Path, fields: Mapping[str, object], name: str) -> dict[object, Any]:
    value = fields[name]
    if not isinstance(value, dict):
        raise _malformed(path, f"{name} is {_describe(value)}, not a dict")
    return value


def _take(images: Images, indices: Indices) -> Images:
    start, stop = int(indices[0]), int(indices[0]) + len(indices)
    return images[start:stop] if np.array_equal(indices, np.arange(start, stop)) else images[indices]


def _split_hint(path: Path) -> Split | None:
    found = re.findall("|".join(SPLITS), path.stem)
    return next((split for split in SPLITS if found and found[-1] == split), None)


def _name(key: object) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)


def _describe(value: object) -> str:
    if isinstance(value, dict):
        return f"a dict of {', '.join(sorted(_name(key)[:40] for key in value)[:5]) or 'nothing'}"
    return "an array" if isinstance(value, PickledArray) else f"a {type(value).__name__}"


def _malformed(path: Path, what: str) -> DataError:
    return DataError(f"the pickle `{path}` is not in a published form: {what}", hint=_FORMS)
