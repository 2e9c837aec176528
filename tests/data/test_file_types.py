import pytest

from nilr.data.file_types import describe_content


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n\x02", "an HDF5 file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"\x28\xb5\x2f\xfd\x04", "a Zstandard file"),
        (b"\x04\x22\x4d\x18d", "an LZ4 file"),
        (b"PK\x07\x08PK\x03\x04", "a part of a split zip archive"),
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB file"),
        # The first record of a TensorBoard file; TensorFlow wrote it.
        (b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\x09", "a TFRecord file"),
        (b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x23\x09", "a file of unknown type"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x20ftypavif", "an AVIF image"),
        (b"\0\0\0\x20ftypisom", "a file of unknown type"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a file of unknown type"),
        (b"BM\x46\0\0\0\0\0\0\0\x36", "a BMP image"),
        (b"BMW and other cars", "a text file"),
        (b"II*\0\x08", "a TIFF image"),
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
