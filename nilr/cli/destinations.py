"""Check the files that options of every command write, before the work."""

import os
from collections.abc import Iterable
from pathlib import Path

from nilr.errors import StoreError
from nilr.files import check_output, expand_home, storage_error

STANDARD_OUTPUT = ("-", "/dev/stdout")


def checked_destination(file: str, flag: str, *, others: Iterable[str | None] = (), regular: bool = False) -> str:
    """Return the file of a flag, with the home directory for `~`, after checking that it can be written.

    Args:
        file: what the flag gives.
        flag: for the error.
        others: the files of other flags, which must be different ones.
        regular: whether it must be a regular file: no pipe, no device, and not standard output.

    Raises:
        StoreError: it cannot be written.
    """
    if file in STANDARD_OUTPUT and not regular:
        return file
    file = expand_home(file)
    path, problem = Path(file), None
    try:
        is_special = file in STANDARD_OUTPUT or (path.exists() and not path.is_file() and not path.is_dir())
        same = os.path.realpath(file) in [os.path.realpath(expand_home(other)) for other in others if other]
    except OSError as error:
        raise storage_error(path, error) from error
    if not file or file.endswith("/"):
        problem = "it is not a file"
    elif regular and is_special:
        problem = "it is not a regular file"
    elif same and not is_special:
        problem = "another option writes it"
    if problem is not None:
        raise StoreError(f"cannot write `{file}`: {problem}", hint=f"give {flag} the name of another file")
    check_output(path, flag)
    return file
