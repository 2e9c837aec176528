"""Episodes: their classes and images are a pure function of (seed, stream, index).

Shapes: N classes (n_way), K support and Q query images per class, E episodes, images (H, W, C) uint8 in the pack and
(C, H, W) float32 in [0, 1] in an episode. All tensors are grouped by class: labels are 0 repeated K times, then 1...

The draw is counter-based: the key of a class or an image is a hash of (seed, stream, index, class, image), and the
smallest keys are drawn. So a batch of episodes is drawn at once, on any device, and episode i does not depend on batch
size, resumption, worker or rank.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nilr.errors import EpisodeError

_INT64_MAX = torch.iinfo(torch.int64).max


@dataclass(frozen=True, repr=False)
class Episode:
    """One episode, or E of them with a leading E on every tensor."""

    support_x: Tensor  # (N*K, C, H, W) float32
    support_y: Tensor  # (N*K,) int64 in [0, N)
    query_x: Tensor  # (N*Q, C, H, W) float32
    query_y: Tensor  # (N*Q,) int64 in [0, N)

    def __getitem__(self, index: int | slice) -> "Episode":
        """Return one episode of a batch, or with a slice some of them as a batch."""
        return Episode(self.support_x[index], self.support_y[index], self.query_x[index], self.query_y[index])

    def __len__(self) -> int:
        """Return E, the number of episodes of a batch."""
        return self.support_x.shape[0]

    def __repr__(self) -> str:
        return f"Episode(support_x {tuple(self.support_x.shape)}, query_x {tuple(self.query_x.shape)})"


class ImageRows(Protocol):
    """A tensor of images, or what selects them from a file."""

    @property
    def device(self) -> torch.device:
        """The device of selected images."""

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """Return the images at int64 `index` of shape (n,)."""


@dataclass(frozen=True)
class PackedImages:
    """All images of a split."""

    images: ImageRows  # uint8 of shape (n, H, W, C), grouped by class
    class_sizes: tuple[int, ...]  # images per class, in class order
    class_names: tuple[str, ...] = ()  # for errors; empty if the classes have no names

    @property
    def device(self) -> torch.device:
        """The device of the images."""
        return self.images.device

    def gather(self, index: Tensor) -> Tensor:
        """Return the images at int64 `index` of shape (...) as float32 of shape (..., C, H, W) in [0, 1].

        They keep the pack's channels-last memory: another format would cost seven times as much.
        """
        scaled = self.images.index_select(0, index.reshape(-1)).to(torch.float32).div_(255).permute(0, 3, 1, 2)
        return scaled.reshape(*index.shape, *scaled.shape[1:])


@dataclass(frozen=True)
class EpisodeSampler:
    """Draws episodes from images grouped by class.

    Attributes:
        n_way, n_shot, n_query: N, K and Q.
    """

    images: PackedImages  # the images of one split
    n_way: int
    n_shot: int
    n_query: int
    seed: int  # the run's seed
    stream: str  # a name; episodes of different streams are independent

    def __post_init__(self) -> None:
        """Check that the split has enough classes and images; EpisodeError if it has too few."""
        sizes = self.images.class_sizes
        if len(sizes) < self.n_way:
            raise EpisodeError(
                f"an episode needs {self.n_way} classes (--n-way), but `{self._split}` has {len(sizes)}",
                hint=(f"use --n-way {len(sizes)} or less, or " if len(sizes) > 1 else "use ") + "another split or pack",
            )
        needed = self.n_shot + self.n_query
        self._check_images(needed, f"an episode of {self.n_shot} support and {self.n_query} query images")

    def draw(self, indices: Sequence[int] | Tensor) -> Episode:
        """Return the episodes with the numbers `indices`, with a leading E.

        If `indices` is an int64 tensor (E,) on the images' device, nothing waits for the device.
        """
        return self.load(*self.choose(indices))

    def choose(self, indices: Sequence[int] | Tensor, *, avoid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Choose the classes (E, N) and images (E, N, K + Q) of E episodes, as int64 positions in the split.

        Support images come first. Class numbers in `avoid`, int64 (E, n), are not drawn.

        Raises:
            EpisodeError: too few classes remain.
        """
        key = self._class_keys(indices)
        if avoid is not None:
            self.check_classes_left(avoid.shape[1])
            key = (key >> 1 & _INT64_MAX).scatter(1, avoid, _INT64_MAX)
        classes = key.argsort(dim=1, stable=True)[:, : self.n_way]
        return classes, self._images_of(classes, key.gather(1, classes))

    def choose_images(self, indices: Sequence[int], classes: Tensor, *, avoid: Tensor) -> Tensor:
        """Choose images (E, n, K + Q) of given classes (E, n), as int64 positions in the split.

        Support images come first. Images in `avoid`, (E, n, m) positions in the same classes, are not drawn.

        Raises:
            EpisodeError: too few images of a class remain.
        """
        needed = avoid.shape[-1] + self.n_shot + self.n_query
        self._check_images(needed, "a pair of tasks with the same classes")
        return self._images_of(classes, self._class_keys(indices).gather(1, classes), avoid)

    def _class_keys(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return a key for each class of the split, (E, classes)."""
        device = self.images.device
        numbers = indices if isinstance(indices, Tensor) else torch.tensor(list(indices), device=device)
        classes = torch.arange(len(self.images.class_sizes), device=device)
        return _mix(_mix(numbers[:, None] + stream_seed(self.seed, f"episodes/{self.stream}")) + classes)

    def _images_of(self, classes: Tensor, keys: Tensor, avoid: Tensor | None = None) -> Tensor:
        """Return the images with the smallest keys in each class; image keys depend on the class's key."""
        sizes = self._sizes
        starts = (sizes.cumsum(0) - sizes)[classes][..., None]
        member = torch.arange(max(self.images.class_sizes), device=classes.device)
        image_key = _mix(_mix(keys[..., None]) + member) >> 1 & _INT64_MAX
        image_key = image_key.masked_fill(member >= sizes[classes][..., None], _INT64_MAX)
        if avoid is not None:
            image_key = image_key.scatter(-1, avoid - starts, _INT64_MAX)
        return image_key.argsort(dim=2, stable=True)[..., : self.n_shot + self.n_query] + starts

    @functools.cached_property
    def _sizes(self) -> Tensor:
        return torch.tensor(self.images.class_sizes, device=self.images.device)

    def load(self, classes: Tensor, images: Tensor) -> Episode:
        """Return the episodes that `choose` chose, with their pixels."""
        n_episodes = classes.shape[0]
        support, query = images[..., : self.n_shot].flatten(1), images[..., self.n_shot :].flatten(1)
        labels = torch.arange(self.n_way, device=classes.device)
        return Episode(
            support_x=self.images.gather(support),
            support_y=labels.repeat_interleave(self.n_shot).expand(n_episodes, -1),
            query_x=self.images.gather(query),
            query_y=labels.repeat_interleave(self.n_query).expand(n_episodes, -1),
        )

    @property
    def _split(self) -> str:
        return self.stream.partition("/")[0]

    def _check_images(self, needed: int, by: str) -> None:
        sizes, names = self.images.class_sizes, self.images.class_names
        smallest = min(range(len(sizes)), key=sizes.__getitem__)
        if sizes[smallest] < needed:
            which = f"class `{names[smallest]}`" if names else "the smallest class"
            enough = sum(size >= needed for size in sizes)
            raise EpisodeError(
                f"{by} needs {needed} images per class, but {which} of `{self._split}` has {sizes[smallest]}; "
                f"{enough} of {len(sizes)} classes have enough",
                hint="lower --n-shot or --n-query, or pack the images again without small classes, with `prepare-data` "
                f"and --min-images {needed} --force",
            )

    def check_classes_left(self, avoided: int) -> None:
        """Check that an episode can be drawn without this number of classes; EpisodeError if not."""
        classes, needed = len(self.images.class_sizes), self.n_way + avoided
        if classes < needed:
            raise EpisodeError(
                f"a task of {self.n_way} classes disjoint from {avoided} others needs {needed} classes, but "
                f"`{self._split}` has {classes}",
                hint="lower --n-way, or use --task-b any",
            )


def stream_seed(seed: int, stream: str) -> int:
    """Return the seed of a named stream: 63 bits of the SHA-256 of seed and name."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _mix(x: Tensor) -> Tensor:
    """Hash int64 elementwise: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)."""
    x = x + -7046029254386353131
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)
