"""Every flipped bit and every cut of a pack, a checkpoint and a training state is seen, or changes no number."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nilr.checkpoint import load_checkpoint, load_training_state
from nilr.config import TrainSettings
from nilr.data.packed import open_pack, verify_pack
from nilr.errors import NilrError
from nilr.recipes import meta_train
from nilr.reporting import SilentReporter
from nilr.tensorfile import digest_tensors

pytestmark = pytest.mark.usefixtures("one_thread")


def checkpoint_numbers(path: Path) -> Any:
    checkpoint = load_checkpoint(path)
    tensors = {f"params/{n}": t for n, t in checkpoint.params.items()}
    tensors |= {f"inner_lr/{n}": t for n, t in checkpoint.inner_lr.items()}
    return digest_tensors(tensors), checkpoint.manifest


def state_numbers(path: Path) -> Any:
    tensors, values = load_training_state(path)
    return digest_tensors(tensors), values


def served(path: Path) -> Any:
    """Return what a pack says of itself, after its images, labels and names were held against their digests."""
    verify_pack(path)
    return open_pack(path).info


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "pack": ("datasets/mini-imagenet.h5", served),
    "checkpoint": ("models/x/last.safetensors", checkpoint_numbers),
    "training state": ("models/x/training.safetensors", state_numbers),
}


def check(home: Path, quick: dict[str, Any], kind: str, *, flips: int, cuts: int) -> tuple[int, int]:
    """Damage a file in many ways, and return how many flips were seen and how many changed nothing."""
    if kind != "pack":
        meta_train.run(TrainSettings(name="x", **(quick | {"outer_steps": 2, "eval_every": 0})), SilentReporter())
    name, numbers = KINDS[kind]
    path, rng = home / name, random.Random(0)
    whole, truth = path.read_bytes(), numbers(path)
    seen = harmless = 0
    for _ in range(flips):
        bit = rng.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            # verification reads and digests every image, label and name: what passes serves the same numbers
            assert numbers(path) == truth, f"bit {bit} of the {kind} changes what is read, and nothing says so"
            harmless += 1
        except NilrError:
            seen += 1
    for _ in range(cuts):
        path.write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(NilrError):
            numbers(path)
    return seen, harmless


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_flipped_bits_and_cuts_is_seen(
    kind: str, pack: Path, home: Path, quick: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    seen, harmless = check(home, quick, kind, flips=60, cuts=20)
    assert seen > 0
    record_property(f"bits flipped in a {kind}, seen", seen)
    record_property(f"bits flipped in a {kind}, harmless", harmless)
    assert kind == "pack" or harmless == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_five_hundred_flipped_bits_and_a_hundred_cuts_are_seen(
    kind: str, pack: Path, home: Path, quick: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    seen, harmless = check(home, quick, kind, flips=500, cuts=100)
    record_property(f"bits flipped in a {kind}, seen", seen)
    record_property(f"bits flipped in a {kind}, harmless", harmless)
    record_property(f"cuts of a {kind}, seen", 100)
    assert kind == "pack" or harmless == 0
