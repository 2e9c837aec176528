"""Decode images to RGB, or to grey, at the size of the pack.

The pixels of an RGB image of that size are not changed. Any other image is resized to a square: as a whole, whatever
its proportions, as Mini-ImageNet was made, or cropped or padded. EXIF orientation is applied; transparency becomes
white; 16-bit grey is scaled to 8 bits; the first frame of an animation is used; colour profiles are not applied.
Grey is the luma of RGB (ITU-R 601-2).
"""

import io
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nilr.config.base import Fit, Resample
from nilr.data.digests import Images
from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.data.sources.members import Payload, Unreadable

try:
    from simplejpeg import decode_jpeg
except ImportError:  # it has no wheel for this platform
    decode_jpeg = None

MAX_PIXELS: Final = 64_000_000
MAX_BYTES: Final = 256 * 2**20


def _pad(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Pad to a square; unlike in `ImageOps.pad`, one row or column of a very narrow image remains."""
    width, height = (max(1, round(side / max(image.size) * size[0])) for side in image.size)
    return ImageOps.pad(image.resize((width, height), resample), size)


_FITS: Final[dict[Fit, Callable[[Image.Image, tuple[int, int], Image.Resampling], Image.Image]]] = {
    "stretch": Image.Image.resize,
    "crop": ImageOps.fit,
    "pad": _pad,
}
# Only the formats that Pillow decodes itself: its EPS reader, for example, starts another program.
_FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
# JPEG segments: baseline and progressive frames; the scan; and those that only say how to decode it.
_START_OF_FRAME: Final = (0xC0, 0xC2)
_START_OF_SCAN: Final = 0xDA
_NEUTRAL: Final = frozenset({0xC4, 0xDB, 0xDD, 0xE0, 0xFE})


class _ImageError(Exception):
    """The reason why an image is unusable."""


def decode_images(
    payloads: Sequence[Payload], size: int, resample: Resample, fit: Fit = "stretch", channels: int = 3
) -> tuple[Images, list[str | None]]:
    """Decode images.

    Args:
        payloads: encoded images, or their pixels, uint8 (H, W, 3) or (H, W).
        size: S, height and width to return, in pixels.
        resample: filter for images of another size.
        fit: how these become squares.
        channels: C, 1 or 3.

    Returns:
        uint8 (n, S, S, C), and for each image the reason why it is unusable, or None; unusable images are black.
    """
    images = np.empty((len(payloads), size, size, channels), np.uint8)
    reasons: list[str | None] = []
    for payload, place in zip(payloads, images, strict=True):
        reason = None
        try:
            if not _decode_plain_jpeg(payload, place):
                place[:] = np.asarray(_decode(payload, size, resample, fit, channels)).reshape(place.shape)
        except _ImageError as error:
            reason = str(error)
        except Exception as error:  # Pillow raises nearly any exception for a broken image
            reason = f"cannot be decoded ({error or type(error).__name__})"
        if reason is not None:
            place[:] = 0
        reasons.append(reason)
    return images, reasons


def _decode(payload: Payload, size: int, resample: Resample, fit: Fit, channels: int) -> Image.Image:
    if isinstance(payload, Unreadable):
        raise _ImageError(payload.reason)
    image = _open(payload) if isinstance(payload, bytes) else Image.fromarray(payload)
    if image.mode != "RGB" or "transparency" in image.info:
        image = _to_rgb(image)
    if channels == 1:
        image = image.convert("L")
    if image.size != (size, size):
        image = _FITS[fit](image, (size, size), Image.Resampling[resample.upper()])
    return image


def _decode_plain_jpeg(content: Payload, place: Images) -> bool:
    """Decode an RGB JPEG of the right size without metadata that Pillow uses; return False for all else.

    Pillow takes three times as long for the same pixels: both use libjpeg-turbo. Damaged images, even those that this
    decoder accepts in part, are left to Pillow, which reports what is wrong.
    """
    if decode_jpeg is None or not isinstance(content, bytes) or place.shape != (*_jpeg_size(content), 3):
        return False
    try:
        decode_jpeg(content, "RGB", buffer=place)
    except ValueError:
        return False
    return True


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Return height and width of a JPEG of 3 components of 8 bits without EXIF or the like; zeros for all else."""
    if not content.startswith(b"\xff\xd8"):
        return 0, 0
    found, at = (0, 0), 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        if marker == _START_OF_SCAN:
            return found
        if marker in _START_OF_FRAME and not any(found) and content[at + 4 : at + 5] == b"\x08":
            found = int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
            if content[at + 9 : at + 10] != b"\x03":
                return 0, 0
        elif marker not in _NEUTRAL:
            return 0, 0
        at += 2 + length
    return 0, 0


def _open(content: bytes) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except (UnidentifiedImageError, KeyError):
        what = describe_content(content[:HEAD_SIZE])
        is_image = what.endswith(" image")
        raise _ImageError(f"is {what} that cannot be decoded" if is_image else f"is not an image but {what}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _ImageError(f"is a decompression bomb ({error})") from None
    if image.width * image.height > MAX_PIXELS:
        raise _ImageError(f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: a decompression bomb?")
    # Most JPEGs have no EXIF, and this test is faster than Pillow's.
    if image.format != "JPEG" or image.info.keys() & {"exif", "xmp"}:
        image = ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.array(image, np.int32)
        values[values == image.info.get("transparency")] = 65_535
        values += 128  # rounds to the nearest, in place: floats would take gigabytes for a large image
        values //= 257
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise _ImageError(f"has 32-bit pixels of mode {image.mode}, whose range is unknown")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")
