"""Several cores for one episode: the same bits on any number, and the fastest way to share them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nilr.episodes import Episode
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine import native
from nilr.meta.engine.contract import MetaGradient, Objective
from nilr.meta.engine.convolution import WinogradConvolution
from nilr.meta.engine.explicit import CompiledEngine, WinogradEngine
from nilr.meta.engine.workers import CoreSharing, Share, in_order, shares
from nilr.models.registry import build_learner
from tests.meta.engine.test_convolution import DIRECT, SHAPES, all_passes
from tests.meta.engine.test_engines import batch, model

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(
    native.library() is None, reason="the kernels were not built: is there a C compiler?"
)


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_items", "threads", "at_once", "expected"),
    [
        (4, 1, 1, [(1, 1)]),
        (4, 2, 2, [(2, 1)]),
        (4, 4, 4, [(4, 1)]),
        (8, 4, 4, [(4, 1)]),
        (4, 16, 16, [(4, 1), (4, 4), (2, 8), (1, 16)]),
        (4, 6, 6, [(4, 1), (2, 3), (1, 6)]),
        (4, 3, 3, [(3, 1), (1, 3)]),
        (1, 2, 2, [(1, 1), (1, 2)]),
        (4, 4, 2, [(2, 1), (2, 2), (1, 4)]),  # --episode-chunk 2
    ],
)
def test_ways_to_share_cores_use_more_of_them_than_one_per_item(
    n_items: int, threads: int, at_once: int, expected: list[tuple[int, int]]
) -> None:
    assert shares(n_items, threads, at_once) == [Share(*way) for way in expected]


@pytest.mark.usefixtures("_threads")
def test_every_way_is_timed_and_then_the_fastest_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(16)
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    seconds = {Share(4, 1): 5.0, Share(4, 4): 3.0, Share(2, 8): 2.0, Share(1, 16): 4.0}
    sharing, chosen = CoreSharing(), []
    for call in range(20):
        assert sharing.settled == (call in (0, *range(12, 20)))
        with sharing.choose(4, 16) as share:
            clock[0] += seconds[share] + (100 if call < 4 else 0)  # the first calls are slow
        chosen.append(share)
    assert {share: chosen[:12].count(share) for share in seconds} == dict.fromkeys(seconds, 3)
    assert chosen[12:] == [Share(2, 8)] * 8


@pytest.mark.usefixtures("_threads")
def test_another_number_of_items_or_threads_is_timed_again() -> None:
    sharing = CoreSharing()
    for threads, n_items in ((2, 1), (3, 1), (3, 2)):
        torch.set_num_threads(threads)
        with sharing.choose(n_items, threads) as share:
            assert share == Share(n_items, 1)


@needs_kernels
@pytest.mark.usefixtures("_threads")
def test_each_thread_uses_the_cores_of_its_item_and_the_caller_keeps_its_own() -> None:
    torch.set_num_threads(4)
    assert set(in_order(lambda _: (native.cores(), torch.get_num_threads()), range(6), device=CPU, cores=2)) == {(2, 1)}
    assert set(in_order(lambda _: native.cores(), range(6), device=CPU)) == {1}
    assert native.cores() == 1


@needs_kernels
@pytest.mark.usefixtures("_threads", "one_thread")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (40, 21, 21, 32, 32)], ids=str)  # the last one has several sections
def test_convolutions_have_the_same_bits_on_any_number_of_cores(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    one = all_passes(WinogradConvolution(DIRECT), *shape, dtype)
    for cores in (2, 3, 7):
        with ThreadPoolExecutor(1, initializer=native.use_cores, initargs=(cores,)) as pool:
            found = pool.submit(all_passes, WinogradConvolution(DIRECT), *shape, dtype).result()
        assert all(torch.equal(value, expected) for value, expected in zip(found, one, strict=True))


def with_cores(engine: CompiledEngine, cores: int, monkeypatch: pytest.MonkeyPatch) -> CompiledEngine:
    """Return the engine with two episodes at the same time, and so many cores for each."""
    torch.set_num_threads(2)
    monkeypatch.setattr(engine, "_share", lambda _items, _at_once: contextlib.nullcontext(Share(2, cores)))
    return engine


def same(one: MetaGradient, other: MetaGradient) -> bool:
    pairs = [(one.query_loss, other.query_loss)]
    pairs += [(value, other.params[name]) for name, value in one.params.items()]
    pairs += [(value, other.inner_lr[name]) for name, value in one.inner_lr.items()]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.sampled(6)
@needs_kernels
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("engine", [CompiledEngine, WinogradEngine], ids=lambda engine: engine.name)
@pytest.mark.parametrize("arch", ["conv4", "resnet12", "mixed"])
@pytest.mark.parametrize("inductive", [False, True], ids=["apart", "inductive"])
def test_meta_gradients_have_the_same_bits_on_any_number_of_cores(
    engine: type[CompiledEngine], arch: str, inductive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, params, rates = model(arch, ALGORITHMS["metasgd"])
    objective = Objective(ALGORITHMS["metasgd"], 2, inductive=inductive)
    engines = (with_cores(engine(learner), cores, monkeypatch) for cores in (1, 2, 3))
    one, *others = (engine.meta_gradient(params, rates, batch(), objective) for engine in engines)
    assert all(same(one, other) for other in others)


@needs_kernels
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("threads", "n_episodes"), [(2, 1), (3, 2)])
def test_updates_have_the_same_bits_while_cores_are_timed_and_after(threads: int, n_episodes: int) -> None:
    learner = build_learner("conv4", n_way=3, image_size=18, seed=0, filters=16)
    params = learner.initial_params()
    rates = {name: torch.full_like(value, 0.01) for name, value in params.items()}
    drawn = batch(n_episodes=n_episodes)
    episodes = Episode(drawn.support_x.float(), drawn.support_y, drawn.query_x.float(), drawn.query_y)
    objective = Objective(ALGORITHMS["metasgd"], 1)
    torch.set_num_threads(1)
    one = WinogradEngine(learner).meta_gradient(params, rates, episodes, objective)
    torch.set_num_threads(threads)
    engine = WinogradEngine(learner)
    assert all(same(one, engine.meta_gradient(params, rates, episodes, objective)) for _ in range(8))
