"""Read pickles without unpickling: a small stack machine that builds only NumPy arrays and plain containers.

Python's own `pickle` imports and calls any function that the file names. A restricted `find_class` does not stop it
from allocating any amount of memory or from crashing on deeply nested keys. Here `pickletools` decodes the
instructions, nothing is imported or called by name, and a length beyond the end of the file allocates nothing.
"""

import io
import itertools
import math
import pickletools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.errors import DataError
from nilr.files import storage_error

_POSSIBLE_PICKLES: Final = ("a Python pickle", "a text file", "a file of unknown type")


def load_plain(path: Path, content: bytes | None = None) -> object:
    """Return the content of a pickle: dicts, lists, tuples, text, bytes, numbers and `PickledArray`s of numbers.

    Protocols 0 to 5 of Python 2 and 3 are supported. Strings of Python 2 are decoded as Latin-1.

    Args:
        path: the pickle, or only its name if `content` is given.
        content: its bytes, if it is inside an archive.

    Raises:
        DataError: not a pickle, truncated, damaged, or with any other content.
        StoreError: the file cannot be read.
    """
    try:
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            what = describe_content(file.read(HEAD_SIZE))
            if what not in _POSSIBLE_PICKLES:
                hint = "the download saved a web page; get the file itself" if "page" in what else None
                raise DataError(f"`{path}` is {what}, not a pickle", hint=hint)
            return Machine().run(BoundedFile(file))
    except OSError as error:
        raise storage_error(path, error, "read") from error
    except ForbiddenError as error:
        raise DataError(
            f"`{path}` contains `{error}`, but only NumPy arrays of numbers or text and plain containers are supported",
            hint="loading this pickle in Python could run code; do not load it unless you trust its source",
        ) from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError, RecursionError) as error:
        raise DataError(
            f"`{path}` is a truncated or damaged pickle, or not a pickle", hint="download the file again"
        ) from error


class ForbiddenError(Exception):
    """The pickle contains something other than arrays and plain containers."""


@dataclass
class _Dtype:
    """A dtype under construction: `dtype('u1', ...)`, then a state whose second item is the byte order."""

    value: np.dtype[Any]

    def build(self, state: Any) -> None:  # noqa: ANN401 - any content of the file
        order: Any = _text(state[1])
        self.value = self.value.newbyteorder(order)


@dataclass
class PickledArray:
    """An array in a pickle; `value` is None if the pickle never sets it."""

    value: npt.NDArray[Any] | None = None

    def build(self, state: Any) -> None:  # noqa: ANN401 - any content of the file
        """Set the value from NumPy's state of an array: version, shape, dtype, whether in Fortran order, bytes."""
        _, shape, dtype, fortran, raw = state
        self.value = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _dtype(name: str | bytes, *_: object) -> _Dtype:
    # Only numbers and text: an array of objects could contain anything.
    if not re.fullmatch(r"[biuf][1248]|[SU][1-9]\d{0,3}", _text(name)):
        raise ForbiddenError(f"an array of dtype {_text(name)}")
    return _Dtype(np.dtype(_text(name)))


def _from_bytes(raw: str | bytes, dtype: _Dtype, shape: tuple[int, ...], order: str = "C") -> npt.NDArray[Any]:
    content = raw.encode("latin-1") if isinstance(raw, str) else raw
    if math.prod(shape) * dtype.value.itemsize != len(content) or min(shape, default=0) < 0:
        raise ValueError(f"{len(content)} bytes for shape {shape}")
    return np.frombuffer(content, dtype.value).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ForbiddenError(f"_codecs.encode to {encoding}")
    return text.encode("latin-1")


_BUILDERS: Final[dict[str, Callable[..., object]]] = {
    "numpy.ndarray": lambda: None,
    "numpy.dtype": _dtype,
    "multiarray._reconstruct": lambda *_: PickledArray(),
    "multiarray.scalar": lambda dtype, raw: _from_bytes(raw, dtype, ()).item(),
    "numeric._frombuffer": lambda *args: PickledArray(_from_bytes(*args)),
    "_codecs.encode": _encode,
    "collections.OrderedDict": lambda items=(): dict(_plain_keys(items)),
    "collections.defaultdict": lambda *_: {},
    "builtins.list": lambda *_: [],
}


@dataclass(frozen=True)
class _Builder:
    """A callable of `_BUILDERS` on the stack; nothing else can be called."""

    name: str


