"""Meta-gradients and accuracies of several gloo processes: the same bits as of one."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import TCPStore

from nilr import distributed, signals
from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.errors import DivergedError, LostProcessError, NilrError
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.registry import ENGINES
from nilr.meta.engine.workers import in_order
from nilr.meta.evaluation import evaluate
from nilr.meta.inner_lr import initial_rates
from nilr.models.registry import build_learner

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
CPU = torch.device("cpu")


def in_processes(n: int, work: Callable[[], Any], directory: Path) -> list[Any]:
    """Return what each of n connected processes computes, in the order of ranks."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env = {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    children = []
    for rank in range(n):
        if (pid := os.fork()) == 0:
            try:
                signals._first_at = None  # a test before may have handled one in this process
                os.environ |= {k: str(v) for k, v in env.items()}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_USE_AGENT_STORE": "True"}
                distributed.join()
                torch.save(work(), directory / str(rank))
                distributed.leave()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * n
    return [torch.load(directory / str(rank)) for rank in range(n)]


def sampler(dtype: torch.dtype) -> EpisodeSampler:
    pixels = torch.randint(256, (24, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = PackedImages(pixels, (6,) * 4)
    return EpisodeSampler(images, n_way=3, n_shot=1, n_query=3, seed=0, stream="train")


def computed(dtype: torch.dtype) -> dict[str, Tensor]:
    """Return meta-gradients of batches of 1 to 5 episodes, and accuracies, of every engine."""
    learner = build_learner("conv4", n_way=3, image_size=16, channels=3, filters=4, seed=1)
    start = {name: value.to(dtype) for name, value in learner.initial_params().items()}
    found: dict[str, Tensor] = {}
    for name, engine_type in ENGINES.items():
        if not engine_type.supports(learner, CPU):
            continue
        engine = engine_type(learner, episode_chunk=2 if name == "batched" else None)
        for row in ("metasgd", "fomaml") if name != "reference" else ("metasgd",):
            algorithm = ALGORITHMS[row]
            rates = {n: v.to(dtype) for n, v in initial_rates(algorithm, start, learner.kinds, seed=2).items()}
            for size in (1, 3, 5):
                drawn = sampler(dtype).draw(range(size))
                batch = Episode(drawn.support_x.to(dtype), drawn.support_y, drawn.query_x.to(dtype), drawn.query_y)
                gradient = engine.meta_gradient(start, rates, batch, Objective(algorithm, 2))
                parts = {"loss": gradient.query_loss, "accuracy": gradient.accuracy, **gradient.params}
                parts |= {f"rate of {n}": value for n, value in gradient.inner_lr.items()}
                found |= {f"{name} {row} {size} {part}": value for part, value in parts.items()}
            if dtype == torch.float32:
                how = {"n_episodes": 7, "steps": 2}
                found[f"{name} {row} accuracies"] = evaluate(engine, start, rates, sampler(dtype), **how)
    return found


@pytest.mark.parametrize(
    ("n", "dtype"),
    [
        (3, torch.float32),
        *(pytest.param(n, torch.float32, marks=pytest.mark.slow) for n in (1, 2, 4)),
        *(pytest.param(n, torch.float64, marks=pytest.mark.slow) for n in (1, 2, 3, 4)),
    ],
)
def test_any_number_of_processes_computes_the_same_bits(tmp_path: Path, n: int, dtype: torch.dtype) -> None:
    expected = computed(dtype)
    for of_rank in in_processes(n, lambda: computed(dtype), tmp_path):
        assert of_rank.keys() == expected.keys()
        assert [name for name, value in expected.items() if not torch.equal(of_rank[name], value)] == []


def test_ranks_exchange_tensors_of_any_shape_and_raise_the_first_failure_together(tmp_path: Path) -> None:
    def work() -> Any:
        rank = distributed.rank()
        ragged = distributed.gather({"rank": rank, "x": torch.full((rank, 2), rank, dtype=torch.int16)})
        long = distributed.gather("a" * (20_000 * rank))
        first = distributed.from_first(lambda: ("rank", distributed.rank(), torch.tensor(2.5)))
        done, errors = [], []

        def square(i: int) -> int:
            if i in (4, 5):
                raise DivergedError(f"item {i}", hint="lower it")
            return i * i

        for run in (lambda: done.extend(in_order(square, range(9), device=CPU)), lambda: distributed.from_first(fail)):
            with pytest.raises(NilrError) as caught:
                run()
            errors.append((caught.value.message, caught.value.hint))
        with pytest.raises(NilrError, match="has another pack than"):
            distributed.check_same({"n_way": 5, "threads": rank}, pack=rank // 2)
        shapes = [(each["rank"], each["x"].tolist()) for each in ragged]
        return shapes, [len(text) for text in long], first[:2], first[2].item(), done, errors

    def fail() -> None:
        raise NilrError("no store", hint="make one")

    expected = (
        [(0, []), (1, [[1, 1]]), (2, [[2, 2], [2, 2]])],
        [0, 20_000, 40_000],
        ("rank", 0),
        2.5,
        [0, 1, 4, 9],
        [("item 4", "lower it"), ("no store", "make one")],
    )
    assert in_processes(3, work, tmp_path) == [expected] * 3


def test_one_process_needs_no_others() -> None:
    assert (distributed.rank(), distributed.size(), distributed.prints()) == (0, 1, True)
    assert distributed.gather("a") == ["a"]
    assert distributed.from_first(lambda: 3) == 3
    distributed.check_same({"n_way": 5}, pack="a")
    assert distributed.reports(LostProcessError("lost"))


def test_an_operation_that_never_completes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging:
        def is_completed(self) -> bool:
            return False

    ignored = []
    monkeypatch.setattr(distributed, "ignore_signals", lambda: ignored.append(True))
    monkeypatch.setattr(distributed, "PATIENCE", 0.05)
    with pytest.raises(LostProcessError, match="has ended or does not respond"):
        distributed._wait(Hanging())
    assert ignored
