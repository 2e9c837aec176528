"""Recognise a file by its first bytes, so that errors can say what it is."""

import codecs
from typing import Final

HEAD_SIZE: Final = 512

_MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"MATLAB ", "a MATLAB file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PK\x07\x08", "a part of a split zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x04\x22\x4d\x18", "an LZ4 file"),
    (b"LZIP", "an lzip file"),
    (b"\x1f\x9d", "a compress file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
# Of still images and their sequences.
_HEIF_BRANDS: Final = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def describe_content(head: bytes) -> str:
    """Return what a file is, such as "an HTML page", from its first `HEAD_SIZE` bytes."""
    if not head:
        return "an empty file"
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[:4] + head[8:12] == b"RIFFWEBP":
        return "a WebP image"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "a BMP image"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "an AVIF image" if head[8:11] == b"avi" else "a HEIC image"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if _is_tfrecord(head):
        return "a TFRecord file"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return "an HTML page"
    if text.startswith(b"<"):
        return "an XML or HTML page"
    if not any(head):
        return "only zero bytes"
    return "a text file" if _is_text(head) else "a file of unknown type"


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def _is_tfrecord(head: bytes) -> bool:
    """Return whether the file begins with the length of a record and the masked CRC-32C of that length."""
    if len(head) < 12:
        return False
    crc = 2**32 - 1
    for byte in head[:8]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 2**32 - 1
    return int.from_bytes(head[8:12], "little") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
