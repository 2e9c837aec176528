"""The pickles in which Mini-ImageNet went round, read without unpickling.

`mini-imagenet-cache-{train,val,test}.pkl` (Ren et al., Meta-Learning for Semi-Supervised Few-Shot Classification,
2018): a dict of `image_data`, uint8 (n, 84, 84, 3), and `class_dict`, from class name to indices.

`miniImageNet_category_split_{train_phase_train,val,test}.pickle` (Gidaris and Komodakis, Dynamic Few-Shot Visual
Learning without Forgetting, 2018): a dict of `data`, uint8 (n, 84, 84, 3), and `labels`, sometimes also
`catname2label`. Its `train_phase_val` and `train_phase_test` are further images of the 64 training classes, which no
split of Mini-ImageNet holds; they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nilr.config import SPLITS, Split
from nilr.data.digests import Images
from nilr.data.unpickling import PickledArray, load_plain
from nilr.errors import DataError


@dataclass(frozen=True)
class PickleImages:
    """The images of one pickle.

    Attributes:
        split_hint: the split that the file's name says, if it does.
        classes: for each class name its images, uint8 (n, H, W, 3), in the pickle's order.
    """

    split_hint: Split | None
    classes: dict[str, Images]


def read_pickle_arrays(path: Path, content: bytes | None = None) -> PickleImages:
    """Read the images of a Mini-ImageNet pickle.

    The whole file is held in memory; where a class's images stand in a row, they are views of it.

    Args:
        path: the pickle; with `content` only its name.
        content: its bytes, where it lies in an archive.

    Raises:
        DataError: not a pickle, or truncated, damaged, dangerous, or not of these two forms; it says which.
        StoreError: it cannot be read.
    """
    if phase := re.search(r"train_phase_(val|test)", path.name):
        raise DataError(
            f"`{path}` holds further images of the training classes, which no split of Mini-ImageNet has",
            hint=f"leave the {phase[0]} file out; train_phase_train is the train split",
        )
    held = load_plain(path, content)
    fields = {_name(key): value for key, value in held.items()} if isinstance(held, dict) else {}
    if {"image_data", "class_dict"} <= fields.keys():
        images = _images(path, "image_data", fields["image_data"])
        indices = _mapping(path, fields, "class_dict")
        members = _named(path, ((_name(name), _integers(path, "class_dict", i)) for name, i in indices.items()))
    elif {"data", "labels"} <= fields.keys():
        images = _images(path, "data", fields["data"])
        members = _members_by_label(path, fields, len(images))
    else:
        raise DataError(
            f"`{path}` holds {_describe(held)}, not the images of a Mini-ImageNet pickle",
            hint="expected a dict of image_data and class_dict, or of data and labels",
        )
    _check_members(path, members, len(images))
    return PickleImages(_split_hint(path), {name: _take(images, members[name]) for name in sorted(members)})


def _members_by_label(path: Path, fields: Mapping[str, object], n_images: int) -> dict[str, npt.NDArray[np.int64]]:
    labels = _integers(path, "labels", fields["labels"])
    if len(labels) != n_images:
        raise _wrong(path, f"{len(labels)} labels for {n_images} images")
    names = {}
    if fields.get("catname2label"):
        named = _mapping(path, fields, "catname2label")
        names = dict(zip(_integers(path, "catname2label", [*named.values()]).tolist(), map(_name, named), strict=True))
    # Each file may count its labels from 0; the classes of two splits are never the same.
    prefix = f"{split}-" if (split := _split_hint(path)) else ""
    found = np.unique(labels).tolist()
    return _named(path, ((names.get(i, f"{prefix}class{i:03d}"), np.flatnonzero(labels == i)) for i in found))


def _named(path: Path, classes: Iterable[tuple[str, npt.NDArray[np.int64]]]) -> dict[str, npt.NDArray[np.int64]]:
    members: dict[str, npt.NDArray[np.int64]] = {}
    for name, indices in classes:
        if name in members:
            raise _wrong(path, f"two classes are named `{name}`")
        members[name] = indices
    return members


def _check_members(path: Path, members: Mapping[str, npt.NDArray[np.int64]], n_images: int) -> None:
    if not members:
        raise _wrong(path, "no classes")
    for name, indices in members.items():
        if not len(indices):
            raise _wrong(path, f"no image of class `{name}`")
        if indices.min() < 0 or indices.max() >= n_images:
            raise _wrong(path, f"class `{name}` has an index outside the {n_images} images")
    together = np.concatenate(list(members.values()))
    if len(np.unique(together)) < len(together):
        raise _wrong(path, "one image is in two classes, or twice in one")


def _images(path: Path, name: str, value: object) -> Images:
    if isinstance(value, list | tuple):
        parts = [_array(item) for item in value]
        if not parts or any(part.shape != parts[0].shape or part.dtype != np.uint8 for part in parts):
            raise _wrong(path, f"{name} is a list of {len(parts)} that are not uint8 images of one size")
        images = np.stack(parts)
    else:
        images = _array(value)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise _wrong(path, f"{name} is {images.dtype} of shape {images.shape}, not uint8 (n, height, width, 3)")
    return images


def _integers(path: Path, name: str, value: object) -> npt.NDArray[np.int64]:
    numbers = value if isinstance(value, list | tuple) else _array(value).tolist()
    # an array of shape () gives a number alone
    if not isinstance(numbers, list | tuple) or not all(type(number) is int for number in numbers):
        raise _wrong(path, f"{name} has something else than whole numbers")
    try:
        return np.array(numbers, dtype=np.int64).reshape(-1)
    except OverflowError:
        raise _wrong(path, f"{name} has a number beyond 64 bits") from None


def _array(value: object) -> npt.NDArray[Any]:
    """Return the array, or one of no elements for anything else."""
    array = value.value if isinstance(value, PickledArray) else None
    return np.empty(0) if array is None else array


def _mapping(path: Path, fields: Mapping[str, object], name: str) -> dict[object, Any]:
    value = fields[name]
    if not isinstance(value, dict):
        raise _wrong(path, f"{name} is {_describe(value)}, not a dict")
    return value


def _take(images: Images, indices: npt.NDArray[np.int64]) -> Images:
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


def _wrong(path: Path, what: str) -> DataError:
    return DataError(
        f"the pickle `{path}` is not of the published form: {what}", hint="docs/datasets.md says what is read"
    )
