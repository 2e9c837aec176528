"""Times nilr against learn2learn on the same network, data and threads, interleaved in one run: `make bench`.

Each contender is a process of its own, so that peak memory and the allocator's setting are its own too; in every round
each does the task once. Ratios are medians over the rounds of same-round pairs, with the quartiles beside them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
TASKS = ("maml", "metasgd", "evaluation", "probe")
WORK = {
    "maml": "one update, 4 episodes, 5 steps, second order",
    "metasgd": "one update, 4 episodes, 1 step, second order",
    "evaluation": "4 episodes, 10 steps",
    "probe": "4 episodes, three protocols, 10 steps",
}
# contender, allocator: nilr sets glibc's allocator itself; a peer runs as it is installed, and with nilr's setting too
CONTENDERS = (("compiled", "keep"), ("explicit", "keep"), ("learn2learn", "plain"), ("learn2learn", "keep"))


def fetch_learn2learn(directory: Path) -> Path:
    """Return the unpacked source distribution; the package itself does not build on Python 3.11 and newer."""
    unpacked = directory / "learn2learn-0.2.0"
    if not unpacked.exists():
        directory.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "learn2learn==0.2.0", "-d", str(directory)], check=True)
        with tarfile.open(directory / "learn2learn-0.2.0.tar.gz") as archive:
            archive.extractall(directory, filter="data")
    return unpacked


class Contender:
    """A process that does tasks on demand."""

    def __init__(self, name: str, allocator: str, peers: Path, threads: int) -> None:
        command = [sys.executable, str(HERE / "contender.py"), name, str(peers), str(threads), allocator]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, task: str) -> tuple[float, float, int]:
        """Do a task once; return seconds, the value it computed, and peak resident memory in kB."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        seconds, value, peak = self.process.stdout.readline().split()
        return float(seconds), float(value), int(peak)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run_task(task: str, rounds: int, peers: Path, threads: int) -> list[str]:
    """Return the table's rows for one task."""
    contenders = {key: Contender(*key, peers, threads) for key in CONTENDERS}
    warm = {key: contender.do(task) for key, contender in contenders.items()}
    values = [value for _, value, _ in warm.values()]
    if max(values) - min(values) > 0.02 * abs(values[0]):
        raise SystemExit(f"the contenders do not compute the same: {task} {values}")
    times: dict[tuple[str, str], list[float]] = {key: [] for key in CONTENDERS}
    peaks: dict[tuple[str, str], int] = {}
    for _ in range(rounds):
        for key, contender in contenders.items():
            seconds, _, peaks[key] = contender.do(task)
            times[key].append(seconds)
    for contender in contenders.values():
        contender.close()
    reference = times["learn2learn", "plain"]
    rows = []
    for (name, allocator), measured in times.items():
        ratios = [theirs / own for theirs, own in zip(reference, measured, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        who = name if allocator == "plain" or name != "learn2learn" else f"{name}, allocator kept"
        rows.append(
            f"| {task} | {who} | {statistics.median(measured):.3f} | {middle:.2f} ({low:.2f}-{high:.2f}) "
            f"| {peaks[name, allocator] / 1024:.0f} |"
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    options = parser.parse_args()
    peers = fetch_learn2learn(options.peers)
    write = sys.stdout.write
    write(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, {options.rounds} rounds\n\n")
    write("| task | contender | seconds | times learn2learn (quartiles) | peak MB |\n|---|---|---|---|---|\n")
    for task in options.tasks:
        for row in run_task(task, options.rounds, peers, options.threads):
            write(row + "\n")
            sys.stdout.flush()
    write("\n" + "; ".join(f"{task}: {WORK[task]}" for task in options.tasks) + "\n")


if __name__ == "__main__":
    main()
