"""Images by class, and episodes of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from nilr.config.base import IMAGE_SIZES, SPLITS, Fit, Resample, Split
from nilr.data import synthetic
from nilr.data.digests import Images as Pixels
from nilr.data.digests import image_digests
from nilr.data.labelled import read_labelled
from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.errors import EpisodeError
from nilr.library.arguments import check_name, check_type, checked_integer, naming_arguments
from nilr.recipes.common.packs import open_split
from nilr.results.records import DataUsed
from nilr.store import Store

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Images:
    """The images of some classes: a split of a pack, a folder, or generated ones.

    Attributes:
        packed: the pixels, grouped by class.
        split: the name of the split, which episodes depend on.
        used: the pack, for results; None for other images.

    Examples:
        >>> import nilr
        >>> images = nilr.generate_images(per_class=4, image_size=16)
        >>> images
        Images(20 classes, 80 images of 16 px, split `test`)
        >>> images.classes[:2]
        ('class080', 'class081')
    """

    packed: PackedImages
    split: str
    used: DataUsed | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.packed.class_names

    @property
    def class_sizes(self) -> dict[str, int]:
        """The number of images of each class."""
        return dict(zip(self.packed.class_names, self.packed.class_sizes, strict=True))

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.packed.gather(torch.zeros(1, dtype=torch.int64, device=self.packed.device)).shape[-1]

    def of_class(self, name: str) -> Tensor:
        """Return the images of a class, float32 (n, 3, S, S) in [0, 1]; UsageError if there is no such class."""
        check_name("class", name, self.classes)
        place = self.classes.index(name)
        start = sum(self.packed.class_sizes[:place])
        return self.packed.gather(torch.arange(start, start + self.packed.class_sizes[place]))

    def on(self, device: torch.device) -> PackedImages:
        """Return the images on a device."""
        if device == self.packed.device:
            return self.packed
        pixels = self.packed.images.index_select(0, torch.arange(len(self))).to(device)
        return PackedImages(pixels, self.packed.class_sizes, self.packed.class_names)

    def __len__(self) -> int:
        return sum(self.packed.class_sizes)

    def __repr__(self) -> str:
        size = self.image_size
        return f"Images({len(self.classes)} classes, {len(self)} images of {size} px, split `{self.split}`)"


def check_images(images: object, name: str = "images") -> None:
    """Check that an argument is an `Images`; UsageError if not."""
    check_type(name, images, Images, "give what `open_pack` returns")


@naming_arguments
def open_pack(pack: str | Path, split: Split = "test") -> Images:
    """Open and verify a split of a pack, an HDF5 file of `nilr prepare-data`. Images are read when they are used.

    Args:
        pack: the file, or the name of a pack in the store.
        split: train, val or test.

    Raises:
        NilrError: there is no such pack or split, or it is damaged.

    Examples:
        >>> import nilr
        >>> nilr.open_pack("no-such-pack.h5")
        Traceback (most recent call last):
        nilr.errors.StoreError: no pack `no-such-pack.h5` in ...
    """
    check_name("split", split, SPLITS)
    path = Path(pack).expanduser()
    opened = open_split(path if path.is_file() else Store().find_data(str(pack)), split, CPU)
    return Images(opened.images, split, opened.used)


@naming_arguments
def read_images(
    folder: str | Path,
    *,
    image_size: int = 84,
    resample: Resample = "bilinear",
    fit: Fit = "stretch",
    skip_broken: bool = False,
) -> Images:
    """Read a folder or archive that has one folder of images per class, at most 10,000 images, into memory.

    Args:
        folder: the folder or archive.
        image_size: height and width of the result, in pixels.
        resample: filter for images of another size.
        fit: how an image becomes a square: stretch, crop or pad.
        skip_broken: whether images that cannot be read are skipped.

    Raises:
        DataError: something cannot be read, or it is unclear which folders are classes.

    Examples:
        >>> import nilr, pathlib, tempfile, PIL.Image
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     PIL.Image.new("RGB", (40, 30), "orange").save(folder / name / "1.png")
        >>> nilr.read_images(folder, image_size=16).class_sizes
        {'cat': 1, 'dog': 1}
    """
    image_size = checked_integer("image_size", image_size, *IMAGE_SIZES)
    check_name("resample", resample, get_args(Resample))
    check_name("fit", fit, get_args(Fit))
    path = Path(folder).expanduser()
    found = read_labelled([path], image_size, resample=resample, fit=fit, skip_broken=skip_broken, single_images=False)
    if any(label is None for label in found.labels):
        raise EpisodeError(f"`{path}` has images outside class folders", hint="put each in the folder of its class")
    labels = np.array(found.labels)
    return _grouped({str(name): found.images[labels == name] for name in np.unique(labels)}, "test")


@naming_arguments
def generate_images(split: Split = "test", *, per_class: int = 20, image_size: int = 32, seed: int = 0) -> Images:
    """Generate images with the structure of real ones, as `nilr prepare-data --synthetic` does: the same ones.

    Args:
        split: train, val or test: 64, 16 or 20 classes.
        per_class: number of images of each class.
        image_size: height and width, in pixels.
        seed: another one gives other classes.

    Examples:
        >>> import nilr
        >>> nilr.generate_images("val", per_class=3, image_size=16).of_class("class064").shape
        torch.Size([3, 3, 16, 16])
    """
    check_name("split", split, synthetic.CLASSES)
    per_class, seed = checked_integer("per_class", per_class), checked_integer("seed", seed, 0)
    image_size = checked_integer("image_size", image_size, *IMAGE_SIZES)
    classes = {
        synthetic.class_name(number): synthetic.generate_class(seed, number, per_class, image_size)
        for number in synthetic.CLASSES[split]
    }
    return _grouped(classes, split)


def _grouped(classes: Mapping[str, Pixels], split: str) -> Images:
    """Return images, uint8 (n, S, S, 3) by class, in the order that they have in a pack: by digest."""
    ordered = []
    for images in classes.values():
        digests = image_digests(images)
        ordered.append(images[sorted(range(len(images)), key=digests.__getitem__)])
    sizes = tuple(map(len, ordered))
    return Images(PackedImages(torch.from_numpy(np.concatenate(ordered)), sizes, tuple(classes)), split)


@naming_arguments
def sample_episode(
    images: Images, index: int = 0, *, n_way: int = 5, n_shot: int = 1, n_query: int = 15, seed: int = 0
) -> Episode:
    """Return episode number `index` of the sequence that the seed and the split fix.

    Args:
        images: to draw from.
        index: the number of the episode, from 0.
        n_way: N, classes.
        n_shot: K, support images per class.
        n_query: Q, query images per class.
        seed: of the sequence.

    Returns:
        `support_x` (N*K, 3, S, S) float32 in [0, 1], `support_y` (N*K,) int64, and `query_x`, `query_y`, which have Q
        instead of K. Both are grouped by class.

    Raises:
        EpisodeError: there are too few classes or images.

    Examples:
        >>> import nilr
        >>> images = nilr.generate_images(per_class=4, image_size=16)
        >>> episode = nilr.sample_episode(images, n_way=3, n_query=2)
        >>> episode.support_y.tolist(), episode.query_y.tolist()
        ([0, 1, 2], [0, 0, 1, 1, 2, 2])
    """
    check_images(images)
    index, seed = checked_integer("index", index, 0), checked_integer("seed", seed, 0)
    n_way, n_shot = checked_integer("n_way", n_way), checked_integer("n_shot", n_shot)
    n_query = checked_integer("n_query", n_query, 0)
    return EpisodeSampler(images.packed, n_way, n_shot, n_query, seed, images.split).draw([index])[0]
