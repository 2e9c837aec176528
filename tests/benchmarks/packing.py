"""Times the data side: `prepare-data` against decoding alone, and an episode's draw against its training.

    python packing.py [--source DIRECTORY] [--rounds N]        # or `make bench-packing`

Decoding alone has every image's bytes in memory and keeps no pixels: by Pillow as one writes it
(`Image.open(...).convert("RGB")` into an array), in a thread per core, which does not keep them all busy, and in a
process per core, which does; and by the product's own `decode_images`, in threads. Everything is done once in every
round; rates are medians over the rounds, and ratios medians of same-round pairs, with quartiles beside them.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from nilr_tasks import NilrTasks
from PIL import Image
from work import EPISODES

from nilr.config.packs import PrepareDataSettings
from nilr.data.sources.containers import list_sources
from nilr.data.sources.decoding import decode_images
from nilr.data.sources.members import fetch_all
from nilr.episodes import EpisodeSampler
from nilr.limits import available_cores
from nilr.recipes.common.packs import open_split
from nilr.recipes.prepare_data import run
from nilr.reporting import SilentReporter
from nilr.runtime import keep_freed_memory

CHUNK = 64
N_EPISODES = EPISODES["maml"]
DRAWS = 50
DECODED = ("Pillow alone, threads", "Pillow alone, processes", "the product's decoder alone")
PACKED = ("prepare-data, its packing stage", "prepare-data, the whole run")


def payloads(archives: Sequence[Path]) -> list[bytes]:
    """Read all encoded images into memory."""
    images = list_sources(archives).images
    return [payload for _, payload in fetch_all(images) if isinstance(payload, bytes)]


def by_pillow(chunk: list[bytes]) -> None:
    for content in chunk:
        np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def by_product(chunk: list[bytes]) -> None:
    decode_images(chunk, 84, "bilinear")


def decoding_rate(decode: Callable[[list[bytes]], None], images: list[bytes]) -> float:
    """Return images per second with a thread per core."""
    chunks = [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
    with ThreadPoolExecutor(available_cores()) as pool:
        began = time.perf_counter()
        for _ in pool.map(decode, chunks):
            pass
        return len(images) / (time.perf_counter() - began)


def process_rate(images: list[bytes]) -> float:
    """Return Pillow's images per second with a process per core; each decodes its share, which it was born with."""
    context = multiprocessing.get_context("fork")
    shares = [images[i :: available_cores()] for i in range(available_cores())]
    workers = [context.Process(target=by_pillow, args=(share,)) for share in shares]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(images) / (time.perf_counter() - began)


def packing_rates(archives: Sequence[Path], home: Path) -> tuple[float, float]:
    """Pack into a new home; return images per second of the packing stage, and of the whole run."""
    settings = PrepareDataSettings(sources=tuple(archives), home=home, force=True)
    (home / "datasets" / "mini-imagenet.h5").unlink(missing_ok=True)
    began = time.perf_counter()
    metrics = run(settings, SilentReporter()).metrics
    seconds = time.perf_counter() - began
    return metrics.images_per_second, sum(split.images for split in metrics.splits.values()) / seconds


def spread(values: Sequence[float], form: str) -> str:
    low, middle, high = (format(value, form) for value in statistics.quantiles(values, n=4))
    return f"{middle} ({low}-{high})"


def pack_rows(archives: Sequence[Path], home: Path, rounds: int) -> list[str]:
    images = payloads(archives)
    rates: dict[str, list[float]] = {name: [] for name in DECODED + PACKED}
    for _ in range(rounds):
        measured = (
            decoding_rate(by_pillow, images),
            process_rate(images),
            decoding_rate(by_product, images),
            *packing_rates(archives, home),
        )
        for name, rate in zip(rates, measured, strict=True):
            rates[name].append(rate)
    rows = [f"| | images/s (quartiles) | {' | '.join(f'times {name}' for name in DECODED)} |", "|---|---|---|---|---|"]
    for name, measured_rates in rates.items():
        ratios = [
            spread([own / base for own, base in zip(measured_rates, rates[alone], strict=True)], ".2f")
            for alone in DECODED
        ]
        rows.append(f"| {name} | {spread(measured_rates, ',.0f')} | {' | '.join(ratios)} |")
    return rows


def episode_rows(pack: Path, rounds: int) -> list[str]:
    """Compare drawing the episodes of an update, from the pack, with the update itself."""
    sampler = EpisodeSampler(open_split(pack, "train", torch.device("cpu")).images, 5, 1, 15, 0, "train")
    engine = NilrTasks("compiled", sampler.draw(range(N_EPISODES)))
    draw: list[float] = []
    update: dict[str, list[float]] = {"maml": [], "metasgd": []}
    for task in update:
        engine.train(task)
    for round_ in range(rounds):
        began = time.perf_counter()
        for i in range(DRAWS):
            first = (round_ * DRAWS + i) * N_EPISODES
            sampler.draw(range(first, first + N_EPISODES))
        draw.append((time.perf_counter() - began) / DRAWS / N_EPISODES * 1000)
        for task, seconds in update.items():
            began = time.perf_counter()
            engine.train(task)
            seconds.append((time.perf_counter() - began) / N_EPISODES * 1000)
    rows = ["| one episode of 4 | ms (quartiles) | its draw, in % of that |", "|---|---|---|"]
    rows.append(f"| draw | {spread(draw, '.2f')} | |")
    for task, times in update.items():
        shares = [100 * own / whole for own, whole in zip(draw, times, strict=True)]
        rows.append(f"| {task} update | {spread(times, '.1f')} | {spread(shares, '.2f')} |")
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("NILR_MINI_IMAGENET", "../shared/mini-imagenet")
    parser.add_argument("--source", type=Path, default=Path(default), help="directory with train, val and test.tar")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    archives = [options.source / f"{split}.tar" for split in ("train", "val", "test")]
    sys.stdout.write(f"{platform.machine()}, {available_cores()} cores, {options.rounds} rounds\n\n")
    with tempfile.TemporaryDirectory() as home:
        sys.stdout.write("\n".join(pack_rows(archives, Path(home), options.rounds)) + "\n\n")
        keep_freed_memory()
        rows = episode_rows(Path(home) / "datasets" / "mini-imagenet.h5", options.rounds)
        sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
