"""Updates taken together, and captured, are those that each loop takes alone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.errors import DivergedError
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.cuda_graphs import Capture, capture_on
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.registry import ENGINES
from nilr.meta.inner_lr import initial_rates
from nilr.meta.outer_loop import OuterLoop, OuterSettings
from nilr.meta.updates import Update, Updates
from nilr.models.registry import build_learner
from tests.meta.recording import Failing, SeenError, Tapes, Watching
from tests.meta.steps import take_step

pytestmark = pytest.mark.usefixtures("one_thread")

N_EPISODES, UPDATES = 2, 5
BATCHED = ENGINES["batched"]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
# 15 % of 20 updates have weights: the third is the last of them
SETTINGS = OuterSettings(0.01, 0.05, 2, 20, "cosine", multi_step_loss=True)


def loops(
    algo: str,
    capture: Capture | None,
    *,
    engine: type[Engine] = BATCHED,
    chunk: int | None = None,
    precision: torch.dtype | None = None,
    device: str = "cpu",
    **settings: Any,
) -> list[OuterLoop]:
    made = []
    for seed in range(2):
        learner = build_learner("conv4", n_way=3, image_size=16, filters=4, seed=seed)
        params = {name: value.to(device) for name, value in learner.initial_params().items()}
        row = dataclasses.replace(ALGORITHMS[algo], inner_steps=2)
        rates = initial_rates(row, params, learner.kinds, seed)
        bound = engine(learner, precision=precision, episode_chunk=chunk)
        how = dataclasses.replace(SETTINGS, **settings)
        made.append(OuterLoop(row, params, rates, engine=bound, settings=how, capture=capture))
    return made


def samplers(device: str = "cpu") -> list[EpisodeSampler]:
    pixels = torch.randint(0, 256, (32, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = PackedImages(pixels.to(device), (6, 8, 7, 5, 6))
    return [EpisodeSampler(images, 3, 1, 2, seed, "train") for seed in range(2)]


def updates(outers: list[OuterLoop], device: str = "cpu") -> Updates:
    return Updates(outers, samplers(device), N_EPISODES)


def take(outers: list[OuterLoop], computed: list[Update], step: int) -> None:
    for outer, update in zip(outers, computed, strict=True):
        outer.apply(update.gradient, update.report, outer_step=step, first_episode=step * N_EPISODES)


def state(outers: list[OuterLoop]) -> list[dict[str, list[float]]]:
    return [{name: value.reshape(-1).tolist() for name, value in outer.state().items()} for outer in outers]


def train(outers: list[OuterLoop], first: int = 0, last: int = UPDATES) -> list[Any]:
    """Take updates, and return each one's report and the state after it."""
    together, seen = updates(outers), []
    for step in range(first, last):
        computed = together.compute(step)
        take(outers, computed, step)
        seen.append(([update.report for update in computed], state(outers)))
    return seen


def of_tapes() -> Capture:
    return Capture(Tapes().record, pytest.fail)


def uncaptured() -> Capture:
    """Return what leaves everything uncaptured, but for Adam's kind."""
    return Capture(Failing(RuntimeError("no")).record, lambda note: None)


@pytest.mark.parametrize("engine", ["explicit", "batched", "reference"])
def test_updates_are_the_outer_steps_of_each_loop_alone(engine: str) -> None:
    together = loops("metasgd", None, engine=ENGINES[engine])
    seen = train(together)
    for i, (alone, sampler) in enumerate(zip(loops("metasgd", None, engine=ENGINES[engine]), samplers(), strict=True)):
        for step in range(UPDATES):
            first = step * N_EPISODES
            gradient = take_step(alone, sampler.draw([first, first + 1]), outer_step=step, first_episode=first)
            report = seen[step][0][i]
            assert report.query_loss == pytest.approx(gradient.query_loss.mean().item(), rel=1e-5)
            assert report.accuracy == gradient.accuracy.mean().item()
        # `batched` sums several models in another order
        for name, value in alone.state().items():
            found = together[i].state()[name]
            torch.testing.assert_close(found, value, rtol=0, atol=0 if engine != "batched" else 1e-3)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_captured_updates_are_bit_for_bit_those_that_are_not(algo: str) -> None:
    assert train(loops(algo, of_tapes())) == train(loops(algo, uncaptured()))


def test_captured_updates_are_near_those_of_the_plain_adam() -> None:
    captured, plain = (loops("metasgd", capture, engine=BATCHED) for capture in (of_tapes(), None))
    train(captured, last=1)
    train(plain, last=1)
    for name, value in plain[0].state().items():
        torch.testing.assert_close(captured[0].state()[name], value, rtol=1e-5, atol=1e-7)


def test_chunks_of_episodes_are_captured() -> None:
    assert train(loops("maml", of_tapes(), chunk=1)) == train(loops("maml", uncaptured(), chunk=1))


def test_bf16_is_captured() -> None:
    rounded = torch.bfloat16
    captured, plain = (loops("maml", capture, precision=rounded) for capture in (of_tapes(), uncaptured()))
    assert train(captured) == train(plain)


def test_each_half_is_captured_once_and_the_first_again_when_the_weights_end() -> None:
    recorder = Tapes()
    train(loops("maml", Capture(recorder.record, pytest.fail)))
    # meta-gradients with weights and without; Adam of each loop
    assert recorder.recorded == 2 + 2
    assert recorder.played == UPDATES * (1 + 2)


def test_a_captured_update_draws_the_episodes_of_its_number() -> None:
    outers = loops("maml", of_tapes())
    together = updates(outers)
    for step in (0, 1, 7):
        for update, sampler in zip(together.compute(step), samplers(), strict=True):
            expected = sampler.draw(range(step * N_EPISODES, (step + 1) * N_EPISODES))
            for field in dataclasses.fields(Episode):
                assert torch.equal(getattr(update.episodes, field.name), getattr(expected, field.name))


