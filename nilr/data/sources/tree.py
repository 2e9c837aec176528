"""Decide from the folders of all sources which of them are splits, and which are classes.

A folder that contains images is a class. Folders beside each other are splits if one of them has the plain name of a
split and contains folders of images, or if all of them have names of splits and contain folders of images. A class may
therefore be called `train`.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nilr.config.base import Split
from nilr.data.sources.members import Member
from nilr.errors import DataError

# Images by class and split.
Classes = dict[str, dict[Split | None, list[Member]]]

_PLAIN: Final[Mapping[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Words that mean a split only beside other splits.
_WORDS: Final[Mapping[str, Split]] = {**_PLAIN, "base": "train", "dev": "val", "novel": "test"}
_SPLIT_NAME: Final = re.compile(
    rf"(?P<before>.*[\W_]|meta)?(?P<word>{'|'.join(_WORDS)})"
    r"(?P<after>[\W_]*(?:set|images?|imgs?|data|split|classes)|[ _-]?\d+)?"
    r"(?:\.tar)?(?:[ _-]+copy)?(?: ?\(\d+\))?",  # the name of a second copy, such as `train (1)`
    re.IGNORECASE,
)
_NOT_CLASSES: Final = frozenset({"images", "image", "imgs", "img", "jpeg", "jpg", "data"})
_MAX_DEPTH: Final = 100
_FEW: Final = 2  # as many images may lie outside the class folders by mistake
_FAR_MORE: Final = 3  # times as many images in a folder as below it make it a class
_SYNSET: Final = re.compile(r"n\d{8}")
_SYNSET_FILE: Final = re.compile(r"(n\d{8})(?:_\d+|\d{8})\.")


def split_named(name: str) -> Split | None:
    """Return the split that the name of a folder beside other splits means, such as `val (1)`, `dev` or `birds_val`."""
    found = _SPLIT_NAME.fullmatch(name)
    if found is None:
        return None
    split = _WORDS[found["word"].lower()]
    before = {_WORDS.get(word, split) for word in re.split(r"[\W_]+", (found["before"] or "").lower())}
    return split if before == {split} else None


def _word(name: str) -> str | None:
    """Return the word of a split that is the whole name, apart from marks of a copy; None for other names."""
    found = _SPLIT_NAME.fullmatch(name)
    return found["word"].lower() if found and not found["before"] and not found["after"] else None


def _is_no_class(name: str) -> bool:
    return _word(name) is not None or name.lower() in _NOT_CLASSES


class ClassFolder(NamedTuple):
    """The images of one class in one folder."""

    images: list[Member]
    split: Split | None
    key: tuple[str, ...]  # the folders between the split, or else the source, and the images
    path: str


@dataclass
class Tree:
    """What the folders of all sources mean."""

    is_flat: bool  # whether the classes are in the names of the files, as in `n0153282900000001.jpg`
    classes: list[ClassFolder] = field(default_factory=list)
    strays: list[Member] = field(default_factory=list)  # images beside folders of images
    unsorted: dict[str, int] = field(default_factory=dict)  # images in each split that has no class folders
    read_as: dict[str, Split] = field(default_factory=dict)  # folders read as a split without its plain name

    def sides(self) -> tuple[list[str], list[str]]:
        """Return the outermost folders that belong to a split, and those that do not."""
        paths: tuple[set[str], set[str]] = set(), set()
        for folder in self.classes:
            paths[folder.split is None].update(itertools.accumulate(folder.path.split("/"), "{}/{}".format))
        return _outermost(paths[0] - paths[1]), _outermost(paths[1] - paths[0])

    def by_name(self) -> Classes:
        """Return the images by class and split. A class is named by as few of its last folders as tell classes apart.

        Raises:
            DataError: it is unclear whether folders are one class.
        """
        found: defaultdict[tuple[str, ...], dict[Split | None, ClassFolder]] = defaultdict(dict)
        named: dict[str, ClassFolder] = {}
        for folder in self.classes:
            other, name = found[folder.key].setdefault(folder.split, folder), folder.key[-1]
            if _SYNSET.fullmatch(name):
                other.images.extend(folder.images if other is not folder else ())
            elif other is not folder or len({id(image.reader) for image in folder.images}) > 1:
                again = f"`{folder.path}`" + (" of another source" if other is folder else "")
                raise DataError(
                    f"it is unclear whether `{other.path}` and {again} are one class",
                    hint="move the images of one class into one folder, and give different classes different names",
                )
            elif _is_no_class(name) and named.setdefault(name, folder).key != folder.key:
                raise DataError(
                    f"it is unclear whether `{named[name].path}` and `{folder.path}` are classes or parts of classes",
                    hint="move all images of a class into one folder",
                )
        depth = next(n for n in itertools.count(1) if len({key[-n:] for key in found}) == len(found))
        return {"/".join(key[-depth:]): {s: f.images for s, f in parts.items()} for key, parts in found.items()}


def read_tree(images: Iterable[Member]) -> Tree:
    """Return what the folders of all sources mean; DataError if they are nested too deep."""
    by_folder = _by_folder(images)
    synsets = _by_synset(by_folder)
    root = _grow(synsets or by_folder)
    tree = Tree(is_flat=synsets is not None)
    _walk(tree, root, None, None)
    _find_unsorted(tree)
    return tree


def read_class_names(images: Iterable[Member]) -> dict[Member, str]:
    """Return the class of each image in a class folder, without regard to splits.

    Raises:
        DataError: it is unclear which folders are classes, or they are nested too deep.
    """
    names: dict[Member, str] = {}

    def visit(folder: _Folder) -> None:
        _check_depth(folder)
        for name, child in folder.folders.items():
            if child.is_class:
                names.update(dict.fromkeys([*child.images, *child.below()], name))
            else:
                visit(child)

    for source in _grow(_by_folder(images)).folders.values():
        visit(source)
    return names


def _by_folder(images: Iterable[Member]) -> dict[str, list[Member]]:
    by_folder: defaultdict[str, list[Member]] = defaultdict(list)
    for image in images:
        by_folder[image.path.rpartition("/")[0]].append(image)
    return by_folder


def _grow(by_folder: Mapping[str, list[Member]]) -> _Folder:
    """Return the folder that contains the sources, with images moved into their class folders."""
    root = _Folder("")
    for path, content in by_folder.items():
        if path.count("/") > _MAX_DEPTH:
            raise DataError(
                f"`{path[:60]}...` lies in more than {_MAX_DEPTH} folders", hint="nest the folders less deep"
            )
        folder = root
        for name in path.split("/"):
            folder = folder.folders.setdefault(name, _Folder(f"{folder.path}/{name}".removeprefix("/")))
        folder.images.extend(content)
    for name, source in root.folders.items():
        source.simplify()
        if list(source.folders) == [name] and not source.images:  # an archive of the folder of its name
            source.images, source.folders = source.folders[name].images, source.folders[name].folders
    return root


def _by_synset(by_folder: Mapping[str, list[Member]]) -> dict[str, list[Member]] | None:
    """Return the images by folder and synset in the file name; None if the folders are the classes."""
    found: defaultdict[str, list[Member]] = defaultdict(list)
    for path, images in by_folder.items():
        for image in images:
            if not (synset := _SYNSET_FILE.match(image.filename)):
                return None
            found[f"{path}/{synset[1]}"].append(image)
    return found if len({path.rpartition("/")[2] for path in found}) > len(by_folder) else None


@dataclass
class _Folder:
    path: str
    images: list[Member] = field(default_factory=list)
    folders: dict[str, _Folder] = field(default_factory=dict)

    @property
    def is_divided(self) -> bool:
        """Whether it contains nothing but folders of images that are named like splits."""
        return bool(self.folders) and all(_word(n) and not f.folders for n, f in self.folders.items())

    @property
    def is_class(self) -> bool:
        """Whether it contains images directly, or divided between several splits."""
        return not self.folders or (self.is_divided and len(self.folders) > 1)

    def simplify(self) -> None:
        """Move the images of subfolders into the class folder that contains them."""
        for folder in self.folders.values():
            folder.simplify()
        leaves = [name for name, folder in self.folders.items() if not folder.folders]
        if len(self.folders) == len(leaves) == 1 and leaves[0].lower() in _NOT_CLASSES:
            self._absorb()
        elif leaves:
            for folder in self.folders.values():
                if folder.folders and len(folder.images) > max(_FEW, _FAR_MORE * len(folder.below())):
                    folder._absorb()

    def below(self) -> list[Member]:
        """Return the images of all subfolders."""
        return [image for folder in self.folders.values() for image in [*folder.images, *folder.below()]]

    def _absorb(self) -> None:
        self.images, self.folders = [*self.images, *self.below()], {}


def _walk(tree: Tree, folder: _Folder, split: Split | None, key: tuple[str, ...] | None) -> None:
    """Add the content of a folder to the tree; `key` is None above the sources."""
    tree.strays += folder.images
    splits = _split_set(folder)
    if key is not None and splits is None:
        _check_depth(folder)
    if splits is None and split is None and folder.is_divided:
        tree.unsorted.update((child.path, len(child.images)) for child in folder.folders.values())
        return
    for name, child in folder.folders.items():
        is_split = splits is not None and name in splits
        of_child = split if splits is None else splits.get(name)
        outer = key or () if splits is None else ()
        own = (name,) if _SYNSET.fullmatch(name) else (*outer, name)
        if splits is not None and is_split and _word(name) not in _PLAIN:
            tree.read_as[child.path] = splits[name]
        if not child.folders and is_split:
            tree.unsorted[child.path] = len(child.images)
        elif not child.folders:
            tree.classes.append(ClassFolder(child.images, of_child, own, child.path))
        elif not is_split and len(folder.folders) > 1 and (child.is_class or (child.is_divided and of_child is None)):
            tree.strays += child.images
            parts: defaultdict[Split | None, list[Member]] = defaultdict(list)
            for part, content in child.folders.items():
                parts[of_child or split_named(part)] += content.images
            tree.classes += (ClassFolder(images, part, own, child.path) for part, images in parts.items())
        else:
            is_outer = key is None or splits is not None or name.lower() in _NOT_CLASSES
            _walk(tree, child, of_child, outer if is_outer else own)


def _check_depth(folder: _Folder) -> None:
    """Raise DataError if it is unclear whether a folder beside classes is a class, or its subfolders are."""
    has_classes = any(child.is_class for child in folder.folders.values())
    for name, child in folder.folders.items():
        if (
            child.is_class
            or child.is_divided
            or name.lower() in _NOT_CLASSES
            or all(map(_SYNSET.fullmatch, child.folders))
        ):
            continue
        if has_classes or (len(child.images) > _FEW and len(child.below()) > _FEW):
            parts = ", ".join(f"`{part.path}`" for part in [*child.folders.values()][:3])
            raise DataError(
                f"it is unclear whether `{child.path}` is a class or its subfolders are: {parts}",
                hint="move all images of a class into one folder, and put the folders of all classes beside each other",
            )


def _split_set(folder: _Folder) -> dict[str, Split] | None:
    """Return the split of each subfolder that is named like one; None if the subfolders are not splits."""
    named = {name: split for name in folder.folders if (split := split_named(name))}
    groups = [name for name, child in folder.folders.items() if not child.is_class]
    if any(name in groups and _word(name) in _PLAIN for name in named):
        return named
    all_are_splits = len(named) == len(groups) == len(folder.folders) and len(set(named.values())) > 1
    return named if all_are_splits else None


def _find_unsorted(tree: Tree) -> None:
    """Find images that lie in one folder, or in folders named like their own split, as in `train/train/1.jpg`."""
    lone = len(tree.classes) == 1 and tree.classes[0].split is None and not _SYNSET.fullmatch(tree.classes[0].key[-1])
    if lone or all(folder.split and folder.split == _WORDS.get(_word(folder.key[-1]) or "") for folder in tree.classes):
        tree.unsorted.update((folder.path, len(folder.images)) for folder in tree.classes)
        tree.classes = []


def _outermost(paths: set[str]) -> list[str]:
    return sorted(path for path in paths if path.rpartition("/")[0] not in paths)
