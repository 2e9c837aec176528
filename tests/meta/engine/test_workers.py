import threading
import time

import pytest
import torch

from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.meta.engine.workers import in_order, workers
from tests.meta.engine.test_engines import batch, model

CPU = torch.device("cpu")


@pytest.fixture
def three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_outcomes_come_in_the_order_of_the_items_whichever_is_done_first() -> None:
    def work(i: int) -> int:
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    assert list(in_order(work, range(20), device=CPU)) == [i * i for i in range(20)]


@pytest.mark.usefixtures("three_threads")
def test_each_piece_computes_on_one_core_and_leaves_the_callers_threads_alone() -> None:
    outcomes = in_order(lambda _: (torch.get_num_threads(), threading.get_ident()), range(12), device=CPU)
    threads, workers = zip(*outcomes, strict=True)
    assert set(threads) == {1}
    assert threading.get_ident() not in workers
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_thread_that_starts_later_has_the_callers_number_of_threads() -> None:
    list(in_order(lambda i: i, range(6), device=CPU))
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3]


@pytest.mark.usefixtures("three_threads")
def test_no_more_than_two_items_per_thread_are_taken_ahead() -> None:
    taken = 0

    def items() -> object:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield i

    outcomes = in_order(lambda i: i, items(), device=CPU)  # type: ignore[arg-type]
    next(outcomes)
    assert taken <= 6


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("at_most", [1, 2, 5])
def test_no_more_items_are_done_at_the_same_time_than_asked_for_and_each_on_one_core(at_most: int) -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def work(i: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1
        return torch.get_num_threads()

    assert set(in_order(work, range(12), device=CPU, at_most=at_most)) == {1}
    assert most == min(at_most, 3) == workers(CPU, at_most)


@pytest.mark.usefixtures("three_threads")
def test_an_error_comes_to_the_caller_and_ends_the_rest() -> None:
    done = []

    def work(i: int) -> int:
        if i == 5:
            raise ValueError("five")
        done.append(i)
        return i

    with pytest.raises(ValueError, match="five"):
        list(in_order(work, range(1000), device=CPU))
    assert len(done) < 20


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("enabled", [True, False])
def test_work_sees_the_callers_grad_mode(enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        assert set(in_order(lambda _: torch.is_grad_enabled(), range(6), device=CPU)) == {enabled}


@pytest.mark.usefixtures("one_thread")
def test_with_one_thread_the_caller_does_the_work() -> None:
    assert set(in_order(lambda _: threading.get_ident(), range(4), device=CPU)) == {threading.get_ident()}


@pytest.mark.usefixtures("three_threads")
def test_single_episodes_of_several_models_are_computed_at_the_same_time_with_the_bits_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner, params, rates = model("conv4", ALGORITHMS["metasgd"])
    starts = [params, {name: 0.9 * value for name, value in params.items()}]
    episodes = [batch(seed, n_episodes=1) for seed in range(2)]
    objective, engine = Objective(ALGORITHMS["metasgd"], 1), ExplicitEngine(learner)
    alone = [
        engine.meta_gradient(start, rates, drawn, objective) for start, drawn in zip(starts, episodes, strict=True)
    ]
    both, make_task = threading.Barrier(2, timeout=60), engine._task

    def wait_for_the_other(*args: object, **kwargs: object) -> object:
        both.wait()
        return make_task(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_task", wait_for_the_other)
    together = engine.meta_gradients(starts, [rates] * 2, episodes, objective)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.query_loss, other.query_loss)
        assert all(torch.equal(value, other.params[name]) for name, value in one.params.items())
        assert all(torch.equal(value, other.inner_lr[name]) for name, value in one.inner_lr.items())
