import pytest

from nilr.data.file_types import describe_content


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n\x02", "an HDF5 file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"x" * 257 + b"ustar\x0000", "a tar archive"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\xef\xbb\xbf\r\n<!doctype HTML>", "an HTML page"),
        (b"<HTML>", "an HTML page"),
        (b"<?xml version='1.0'?>", "an XML or HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (bytes(512), "only zero bytes"),
        ("naïve, label\n".encode(), "a text file"),
        ("é".encode() * 256 + b"\xc3", "a text file"),
        ("naïve".encode("latin-1") + b" and more", "a file of unknown type"),
        (b"\x01\x02", "a file of unknown type"),
    ],
)
def test_a_file_is_recognised_by_its_first_bytes(head: bytes, what: str) -> None:
    assert describe_content(head) == what
