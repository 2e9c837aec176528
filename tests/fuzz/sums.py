"""HDF5's own checksums, so that a mutated pack comes past them to what lies behind.

Not those of heaps: on a damaged heap whose checksum is right HDF5 2.0.0 crashes, which no reader of its files prevents.
"""

from __future__ import annotations

import re
import struct

_WORD = 0xFFFFFFFF


def repaired(content: bytes) -> bytes:
    """Return the file with the right checksums on its superblock, object headers and their further blocks."""
    file = bytearray(content)
    if content[:8] == b"\x89HDF\r\n\x1a\n" and content[8:9] in (b"\x02", b"\x03") and len(content) > 12:
        _sign(file, 0, 12 + 4 * content[9])
    for start in _places(content, b"OHDR"):
        flags = content[start + 5] if start + 5 < len(content) else 0
        place = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        _sign(file, start, place + width + _number(content, place, width))
    for start in _places(content, b"OCHK"):
        said = content.find(struct.pack("<Q", start))  # the message that leads there: its place, then its length
        if said >= 0:
            _sign(file, start, start + _number(content, said + 8, 8) - 4)
    return bytes(file)


def _places(content: bytes, signature: bytes) -> list[int]:
    return [match.start() for match in re.finditer(signature, content)]


def _number(content: bytes, start: int, width: int) -> int:
    return int.from_bytes(content[start : start + width], "little")


def _sign(file: bytearray, start: int, end: int) -> None:
    if start <= end <= len(file) - 4:
        struct.pack_into("<I", file, end, lookup3(bytes(file[start:end])))


def lookup3(key: bytes) -> int:
    """Return Bob Jenkins's `hashlittle` with initial value 0, which HDF5 takes for its metadata."""
    a = b = c = (0xDEADBEEF + len(key)) & _WORD
    if not key:
        return c
    whole = (len(key) - 1) // 12 * 12
    for x, y, z in struct.iter_unpack("<III", key[:whole]):
        a, b, c = _mix((a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD)
    x, y, z = struct.unpack("<III", key[whole:].ljust(12, b"\0"))
    return _final((a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD)


def _rotated(x: int, k: int) -> int:
    return (x << k | x >> (32 - k)) & _WORD


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for k in (4, 6, 8, 16, 19, 4):
        a = ((a - c) & _WORD) ^ _rotated(c, k)
        c = (c + b) & _WORD
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for k in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, k)) & _WORD
        a, b, c = b, c, a
    return b
