"""Draw images of a pack: a contact sheet by class and split, and an episode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nilr.data.digests import Images
from nilr.data.pack import PackedSplit
from nilr.words import counted

N_CLASSES: Final = 10  # of each split in a contact sheet
N_IMAGES: Final = 6  # of each class

# All in pixels. Images are shown at a size near _TILE.
_TILE, _GAP, _MARGIN, _FONT, _LINE, _LABEL = 64, 2, 12, 12, 18, 150
_BACKGROUND, _INK = "gainsboro", "black"


class Panel(NamedTuple):
    """A grid of images with a title: a row for each class, with its name, which may be empty."""

    title: str
    rows: Sequence[tuple[str, Images]]  # the images (n, S, S, C) of a row


def class_panel(split: PackedSplit, seed: int) -> Panel:
    """Return a panel with random images of random classes of a split."""
    draw = np.random.default_rng(seed)
    starts = np.cumsum([0, *split.class_sizes])
    rows = []
    for i in sorted(draw.permutation(len(split.class_sizes))[:N_CLASSES].tolist()):
        members = sorted(draw.permutation(split.class_sizes[i])[:N_IMAGES].tolist())
        rows.append((split.class_names[i], split.images.read(starts[i] + members)))
    classes, images = counted(len(starts) - 1, "class"), counted(sum(split.class_sizes), "image")
    return Panel(f"{split.name}: {classes}, {images}", rows)


def draw_panels(panels: Sequence[Panel], title: str) -> Image.Image:
    """Return a picture of panels beside each other."""
    font = ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _FONT)
    size = panels[0].rows[0][1].shape[1]
    tile = size * max(1, round(_TILE / size)) if size <= 2 * _TILE else _TILE
    widths = []
    for panel in panels:
        label = max(font.getlength(_shortened(name, font)) for name, _ in panel.rows)
        columns = max(len(images) for _, images in panel.rows) * (tile + _GAP)
        widths.append(int(max(label + _MARGIN * (label > 0) + columns, font.getlength(panel.title))) + 1)
    n_rows = max(len(panel.rows) for panel in panels)
    width = max(sum(widths) + _MARGIN * (len(panels) + 1), int(font.getlength(title)) + 2 * _MARGIN)
    sheet = Image.new("RGB", (width, 2 * _LINE + n_rows * (tile + _GAP) + 2 * _MARGIN), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, _INK, font)
    left = _MARGIN
    for panel, panel_width in zip(panels, widths, strict=True):
        _draw_panel(sheet, pen, panel, (left, _MARGIN + _LINE), tile, font)
        left += panel_width + _MARGIN
    return sheet


def _draw_panel(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    panel: Panel,
    corner: tuple[int, int],
    tile: int,
    font: ImageFont.FreeTypeFont,
) -> None:
    left, top = corner
    pen.text(corner, panel.title, _INK, font)
    label = max(font.getlength(_shortened(name, font)) for name, _ in panel.rows)
    indent = int(label + _MARGIN) if label else 0
    for i, (name, images) in enumerate(panel.rows):
        y = top + _LINE + i * (tile + _GAP)
        pen.text((left, y + tile // 2), _shortened(name, font), _INK, font, anchor="lm")
        for j, pixels in enumerate(images):
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            resample = Image.Resampling.NEAREST if tile > pixels.shape[0] else Image.Resampling.BOX
            sheet.paste(image.resize((tile, tile), resample), (left + indent + j * (tile + _GAP), y))


def _shortened(name: str, font: ImageFont.FreeTypeFont) -> str:
    """Return a name without line breaks that fits into `_LABEL` pixels, if necessary with dots in its middle."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    if font.getlength(name) <= _LABEL:
        return name
    kept = next(
        n for n in range(len(name) // 2, -1, -1) if font.getlength(f"{name[:n]}…{name[-n:]}") <= _LABEL or not n
    )
    return f"{name[:kept]}…{name[len(name) - kept :]}"