def _builder(module: str, name: str) -> _Builder:
    short = re.sub(r"^numpy\._?core\.(multiarray|numeric)$", r"\1", module).replace("__builtin__", "builtins")
    if f"{short}.{name}" not in _BUILDERS:
        raise ForbiddenError(f"{module}.{name}")
    return _Builder(f"{short}.{name}")


_LITERALS: Final = re.compile(
    r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?STRING|(SHORT_)?(BIN)?UNICODE8?|(SHORT_)?BINBYTES8?|BYTEARRAY8"
)
# Four per label of a million images; each may take 64 bytes of memory. A large file may have one per 256 of its bytes.
_MAX_OPERATIONS: Final = 2**22
_BYTES_PER_OPERATION: Final = 256
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Final[dict[str, Callable[[], object]]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class BoundedFile:
    """Reads a file, and allocates no memory beyond its end. It is not mapped: a mapped file that shrinks kills nilr."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.readline, self.tell = file.readline, file.tell

    def read(self, n: int) -> bytes:
        """Return at most `n` bytes."""
        return self._file.read(n if n < io.DEFAULT_BUFFER_SIZE else min(n, self.size - self._file.tell()))


class Machine:
    """Runs the instructions of one pickle.

    Attributes:
        stack: the values above the last mark.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: BoundedFile) -> object:
        """Run the pickle that begins at the file's position, and return its value."""
        operations = pickletools.genops(file)  # type: ignore[arg-type]  # it has the methods that genops uses
        limit = max(_MAX_OPERATIONS, file.size // _BYTES_PER_OPERATION)
        for n, (opcode, arg, _) in enumerate(operations):
            if n == limit:
                raise ForbiddenError(f"more than {n:,} instructions")
            name = opcode.name
            if name == "STOP":
                return _plain(self.stack.pop())
            if _LITERALS.fullmatch(name):
                self.stack.append(arg)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                self.stack.append(tuple(self.pop_last(_TUPLES[name])))
            elif name not in ("PROTO", "FRAME"):
                self.step(name, arg)
        raise ValueError

    def step(self, name: str, arg: Any) -> None:  # noqa: ANN401 - as the instruction has it
        """Run an instruction that is not only a value."""
        stack = self.stack
        match name:
            case "MARK":
                self._below.append(stack)
                self.stack = []
            case "TUPLE" | "LIST" | "DICT":
                items = self._pop_marked()
                self.stack.append(tuple(items) if name == "TUPLE" else items if name == "LIST" else _dict(items))
            case "APPEND" | "APPENDS":
                items = self.pop_last(1) if name == "APPEND" else self._pop_marked()
                list.extend(self.stack[-1], items)
            case "SETITEM" | "SETITEMS":
                items = self.pop_last(2) if name == "SETITEM" else self._pop_marked()
                dict.update(self.stack[-1], _dict(items))
            case "GLOBAL" | "INST":
                stack.append(_builder(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_builder(*self.pop_last(2)))
            case "REDUCE":
                target, args = self.pop_last(2)
                if not isinstance(target, _Builder):
                    raise TypeError("call of a value")
                stack.append(_BUILDERS[target.name](*args))
            case "BUILD":
                target, state = self.pop_last(2)
                if not isinstance(target, PickledArray | _Dtype):
                    raise TypeError("state of a value")
                target.build(state)
                stack.append(target)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[arg] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[arg])
            case _:
                raise ForbiddenError(f"the instruction {name}")

    def pop_last(self, n: int) -> list[Any]:
        """Remove the last values from the stack, and return them."""
        items = self.stack[-n:]
        if len(items) < n:
            raise ValueError("the stack is too short")
        del self.stack[-n:]
        return items

    def _pop_marked(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items


def _dict(items: list[Any]) -> dict[Any, Any]:
    return dict(_plain_keys(zip(items[::2], items[1::2], strict=True)))


def _plain_keys(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for key, value in items:
        if isinstance(key, tuple):  # Python crashes when it hashes deeply nested tuples
            raise TypeError("a tuple as key")
        if isinstance(key, int) and key.bit_length() > 64:  # Python cannot print a number of thousands of digits
            raise ValueError("a key beyond 64 bits")
        yield key, value


def _plain(value: object) -> object:
    """Return the value, after checking that it contains no unfinished part of an array."""
    seen, waiting = {id(value)}, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, _Builder | _Dtype):
            raise ForbiddenError(item.name if isinstance(item, _Builder) else "a dtype without an array")
        inside = itertools.chain(item, item.values()) if isinstance(item, dict) else item
        if isinstance(inside, list | tuple | itertools.chain):
            new = [each for each in inside if id(each) not in seen]
            seen.update(map(id, new))
            waiting += new
    return value
