"""Bodies from an import path, `PACKAGE.MODULE:FUNCTION`, of a function that returns a `torch.nn.Module`."""

import importlib
import inspect
import re
from collections.abc import Callable, Collection

import torch
from torch import nn

from nilr.errors import ModuleError, UsageError
from nilr.models.module_body import ModuleBody
from nilr.models.wrapping import wrap_module

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_PLACE = "if it is a file in the working directory, run `export PYTHONPATH=.` first"


def is_import_path(arch: str) -> bool:
    """Return whether an architecture's name is an import path."""
    return ":" in arch


def check_allowed(arch: str, allowed: Collection[str], where: str) -> None:
    """Check that the user gave the import path that a file contains; the name of a built-in body is always allowed.

    Args:
        arch: the architecture's name in the file.
        allowed: what the user gave.
        where: what has the architecture, for the error.

    Raises:
        ModuleError: the user did not give it.
    """
    if is_import_path(arch) and arch not in allowed:
        raise ModuleError(
            f"{where} has the body `{arch}`, and an import path in a file is not used unless it is given",
            hint=f"if you trust that code, add --arch {arch}" if _PATH.fullmatch(arch) else "train it again",
        )


def build_imported(arch: str, *, image_size: int, channels: int = 3, seed: int = 0) -> tuple[ModuleBody, int]:
    """Import a function, call it, and return its module as a body with D, the length of a feature vector.

    The function gets the keywords `image_size` and `channels` if it has them. torch's random numbers start at `seed`,
    and afterwards are as before.

    Raises:
        UsageError: the path is invalid.
        ModuleError: the import or the function fails, or what it returns cannot be a body.
    """
    make = _find(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            taken = inspect.signature(make).parameters
            given = {"image_size": image_size, "channels": channels}
            module = make(**{name: value for name, value in given.items() if name in taken})
        except (Exception, SystemExit) as error:
            raise _failed(f"`{arch}` fails when it is called", error, "call it in Python to see where") from error
        if not isinstance(module, nn.Module):
            hint = "return a torch.nn.Module that maps images to features"
            raise ModuleError(f"`{arch}` returns a `{type(module).__name__}`, not a torch.nn.Module", hint=hint)
        try:
            return wrap_module(module, image_size=image_size, channels=channels)
        except ModuleError as error:
            raise ModuleError(f"`{arch}`: {error.message}", hint=error.hint) from error


def _find(arch: str) -> Callable[..., object]:
    if not _PATH.fullmatch(arch):
        raise UsageError(f"`{arch}` is not an import path", hint="write PACKAGE.MODULE:FUNCTION")
    name, _, attribute = arch.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            hint = f"install its package; {_PLACE}"
            raise ModuleError(f"`{arch}` cannot be imported: there is no module `{missing}`", hint=hint) from error
        raise _failed(f"importing `{name}` fails", error, f"install `{missing}`; {_PLACE}") from error
    except (Exception, SystemExit) as error:
        raise _failed(f"importing `{name}` fails", error, "import it in Python to see where") from error
    make: Callable[..., object] | None = getattr(module, attribute, None)
    if make is None:
        raise ModuleError(f"`{name}` has no `{attribute}`", hint=f"it is the file `{module.__file__}`")
    if isinstance(make, nn.Module) or not callable(make):
        kind = type(make).__name__
        raise ModuleError(f"`{arch}` is a `{kind}`, not a function", hint="give a function that returns a module")
    return make


def _failed(what: str, error: BaseException, hint: str) -> ModuleError:
    reason = (str(error).splitlines() or [""])[0]
    return ModuleError(f"{what}: {type(error).__name__}: {reason}", hint=hint)