def test_captured_updates_go_on_bit_for_bit() -> None:
    whole = loops("metasgd", of_tapes())
    train(whole)
    stopped, resumed = loops("metasgd", of_tapes()), loops("metasgd", of_tapes())
    train(stopped, last=2)
    for before, after in zip(stopped, resumed, strict=True):
        after.load_state({name: value.clone() for name, value in before.state().items()})
    train(resumed, first=2)
    assert state(resumed) == state(whole)


def test_one_state_serves_captured_and_plain_loops() -> None:
    captured, plain = loops("metasgd", of_tapes()), loops("metasgd", None)
    train(captured, last=2)
    for before, after in zip(captured, plain, strict=True):
        after.load_state({name: value.clone() for name, value in before.state().items()})
    assert state(captured) == state(plain)
    train(plain, first=2)


def test_a_loop_that_is_not_finite_is_named_and_stays_while_the_other_steps() -> None:
    outers = loops("maml", of_tapes(), multi_step_loss=False)
    together = updates(outers)
    take(outers, together.compute(0), 0)
    good = outers[1].params["head.bias"].clone()
    outers[1].params["head.bias"][0] = math.nan
    before = state(outers)
    first, second = together.compute(1)
    assert first.report.finite
    assert not second.report.finite
    take(outers[:1], [first], 1)
    with pytest.raises(DivergedError, match="the query loss is nan at outer step 1, episode 2"):
        take(outers[1:], [second], 1)
    # NaN differs from itself, so that the two are compared as they are written
    assert repr(state(outers)[1]) == repr(before[1])
    assert state(outers)[0] != before[0]
    outers[1].params["head.bias"].copy_(good)
    take(outers, together.compute(2), 2)


NO_CUDA = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows no CUDA")


@contextlib.contextmanager
def without_numbers(algo: str, steps: int, n_seeds: int, device: str) -> Iterator[Updates]:
    """Give updates, their first half watched, on tensors without numbers, which may not mix with the host's."""
    learner = build_learner("conv4", n_way=5, image_size=16, filters=4)
    row = dataclasses.replace(ALGORITHMS[algo], inner_steps=steps)
    here = learner.initial_params()
    learned = here, initial_rates(row, here, learner.kinds, 0)
    with FakeTensorMode() if device == "cuda" else contextlib.nullcontext():
        given = [
            {name: torch.empty(value.shape, device=device) for name, value in values.items()} for values in learned
        ]
        images = PackedImages(torch.empty((160, 16, 16, 3), dtype=torch.uint8, device=device), (20,) * 8)
        how = dataclasses.replace(SETTINGS, inner_steps=steps, multi_step_loss=steps > 1)
        capture = Capture(Watching().record, pytest.fail)
        outers = [
            OuterLoop(row, *given, engine=BATCHED(learner), settings=how, capture=capture) for _ in range(n_seeds)
        ]
        yield Updates(outers, [EpisodeSampler(images, 5, 1, 15, seed, "train") for seed in range(n_seeds)], 4)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=NO_CUDA)])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_nothing_between_sampling_and_the_meta_gradient_waits_or_leaves_the_device(algo: str, device: str) -> None:
    with without_numbers(algo, 2, 2, device) as together:
        for step in (0, 19):
            with pytest.raises(SeenError):
                together.compute(step)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("algo", "steps", "n_seeds", "most"), [("maml", 5, 1, 2900), ("maml", 5, 5, 3500), ("metasgd", 1, 5, 1900)]
)
def test_an_update_is_no_more_operations_than_the_documentation_says(
    algo: str, steps: int, n_seeds: int, most: int
) -> None:
    with without_numbers(algo, steps, n_seeds, "meta") as together, pytest.raises(SeenError) as seen:
        together.compute(19)
    assert most / 2 < seen.value.args[0] <= most


def test_an_engine_that_waits_for_the_device_cannot_be_captured() -> None:
    assert not ENGINES["explicit"].capturable
    recorder, notes = Tapes(), list[str]()
    train(loops("maml", Capture(recorder.record, notes.append), engine=ENGINES["explicit"]), last=1)
    assert recorder.recorded == 0
    assert "waits for the device" in notes[0]


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("algo", ["maml", "metasgd", "anil"])
def test_a_gpu_takes_captured_updates_as_those_that_are_not(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    seen = []
    for capture in (capture_on(torch.device("cuda:0"), pytest.fail), uncaptured()):
        outers = loops(algo, capture, device="cuda:0")
        together = updates(outers, "cuda:0")
        for step in range(UPDATES):
            take(outers, together.compute(step), step)
        seen.append(outers)
    for captured, plain in zip(*seen, strict=True):
        for name, value in plain.state().items():
            torch.testing.assert_close(captured.state()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@GPU
def test_a_gpu_is_given_an_update_in_three_launches() -> None:
    from torch.profiler import ProfilerActivity, profile

    outers = loops("maml", capture_on(torch.device("cuda:0"), pytest.fail), device="cuda:0", multi_step_loss=False)
    together = updates(outers, "cuda:0")
    take(outers, together.compute(0), 0)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        take(outers, together.compute(1), 1)
        torch.cuda.synchronize()
    called = [event.key for event in profiled.events() if event.key.startswith("cuda")]
    assert called.count("cudaGraphLaunch") == 1 + len(outers)
    # besides: the number of the first episode, and Adam's rate of each loop
    assert called.count("cudaLaunchKernel") + called.count("cudaLaunchKernelExC") <= 2 + len(outers)
