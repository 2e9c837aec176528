"""Every flipped bit and every truncation of a pack, checkpoint or training state is detected, or has no effect."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nilr.checkpoint import load_checkpoint
from nilr.config.meta_train import TrainSettings
from nilr.data.pack import open_pack, verify_pack
from nilr.errors import NilrError
from nilr.recipes import meta_train
from nilr.reporting import SilentReporter
from nilr.tensorfile import digest_tensors
from tests.faults.conftest import Nilr
from tests.training_states import read_state

pytestmark = pytest.mark.usefixtures("one_thread")


def checkpoint_numbers(path: Path) -> Any:
    checkpoint = load_checkpoint(path)
    tensors = {f"params/{n}": t for n, t in checkpoint.params.items()}
    tensors |= {f"inner_lr/{n}": t for n, t in checkpoint.inner_lr.items()}
    return digest_tensors(tensors), checkpoint.manifest


def state_numbers(path: Path) -> Any:
    tensors, values = read_state(path)
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
    """Damage a file in many ways, and return how many flips were detected and how many had no effect."""
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
    record_property(f"cuts of a {kind}, seen", 20)
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


COMMANDS = {
    "pack": ("datasets/toy.h5", "prepare-data --verify toy"),
    "checkpoint": ("models/base/best.safetensors", "models verify base"),
    "training state": ("models/base/training.safetensors", "models verify"),
}


def check_command(nilr: Nilr, work: Path, kind: str, *, flips: int, cuts: int) -> int:
    """Damage a file in many ways, each of which the verifying command must report; return their number."""
    name, command = COMMANDS[kind]
    path, numbers = work / "home" / name, KINDS[kind][1]
    whole, truth, rng = path.read_bytes(), numbers(path), random.Random(1)
    nilr(command, work)
    found = 0
    for i in range(flips + cuts):
        damaged = bytearray(whole)
        if i < flips:
            bit = rng.randrange(8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
        else:
            del damaged[rng.randrange(len(whole)) :]
        path.write_bytes(damaged)
        done = nilr(command, work, status=None)
        if done.status == 0:
            assert numbers(path) == truth, (
                f"bit {bit} of the {kind} changes what is read, and `{command}` finds nothing"
            )
        else:
            assert (done.status, "Traceback" in done.err, path.stem in done.out + done.err) == (1, False, True), done
            found += 1
    assert found == flips + cuts or kind == "pack"  # HDF5 has bytes that nobody reads
    return found


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", COMMANDS)
def test_the_commands_that_verify_find_a_sample_of_flipped_bits_and_cuts(
    nilr: Nilr, work: Path, kind: str, count: Callable[[str, int], None]
) -> None:
    count(f"damages of a {kind} found on the command line", check_command(nilr, work, kind, flips=3, cuts=1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_the_commands_that_verify_find_five_hundred_flipped_bits_and_a_hundred_cuts(
    nilr: Nilr, work: Path, kind: str, count: Callable[[str, int], None]
) -> None:
    count(f"damages of a {kind} found on the command line", check_command(nilr, work, kind, flips=500, cuts=100))
