"""Generate images with the structure of real ones: 100 classes of seeded drawings, split 64/16/20.

A class is an outline, a texture and a pair of hues. An image shows its class at a random place, scale, rotation and
light, before a background with clutter that does not depend on the class. So raw pixels say little about the class, but
features that separate classes can be learned, and transfer to unseen classes.

Image i of a class depends only on (seed, class, i, size): packing fewer images changes none of them. It is the same bit
by bit on one kind of machine; the sine of another may round a pixel differently.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import pi, tau
from typing import Final

import numpy as np
import numpy.typing as npt

from nilr.config.base import Split
from nilr.data.digests import Images

CLASSES: Final[dict[Split, range]] = {"train": range(64), "val": range(64, 80), "test": range(80, 100)}
IMAGES_PER_CLASS: Final = 100
IMAGE_SIZE: Final = 84  # px, by default

Plane = npt.NDArray[np.float32]
Planes = tuple[Plane, Plane, Plane]
Draw = Callable[[float, float], Plane]

# Random numbers per class and per image; more than are used, so that using another one changes no existing image.
_CLASS_DRAWS: Final = 16
_IMAGE_DRAWS: Final = 64
_CLUTTER: Final = 3
_PIXELS_AT_ONCE: Final = 1 << 17


@dataclass(frozen=True)
class _Traits:
    """What the images of a class have in common. Lengths are in radii of the object, angles in turns."""

    lobes: int  # bumps of the outline around the circle
    depth: float  # how far they reach in
    pointed: bool  # whether they are spikes rather than waves
    aspect: float  # height by width
    hole: float  # radius of the hole, or 0
    weave: int  # number of the texture
    frequency: float  # its waves per radius, halved
    contrast: float  # share of the way between the two colours that the texture goes
    hues: tuple[float, float]  # of the two colours


def class_name(index: int) -> str:
    """Return the name of a class."""
    return f"class{index:03d}"


def layout(images_per_class: int) -> dict[str, dict[str, int]]:
    """Return the number of images of each class of each split."""
    return {split: {class_name(index): images_per_class for index in indices} for split, indices in CLASSES.items()}


def generate(*, seed: int, images_per_class: int, image_size: int) -> Iterator[tuple[Split, str, Images, list[str]]]:
    """Yield split, name, images and file names of each class; another seed gives other classes."""
    for split, indices in CLASSES.items():
        for index in indices:
            name = class_name(index)
            images = generate_class(seed, index, images_per_class, image_size)
            yield split, name, images, [f"{name}-{i:05d}.png" for i in range(images_per_class)]


def generate_class(seed: int, class_index: int, n_images: int, size: int) -> Images:
    """Draw the first images of a class, uint8 (n_images, size, size, 3)."""
    traits = _draw_traits(seed, class_index)
    draws = _stream(seed, class_index, 1).random((n_images, _IMAGE_DRAWS), dtype=np.float32)
    noise = _stream(seed, class_index, 2)
    images = np.empty((n_images, size, size, 3), np.uint8)
    step = max(1, _PIXELS_AT_ONCE // size**2)
    for start in range(0, n_images, step):
        part = draws[start : start + step]
        grain = noise.random((len(part), size, size), dtype=np.float32) - np.float32(0.5)
        images[start : start + step] = _draw_images(traits, part, grain)
    return images


def _stream(seed: int, class_index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, class_index, purpose])


def _draw_traits(seed: int, class_index: int) -> _Traits:
    u = _stream(seed, class_index, 0).random(_CLASS_DRAWS).tolist()
    depth = 0.1 + 0.4 * u[1]
    return _Traits(
        lobes=int(2 + 6 * u[0]),
        depth=depth,
        pointed=u[2] > 0.5,
        aspect=0.6 + 0.4 * u[3],
        hole=0.0 if u[4] < 0.6 else (1 - 2 * depth) * (0.3 + 0.5 * u[5]),
        weave=int(u[6] * len(_WEAVES)),
        frequency=1.2 + 2.3 * u[7],
        contrast=0.5 + 0.5 * u[10],
        hues=(u[8], u[8] + 0.25 + 0.5 * u[9]),
    )


def _draw_images(traits: _Traits, draws: Plane, grain: Plane) -> Images:
    """Draw an image per row of `draws`, with `grain` (n, S, S) in [-0.5, 0.5)."""
    size = grain.shape[1]
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1
    x, y = axis[None, None, :], axis[None, :, None]
    columns: Iterator[Plane] = iter(draws.T[:, :, None, None])

    def draw(low: float, high: float) -> Plane:
        """Return the next random number of each image, between `low` and `high`."""
        drawn: Plane = next(columns) * np.float32(high - low) + np.float32(low)
        return drawn

    canvas = _background(x, y, draw)
    for _ in range(_CLUTTER):
        canvas = _with_blob(canvas, x, y, draw)
    canvas = _with_object(canvas, traits, x, y, draw)
    light = draw(0.65, 1.2) * (1 + x * draw(-0.3, 0.3) + y * draw(-0.3, 0.3))
    grain = grain * draw(0.02, 0.08)
    pixels = np.stack([channel * (light * draw(0.9, 1.1)) + grain for channel in canvas], axis=-1)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def _background(x: Plane, y: Plane, draw: Draw) -> Planes:
    along, across = _turned(x, y, draw(0, tau))
    frequency = draw(0.5 * pi, 5 * pi)
    waves = np.sin(along * frequency + draw(0, tau)) * np.cos(across * frequency * draw(0, 1) + draw(0, tau))
    one = _colour(draw(0, 1), draw(0, 0.35), draw(0.15, 0.85))
    two = _colour(draw(0, 1), draw(0, 0.35), draw(0.15, 0.85))
    return _mix(one, two, 0.5 + 0.5 * waves)


def _with_blob(canvas: Planes, x: Plane, y: Plane, draw: Draw) -> Planes:
    along, across = _turned(x - draw(-1, 1), y - draw(-1, 1), draw(0, tau))
    inside = draw(0.1, 0.35) - np.hypot(along, across * draw(1, 2))
    return _mix(canvas, _colour(draw(0, 1), draw(0, 0.5), draw(0.2, 0.9)), _coverage(inside))


def _with_object(canvas: Planes, traits: _Traits, x: Plane, y: Plane, draw: Draw) -> Planes:
    scale = draw(0.5, 0.85)
    along, across = _turned((x - draw(-0.4, 0.4)) / scale, (y - draw(-0.4, 0.4)) / scale, draw(-0.8, 0.8))
    waves = _WEAVES[traits.weave](along, across, traits.frequency * pi, draw(0, tau))
    weave = np.tanh(3 * waves) * np.float32(0.5 * traits.contrast) + np.float32(0.5)
    shift, saturation, value = draw(-0.03, 0.03), draw(0.65, 1), draw(0.6, 1)
    one = _colour(traits.hues[0] + shift, saturation, value)
    two = _colour(traits.hues[1] + shift, saturation, value * draw(0.35, 0.9))
    return _mix(canvas, _mix(two, one, weave), _coverage(_inside(traits, along, across) * scale))


def _inside(traits: _Traits, x: Plane, y: Plane) -> Plane:
    """Return how far inside the outline a point is; negative outside."""
    y = y * np.float32(1 / traits.aspect)
    radius = np.hypot(x, y)
    wave = np.cos(np.arctan2(y, x) * traits.lobes)
    if traits.pointed:
        wave = 1 - np.arccos(np.clip(wave, -1, 1)) * np.float32(2 / pi)
    inside: Plane = 1 - traits.depth + traits.depth * wave - radius
    return np.minimum(inside, radius - traits.hole) if traits.hole else inside


# Waves in the coordinates of the object; `_with_object` sharpens them.
_WEAVES: Final[tuple[Callable[[Plane, Plane, float, Plane], Plane], ...]] = (
    lambda x, y, frequency, phase: np.sin(frequency * x + phase),
    lambda x, y, frequency, phase: np.sin(frequency * y + phase),
    lambda x, y, frequency, phase: np.sin(frequency * x + phase) * np.sin(frequency * y + phase),
    lambda x, y, frequency, phase: np.sin(frequency * np.hypot(x, y) + phase),
    lambda x, y, frequency, phase: np.sin(frequency * x + phase) + np.sin(frequency * y) - np.float32(0.7),
)


def _turned(x: Plane, y: Plane, angle: Plane) -> tuple[Plane, Plane]:
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def _coverage(inside: Plane) -> Plane:
    """Return the covered share of each pixel, from the distance of its centre to the edge."""
    pixels: Plane = inside * np.float32(inside.shape[-1] / 2) + np.float32(0.5)
    return np.clip(pixels, 0, 1)


def _mix(back: Planes, front: Planes, share: Plane) -> Planes:
    red, green, blue = (b + share * (f - b) for b, f in zip(back, front, strict=True))
    return red, green, blue


def _colour(hue: Plane, saturation: Plane, value: Plane) -> Planes:
    """Turn hue (in turns), saturation and value into red, green and blue."""
    red, green, blue = (
        value * (1 - saturation * np.clip(np.abs((hue * 6 + offset) % 6 - 3) - 1, 0, 1)) for offset in (3, 1, 5)
    )
    return red, green, blue
