"""Sort the images of a folder into classes by the list beside them, as Tiny-ImageNet has one for its validation images.

A row of `val_annotations.txt` is a file name, a class and a box, separated by tabs; the files lie in `images` beside
the list, or beside it directly.
"""

import posixpath
from typing import Final

from nilr.data.sources.members import MAX_NAME, Listing
from nilr.errors import DataError
from nilr.words import counted

_FORM: Final = "write a file name and a class in each line, separated by a tab"


def sort_annotated(listing: Listing) -> None:
    """Move the images that a list names into folders of their classes; the files themselves are not touched.

    Raises:
        DataError: a list is malformed, names a file twice, or names none of the images.
    """
    for path, content in listing.annotations.items():
        folder = posixpath.dirname(path)
        class_of = _read(path, content)
        places = {f"{folder}/{name}": each for name, each in class_of.items()}
        places |= {f"{folder}/images/{name}": each for name, each in class_of.items()}
        n_found = 0
        for i, image in enumerate(listing.images):
            if (name := places.get(image.path)) is not None:
                listing.images[i] = image._replace(path=f"{folder}/{name}/{image.filename}")
                n_found += 1
        if n_found != len(class_of) and any(image.path.startswith(f"{folder}/") for image in listing.images):
            missing = counted(len(class_of) - n_found, "image")
            raise DataError(f"the sources lack {missing} of `{path}`", hint="give the whole folder, or omit the list")


def _read(path: str, content: bytes) -> dict[str, str]:
    """Return the class of each file name."""
    try:
        rows = [line.split("\t") for line in content.decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` is not UTF-8 text", hint=_FORM) from error
    found: dict[str, str] = {}
    for row in rows:
        if len(row) < 2 or not all(_is_plain(part) for part in row[:2]):
            raise DataError(f"`{path}` has the invalid row {' '.join(row)[:80]!r}", hint=_FORM)
        if row[0] in found:
            raise DataError(f"`{path}` lists `{row[0]}` twice", hint="give each image one class")
        found[row[0]] = row[1]
    return found


def _is_plain(part: str) -> bool:
    return 0 < len(part) <= MAX_NAME and part not in (".", "..") and not set(part) & set("/\\\0")
