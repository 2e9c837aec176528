"""Open a split of a pack, and find packs in the store."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nilr.data.pack import ImageFile, PackedSplit, open_pack
from nilr.episodes import PackedImages
from nilr.errors import NilrError, StoreError
from nilr.recipes.common.outcome import data_used
from nilr.results.records import DataUsed
from nilr.runtime import available_memory
from nilr.store import Store

_GPU_SHARE = 0.4


@dataclass(frozen=True)
class Split:
    """The images of a split on the device, and its pack's entry in the result; None: they are not from a pack."""

    images: PackedImages
    used: DataUsed | None


@dataclass(frozen=True)
class OpenSplit(Split):
    """A verified split of a pack, with its names."""

    used: DataUsed
    packed: PackedSplit


class _ImagesOnDisk:
    """A pack's images as `PackedImages` uses them: read from the file whenever they are selected."""

    def __init__(self, file: ImageFile, device: torch.device) -> None:
        self._file, self.device = file, device

    def index_select(self, _dim: int, index: Tensor) -> Tensor:
        """Read the images at `index`, int64 (n,)."""
        return torch.from_numpy(self._file.read(index.tolist())).to(self.device)


def open_split(path: Path, split: str, device: torch.device) -> OpenSplit:
    """Open and verify one split of a pack.

    Images are read from the file when an episode needs them. A GPU gets a copy of all, as uint8, unless they would take
    more than `_GPU_SHARE` of its free memory.
    """
    pack = open_pack(path)
    packed = pack.open_split(split)
    images: Tensor | _ImagesOnDisk = _ImagesOnDisk(packed.images, device)
    if device.type != "cpu" and math.prod(packed.images.shape) <= _GPU_SHARE * available_memory(device):
        images = _copied(packed.images, device)
    return OpenSplit(PackedImages(images, packed.class_sizes, packed.class_names), data_used(pack, split), packed)


def _copied(file: ImageFile, device: torch.device) -> Tensor:
    """Copy all images to a device, with a few of them in the host's memory at a time."""
    images, start = torch.empty(file.shape, dtype=torch.uint8, device=device), 0
    for chunk in file.chunks():
        images[start : start + len(chunk)] = torch.from_numpy(chunk)
        start += len(chunk)
    return images


def find_training_pack(store: Store, name: str, digest: str) -> Path | None:
    """Return the pack in the store with this content digest, preferably the one of that name; None if there is none."""
    for path in sorted(store.packs(), key=lambda path: path.stem != name):
        with contextlib.suppress(NilrError, OSError):
            if open_pack(path).info.digest == digest:
                return path
    return None


def newest_pack(store: Store) -> Path:
    """Return the pack in the store that was made last, ignoring unreadable ones; StoreError if there is none."""
    packs = store.packs()
    if not packs:
        raise StoreError(f"there is no pack in `{store.home}`", hint=store.how_to_pack())
    made: dict[Path, tuple[str, float]] = {}
    for path in packs:
        with contextlib.suppress(NilrError, OSError):
            made[path] = open_pack(path).info.created_at, path.stat().st_mtime
    return max(packs, key=lambda path: made.get(path, ("", 0.0)))
