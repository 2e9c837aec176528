from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from nilr.data.sources import decoding
from nilr.data.sources.decoding import decode_images
from nilr.data.sources.members import Payload, Unreadable

Pixels = npt.NDArray[np.uint8]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def random_pixels(height: int = 8, width: int = 8) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decoded(payload: Payload, size: int = 8) -> Pixels:
    images, reasons = decode_images([payload], size, "bilinear")
    assert reasons == [None]
    assert images.shape == (1, size, size, 3)
    return images[0]


def reason(payload: Payload) -> str:
    images, reasons = decode_images([payload], 8, "bilinear")
    assert not images.any()
    return reasons[0] or ""


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_an_image_of_the_pack_size_keeps_its_pixels(kind: str) -> None:
    pixels = random_pixels()
    assert np.array_equal(decoded(encoded(Image.fromarray(pixels), kind)), pixels)
    assert np.array_equal(decoded(pixels), pixels)


def test_a_jpeg_of_the_pack_size_is_not_resized() -> None:
    content = encoded(Image.fromarray(random_pixels()), "JPEG")
    assert np.array_equal(decoded(content), np.asarray(Image.open(io.BytesIO(content))))


def jpeg(**options: object) -> bytes:
    return encoded(Image.fromarray(random_pixels(16, 16)), "JPEG", quality=90, **options)


EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(
    "content",
    [
        jpeg(),
        jpeg(subsampling=0),
        jpeg(progressive=True, optimize=True),
        jpeg(restart_marker_rows=1),
        jpeg(comment=b"seen"),
        jpeg(icc_profile=b"profile" * 10),
        jpeg(exif=EXIF),
        jpeg() + b"and more",
        encoded(Image.fromarray(random_pixels(16, 16)[..., 0]), "JPEG"),
        encoded(Image.fromarray(random_pixels(16, 8)), "JPEG"),
        encoded(Image.fromarray(random_pixels(16, 16)).convert("CMYK"), "JPEG"),
        jpeg().replace(b"\xff\xdb", b"\xff\xff\xdb", 1),
        jpeg()[:20] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\0" + jpeg()[20:],
    ],
)
def test_every_kind_of_jpeg_is_decoded_as_by_pillow(content: bytes) -> None:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    expected = image if image.size == (16, 16) else image.resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(decoded(content, 16), np.asarray(expected))


with_the_fast_decoder = pytest.mark.skipif(decoding.decode_jpeg is None, reason="simplejpeg is not installed")


@with_the_fast_decoder
def test_without_the_fast_decoder_pillow_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = decoded(jpeg(), 16)
    monkeypatch.setattr(decoding, "decode_jpeg", None)
    assert np.array_equal(decoded(jpeg(), 16), fast)


