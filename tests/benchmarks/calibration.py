"""Trains and tests with learn2learn on a pack, for a known answer to hold nilr's own training against.

    python tests/benchmarks/calibration.py PACK --algo maml --updates 1500 --seed 0 --peers build/peers

Nothing but the network's first parameters comes from nilr: the images are read with h5py, episodes drawn with numpy,
the inner loop is learn2learn's, and accuracies are counted here. 5-way 1-shot, 15 queries per class, 4 episodes per
update, Adam at 1e-3, all parameters adapted, as `nilr meta-train --norm-adapted` does; the head's accuracy, and that of
the nearest support feature by cosine before adaptation, on test episodes. Prints one JSON object.

With --exact both train in this process, in float64, from the same parameters and on the same episodes, and are compared
after every tenth update: how far all that is learned is apart, relative to the way that it has gone. In float32 no two
engines stay together: Adam's first steps go by signs of gradients, and those as small as their rounding have any.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from peer_tasks import Learn2Learn, nearest_accuracy, share
from peers import fetch_learn2learn, progress
from work import FILTERS, N_QUERY, N_SHOT, N_WAY, PeerNet, Setup

from nilr.episodes import Episode
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.registry import choose_engine
from nilr.meta.inner_lr import initial_rates
from nilr.meta.outer_loop import OuterLoop, OuterSettings, Report, meta_gradients
from nilr.models.registry import build_learner

EPISODES_PER_UPDATE, OUTER_LR = 4, 1e-3
RATE = {"maml": 0.05, "metasgd": 0.01}
STEPS = {"maml": (5, 10), "metasgd": (1, 1)}
"""Inner steps in training and at test."""


class Images:
    """The images of one split, by class.

    Args:
        pack: the HDF5 file.
        split: its group.
    """

    def __init__(self, pack: Path, split: str) -> None:
        with h5py.File(pack) as file:
            self._pixels, labels = file[split]["images"][:], file[split]["labels"][:]
        self._rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.size = self._pixels.shape[1]

    def episode(self, numbers: np.random.Generator) -> Episode:
        """Draw classes, and images of each without replacement."""
        classes = numbers.choice(len(self._rows), N_WAY, replace=False)
        rows = np.stack([numbers.choice(self._rows[c], N_SHOT + N_QUERY, replace=False) for c in classes])
        support, query = (self._batch(rows[:, part]) for part in (slice(N_SHOT), slice(N_SHOT, None)))
        return Episode(*support, *query)

    def _batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.from_numpy(self._pixels[rows.reshape(-1)]).permute(0, 3, 1, 2).contiguous()
        return pixels.float() / 255, torch.arange(N_WAY).repeat_interleave(rows.shape[1])


class Training:
    """learn2learn's outer loop.

    Args:
        peer: what adapts.
        algo: the algorithm.
    """

    def __init__(self, peer: Learn2Learn, algo: str) -> None:
        self._peer, self._algo = peer, algo
        self.learned = [*peer.net.parameters(), *(peer.rates if algo == "metasgd" else [])]
        self._optimiser = torch.optim.Adam(self.learned, lr=OUTER_LR)

    def update(self, episodes: Sequence[Episode]) -> None:
        """Take one outer step."""
        self._optimiser.zero_grad()
        for episode in episodes:
            with self._peer.adapted(self._algo, episode, steps=STEPS[self._algo][0], second_order=True) as net:
                (F.cross_entropy(net(episode.query_x), episode.query_y) / len(episodes)).backward()
        self._optimiser.step()


def train(peer: Learn2Learn, algo: str, images: Images, updates: int, seed: int) -> float:
    """Meta-train, and return the seconds of an update."""
    training, numbers, started = Training(peer, algo), np.random.default_rng(seed), time.monotonic()
    for update in range(updates):
        training.update([images.episode(numbers) for _ in range(EPISODES_PER_UPDATE)])
        if update % 100 == 99:
            progress(f"{algo}: {update + 1} of {updates} updates, {(time.monotonic() - started) / (update + 1):.3f} s")
    return (time.monotonic() - started) / updates


def compare(peer: Learn2Learn, algo: str, images: Images, updates: int, seed: int) -> dict[str, float]:
    """Train nilr's way and learn2learn's in float64 on the same episodes, and return how far apart they come."""
    learner = build_learner("conv4", n_way=N_WAY, image_size=images.size, filters=FILTERS, seed=seed).double()
    params = learner.initial_params()
    steps, rate = STEPS[algo][0], str(RATE[algo])
    row = dataclasses.replace(ALGORITHMS[algo], norm_adapted=True, inner_lr_init=rate)
    settings = OuterSettings(OUTER_LR, None, steps, updates)
    engine = choose_engine("auto", learner, torch.device("cpu"))
    loop = OuterLoop(row, params, initial_rates(row, params, learner.kinds, seed), engine=engine, settings=settings)
    training, numbers, apart = Training(peer, algo), np.random.default_rng(seed), {}
    first = _joined(training.learned)
    for update in range(updates):
        episodes = [_in_float64(images.episode(numbers)) for _ in range(EPISODES_PER_UPDATE)]
        training.update(episodes)
        parts = ([getattr(e, f.name) for e in episodes] for f in dataclasses.fields(Episode))
        batch = Episode(*map(torch.stack, parts))
        (gradient,) = meta_gradients([loop], [batch], None)
        report = Report(*loop.stage(gradient).tolist())
        loop.apply(gradient, report, outer_step=update, first_episode=update * EPISODES_PER_UPDATE)
        if update + 1 in (1, updates) or update % 10 == 9:
            rates = [loop.inner_lr[name] for name in params] if algo == "metasgd" else []
            own, other = _joined([*(loop.params[name] for name in params), *rates]), _joined(training.learned)
            apart[str(update + 1)] = float((own - other).norm() / (other - first).norm())
    return apart


def _joined(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.detach().reshape(-1) for value in values])


def _in_float64(e: Episode) -> Episode:
    return Episode(e.support_x.double(), e.support_y, e.query_x.double(), e.query_y)


def judge(peer: Learn2Learn, algo: str, images: Images, n_episodes: int) -> dict[str, dict[str, float]]:
    """Return accuracies of the adapted head, and of nearest neighbours in features that are not adapted."""
    numbers = np.random.default_rng(1_000_000)
    head, neighbour = [], []
    for _ in range(n_episodes):
        episode = images.episode(numbers)
        with peer.adapted(algo, episode, steps=STEPS[algo][1], second_order=False) as net, torch.no_grad():
            head.append(share(net(episode.query_x).argmax(1), episode.query_y))
        with torch.no_grad():
            neighbour.append(nearest_accuracy(peer.net, episode))
    return {"head": _interval(head), "meta_init": _interval(neighbour)}


def _interval(values: list[float]) -> dict[str, float]:
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.mean(values), "ci95": half, "n_episodes": len(values)}


def main() -> None:
    """Train, test and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--algo", choices=list(RATE), default="maml")
    parser.add_argument("--updates", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-episodes", type=int, default=1_000)
    parser.add_argument("--exact", action="store_true", help="compare with nilr, update by update, in float64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", type=Path, default=Path("build/peers"), help="where learn2learn is unpacked")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = Images(options.pack, "train")
    net = PeerNet(Setup(size=images.size), options.seed).to(torch.float64 if options.exact else torch.float32)
    peer = Learn2Learn(fetch_learn2learn(options.peers), net, RATE[options.algo])
    if options.exact:
        apart = compare(peer, options.algo, images, options.updates, options.seed)
        sys.stdout.write(json.dumps({"algo": options.algo, "seed": options.seed, "relative_distance": apart}) + "\n")
        return
    seconds = train(peer, options.algo, images, options.updates, options.seed)
    found = judge(peer, options.algo, Images(options.pack, "test"), options.n_episodes)
    negative = {"share_negative": _negative(peer)} if options.algo == "metasgd" else {}
    about = {"algo": options.algo, "updates": options.updates, "seed": options.seed, "seconds_per_update": seconds}
    sys.stdout.write(json.dumps(about | negative | found, indent=2) + "\n")


def _negative(peer: Learn2Learn) -> float:
    return float((torch.cat([rate.detach().reshape(-1) for rate in peer.rates]) < 0).double().mean())


if __name__ == "__main__":
    main()
