"""Pack, check and draw from a pack that is larger than the memory should be: time and peak memory of each step.

    python tests/benchmarks/large_pack.py [--gigabytes 20] [--place DIRECTORY]

The source is a tar of 8 px images, which `prepare-data` enlarges to 84 px: it needs a tenth of the pack's space.
Each step is a process of its own. The draw is timed with the pack's pages dropped from the file cache, and again with
them in it, beside an update of MAML with its episodes. All files are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nilr.config.packs import PrepareDataSettings
from nilr.data.pack import verify_pack
from nilr.episodes import EpisodeSampler
from nilr.limits import available_cores
from nilr.recipes.common.packs import open_split
from nilr.recipes.prepare_data import run
from nilr.reporting import SilentReporter
from nilr.runtime import keep_freed_memory, peak_memory

SIZE, SOURCE_SIZE, PER_CLASS = 84, 8, 1500
IMAGE_BYTES = SIZE * SIZE * 3
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
N_EPISODES, UPDATES = 4, 20
CPU = torch.device("cpu")


def write_source(path: Path, gigabytes: float) -> int:
    """Write the tar, class by class, and return the number of images."""
    n_classes = max(30, round(gigabytes * 1e9 / IMAGE_BYTES / PER_CLASS))
    per_class = min(PER_CLASS, max(16, round(gigabytes * 1e9 / IMAGE_BYTES / n_classes)))
    splits = [split for split, share in SHARES.items() for _ in range(round(share * n_classes))]
    random, head = np.random.default_rng(0), f"P6 {SOURCE_SIZE} {SOURCE_SIZE} 255\n".encode()
    with path.open("wb") as file:
        for number, split in enumerate(splits):
            pixels = random.integers(0, 256, (per_class, SOURCE_SIZE**2 * 3), dtype=np.uint8)
            for i, image in enumerate(pixels):
                content = head + image.tobytes()
                member = tarfile.TarInfo(f"{split}/class-{number}/{i}.ppm")
                member.size = len(content)
                file.write(member.tobuf(tarfile.USTAR_FORMAT) + content.ljust(tarfile.BLOCKSIZE, b"\0"))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    return len(splits) * per_class


def pack(place: Path) -> None:
    run(PrepareDataSettings(sources=(place / "large.tar",), home=place, image_size=SIZE), SilentReporter())


def verify(place: Path) -> None:
    verify_pack(pack_in(place))


def draw(place: Path) -> dict[str, float]:
    """Return milliseconds of a draw, cold and warm, and of an update, for one episode of an update."""
    from nilr_tasks import NilrTasks

    keep_freed_memory()
    began = time.perf_counter()
    sampler = EpisodeSampler(open_split(pack_in(place), "train", CPU).images, 5, 1, 15, 0, "train")
    opening = time.perf_counter() - began
    drop_pages(pack_in(place))
    cold = timed(lambda i: sampler.draw(range(i * N_EPISODES, (i + 1) * N_EPISODES)))
    warm = timed(lambda i: sampler.draw(range(i * N_EPISODES, (i + 1) * N_EPISODES)))
    engine = NilrTasks("compiled", sampler.draw(range(N_EPISODES)))
    engine.train("maml")
    update = timed(lambda i: engine.train("maml"))
    return {"open and check the split, s": opening, "cold, ms": cold, "warm, ms": warm, "update, ms": update}


def timed(work: Callable[[int], object]) -> float:
    """Return the milliseconds of one of `UPDATES` runs."""
    began = time.perf_counter()
    for i in range(UPDATES):
        work(i)
    return (time.perf_counter() - began) / UPDATES * 1000


def drop_pages(path: Path) -> None:
    """Drop the pages of a file from the cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def pack_in(place: Path) -> Path:
    return place / "datasets" / "large.h5"


STEPS = {"pack": pack, "verify": verify, "draw": draw}


def in_a_process(step: str, place: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, "--place", place], check=True, stdout=subprocess.PIPE
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def main() -> None:
    """Print a row for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the pack")
    parser.add_argument("--place", type=Path, default=None, help="folder for all files; default: a temporary one")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        began = time.perf_counter()
        more = STEPS[options.step](options.place) or {}
        seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time()}
        sys.stdout.write(json.dumps({**seconds, "gigabytes": peak_memory(CPU) / 1e9, **more}))
        return
    place = Path(tempfile.mkdtemp(prefix="nilr-large-", dir=options.place))
    try:
        n_images = write_source(place / "large.tar", options.gigabytes)
        size = n_images * IMAGE_BYTES / 1e9
        sys.stdout.write(
            f"{platform.machine()}, {available_cores()} cores; {n_images:,} images of {SIZE} px, {size:.1f} GB\n\n"
        )
        sys.stdout.write("| step | s | s of CPU | peak memory, GB |\n|---|---|---|---|\n")
        for step in STEPS:
            measured = in_a_process(step, place)
            row = [f"{measured[name]:.0f}" for name in ("seconds", "cpu")]
            sys.stdout.write(f"| {step} | {' | '.join(row)} | {measured['gigabytes']:.2f} |\n")
            sys.stdout.flush()
        warm, cold, update = (measured[f"{name}, ms"] for name in ("warm", "cold", "update"))
        opening = measured["open and check the split, s"]
        sys.stdout.write(
            f"\nTo open and check the split: {opening:.0f} s. To draw the episodes of an update: {warm:.1f} ms, "
            f"{100 * warm / update:.1f} % of an update of {update:.0f} ms; cold {cold:.1f} ms, "
            f"{100 * cold / update:.1f} %.\n"
        )
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