@with_the_fast_decoder
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_fast_decoder_gives_the_pixels_of_pillow(subsampling: int, progressive: bool) -> None:
    photo = Image.fromarray(random_pixels(11, 13)).resize((84, 84), Image.Resampling.BICUBIC)
    content = encoded(photo, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    place = np.zeros((84, 84, 3), np.uint8)
    assert decoding._decode_plain_jpeg(content, place)
    assert np.array_equal(place, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("cut", [3, 21, 100, 160, 300, 620, -30])
def test_a_jpeg_cut_short_is_refused_as_pillow_refuses_it(cut: int) -> None:
    images, reasons = decode_images([jpeg()[:cut]], 16, "bilinear")
    assert reasons[0]
    assert not images.any()


def test_a_jpeg_with_a_second_frame_of_another_size_is_not_decoded_at_the_first_ones_size() -> None:
    small, large = jpeg(), encoded(Image.fromarray(random_pixels(64, 64)), "JPEG")
    at = large.index(b"\xff\xc0")
    frame = small[small.index(b"\xff\xc0") :][:19]
    for content in (large[:at] + frame + large[at:], large[: at + 19] + frame + large[at + 19 :]):
        assert decode_images([content], 16, "bilinear")[1] != [None]


def test_a_damaged_jpeg_is_refused_or_decoded_as_by_pillow() -> None:
    rng, original = np.random.default_rng(0), jpeg(progressive=True)
    for _ in range(500):
        content = bytearray(original)
        for at in rng.integers(0, len(content), rng.integers(1, 4)):
            content[at] = rng.integers(256)
        images, reasons = decode_images([bytes(content)], 16, "bilinear")
        try:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
        except Exception:
            assert reasons != [None]
            continue
        if image.size == (16, 16) and reasons == [None]:
            assert np.array_equal(images[0], np.asarray(image))


def test_a_broken_image_does_not_shift_the_others() -> None:
    pixels = random_pixels()
    images, reasons = decode_images([pixels, b"no image", pixels[::-1]], 8, "bilinear")
    assert [bool(reason) for reason in reasons] == [False, True, False]
    assert np.array_equal(images[0], pixels)
    assert np.array_equal(images[2], pixels[::-1])


def test_an_oblong_image_is_resized_without_cropping() -> None:
    # Left half red, right half blue: a crop to the centre would lose nothing of that, but a crop to a side would.
    image = Image.new("RGB", (64, 16), "red")
    image.paste("blue", (32, 0, 64, 16))
    small = decoded(encoded(image, "PNG"))
    assert small[:, 0].tolist() == [[255, 0, 0]] * 8
    assert small[:, 7].tolist() == [[0, 0, 255]] * 8
    assert small[:, 3, 0].min() > 128


@pytest.mark.parametrize("upright", [False, True])
def test_an_oblong_image_is_cropped_to_its_centre_or_padded_with_black(upright: bool) -> None:
    pixels = random_pixels(16, 32)
    cropped, padded = pixels[:, 8:24], np.zeros((32, 32, 3), np.uint8)
    padded[8:24] = pixels
    if upright:
        pixels, cropped, padded = (array.swapaxes(0, 1) for array in (pixels, cropped, padded))
    content = encoded(Image.fromarray(np.ascontiguousarray(pixels)), "PNG")
    assert np.array_equal(decode_images([content], 16, "bilinear", "crop")[0][0], cropped)
    assert np.array_equal(decode_images([content], 32, "bilinear", "pad")[0][0], padded)
    halved = Image.fromarray(np.ascontiguousarray(padded)).resize((16, 16), Image.Resampling.BOX)
    assert np.array_equal(decode_images([content], 16, "box", "pad")[0][0], np.asarray(halved))


@pytest.mark.parametrize("size", [(1000, 30), (30, 1000), (2000, 1)])
def test_one_row_or_column_of_a_very_narrow_image_remains_when_it_is_padded(size: tuple[int, int]) -> None:
    images, reasons = decode_images([encoded(Image.new("RGB", size, "red"), "PNG")], 16, "bilinear", "pad")
    rows = images[0] if size[0] > size[1] else images[0].swapaxes(0, 1)
    assert reasons == [None]
    assert [(row == (255, 0, 0)).all() for row in rows].count(True) == 1
    assert (rows.any((1, 2))).sum() == 1


def test_resampling_follows_the_filter() -> None:
    content = encoded(Image.fromarray(random_pixels(16, 16)), "PNG")
    for name in ("bilinear", "nearest", "lanczos"):
        expected = Image.fromarray(random_pixels(16, 16)).resize((8, 8), Image.Resampling[name.upper()])
        assert np.array_equal(decode_images([content], 8, name)[0][0], np.asarray(expected))  # type: ignore[arg-type]


def test_grey_palette_and_two_level_images_become_rgb() -> None:
    grey = Image.fromarray(random_pixels()[:, :, 0])
    assert np.array_equal(decoded(encoded(grey, "PNG")), np.asarray(grey.convert("RGB")))
    palette = Image.fromarray(random_pixels()).quantize(7)
    assert np.array_equal(decoded(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    two = grey.convert("1")
    assert np.array_equal(decoded(encoded(two, "PNG")), np.asarray(two.convert("RGB")))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    # 65535 / 257 = 255; 32896 / 257 = 128; 257 / 257 = 1.
    values = np.repeat(np.array([[0, 257, 32896, 65535]], np.uint16), 2, 1).repeat(8, 0)
    for kind in ("PNG", "TIFF"):
        assert decoded(encoded(Image.fromarray(values), kind))[0, ::2, 0].tolist() == [0, 1, 128, 255]


def test_each_grey_of_sixteen_bits_becomes_the_nearest_of_eight() -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    pixels = decoded(encoded(Image.fromarray(values), "PNG"), 256)
    assert np.array_equal(pixels[..., 0], np.rint(values / 257))


def test_transparency_becomes_white() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    assert decoded(encoded(image, "PNG"))[0, [0, 7]].tolist() == [[255, 255, 255], [255, 0, 0]]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 255, 0, 0, 0, 255])
    palette.paste(0, (0, 0, 4, 8))
    assert decoded(encoded(palette, "PNG", transparency=0))[0, [0, 7]].tolist() == [[255, 255, 255], [0, 0, 255]]
    grey = Image.fromarray(np.full((8, 8), 514, np.uint16))
    assert np.all(decoded(encoded(grey, "PNG", transparency=514)) == 255)
    keyed = encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert decoded(keyed)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_becomes_rgb() -> None:
    # Cyan and nothing else: no red, all green and blue.
    red, green, blue = decoded(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100))[0, 0].tolist()
    assert red < 10
    assert min(green, blue) > 245


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(kind: str) -> None:
    # Orientation 6: the first row is the right side. Blue on the left is stored at the bottom.
    image = Image.new("RGB", (16, 16), "red")
    image.paste("blue", (0, 8, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decoded(encoded(image, kind, exif=exif), size=16)
    assert upright[8, 1, 2] > 200
    assert upright[8, 14, 0] > 200


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("P", (8, 8), 0), Image.new("P", (8, 8), 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoded(content)[0, 0].tolist() == [255, 0, 0]


def test_the_reason_says_what_a_file_is_if_not_an_image() -> None:
    assert reason(b"<!DOCTYPE html><html>") == "is not an image but an HTML page"
    assert reason(b"") == "is not an image but an empty file"
    assert reason(b"%PDF-1.7") == "is not an image but a PDF document"
    assert reason(Unreadable("is damaged in the archive")) == "is damaged in the archive"


def test_a_program_of_another_kind_is_not_run() -> None:
    # Pillow would hand an EPS file to Ghostscript.
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n").startswith("is not an image but")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_refused(kind: str) -> None:
    content = encoded(Image.fromarray(random_pixels(64, 64)), kind)
    assert reason(content[: len(content) // 2])


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(9_000, 9_000), (12_000, 12_000), (100_000, 100_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    assert "decompression bomb" in reason(png_of_size(width, height))


def test_grey_of_unknown_range_is_refused() -> None:
    content = encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")
    assert reason(content) == "has 32-bit pixels of mode F, whose range is unknown"
