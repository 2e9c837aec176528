"""A device that runs out of memory: what is said, and what stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.config.evaluation import AdaptSettings, ProbeSettings, RatesSettings
from nilr.config.meta_train import TrainSettings
from nilr.errors import DeviceError
from nilr.history import find_failure
from nilr.meta import outer_loop
from nilr.meta.engine.batched import BatchedEngine
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.recipes import adapt, meta_train, probe, rates
from nilr.reporting import SilentReporter
from nilr.store import Store
from tests.training_states import read_state

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

SAID = r"^out of memory on `cpu`: \d+\.\d\d GiB of \d+\.\d\d GiB used at most\nhint: "


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fail(
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    *,
    after: int = 0,
    engine: type = ExplicitEngine,
    error: Exception = FULL,
) -> None:
    """Let an engine's method fail after so many calls that succeed, by default because the device's memory is full."""
    works, calls = getattr(engine, method), 0

    def failing(self: object, *given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise error
        return works(self, *given, **named)

    monkeypatch.setattr(engine, method, failing)


def train(**settings: Any) -> Any:
    return meta_train.run(TrainSettings(name="x", algo="metasgd", **settings), SilentReporter())


def state() -> dict[str, Any]:
    tensors, _ = read_state(Store(None).model_dir("x") / "training.safetensors")
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def test_training_saves_every_completed_update_and_the_hint_resumes_it(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batched = quick | {"engine": "batched", "meta_batch_size": 4}
    train(**batched)
    whole = state()
    with monkeypatch.context() as patched:
        fail(patched, "meta_gradients", after=3, engine=BatchedEngine)
        with pytest.raises(DeviceError, match=SAID) as caught:
            train(force=True, **(batched | {"eval_every": 0}))
    assert caught.value.hint == (
        "compute fewer than 4 episodes at the same time: --episode-chunk 2; "
        "resume with `nilr meta-train --resume x --episode-chunk 2`"
    )
    _, values = read_state(Store(None).model_dir("x") / "training.safetensors")
    assert values["progress"]["outer_step"] == 3
    meta_train.run(TrainSettings(resume="x", episode_chunk=2), SilentReporter())
    for name, value in state().items():
        torch.testing.assert_close(torch.tensor(value), torch.tensor(whole[name]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), MemoryError("no memory for the kernel")],
)
def test_a_training_that_runs_out_of_the_processors_memory_saves_its_updates_and_has_failed(
    error: Exception, home: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "meta_gradients", after=3, error=error)
    with pytest.raises(DeviceError, match=SAID):
        train(**(quick | {"eval_every": 0}))
    _, values = read_state(home / "models" / "x" / "training.safetensors")
    assert values["progress"]["outer_step"] == 3
    assert (find_failure(home / "models" / "x") or "").startswith("out of memory on `cpu`")


def test_an_internal_error_ends_a_training_as_failed(
    home: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "meta_gradients", after=3, error=ZeroDivisionError("division by zero"))
    with pytest.raises(ZeroDivisionError):
        train(**(quick | {"eval_every": 0, "save_every": 1}))
    assert find_failure(home / "models" / "x") == "internal: ZeroDivisionError: division by zero"


def test_running_out_of_memory_within_an_update_keeps_the_last_save(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    take, calls = outer_loop.adam, 0

    def failing(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        outcome = take(*given, **named)
        if calls == 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return outcome

    train(**quick)
    whole = state()
    with monkeypatch.context() as patched:
        patched.setattr(outer_loop, "adam", failing)
        with pytest.raises(DeviceError, match=SAID):
            train(force=True, **(quick | {"save_every": 4}))
    _, values = read_state(Store(None).model_dir("x") / "training.safetensors")
    assert values["progress"]["outer_step"] == 4
    meta_train.run(TrainSettings(resume="x"), SilentReporter())
    assert state() == whole


def test_running_out_of_memory_within_an_update_of_one_seed_saves_the_other_seed(
    home: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    take, calls = outer_loop.adam, 0

    def failing(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:  # the fourth update of the second seed
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return take(*given, **named)

    monkeypatch.setattr(outer_loop, "adam", failing)
    with pytest.raises(DeviceError, match=SAID) as caught:
        train(seeds=2, **(quick | {"eval_every": 0, "save_every": 100}))
    assert "--resume x-seed0" in (caught.value.hint or "")
    _, values = read_state(home / "models" / "x-seed0" / "training.safetensors")
    assert values["progress"]["outer_step"] == 4
    assert not (home / "models" / "x-seed1").exists()


def test_a_training_without_a_completed_update_leaves_no_model(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "meta_gradients")
    with pytest.raises(DeviceError, match=SAID) as caught:
        train(episode_chunk=1, **quick)
    assert caught.value.hint == (
        "use --recompute on, a smaller --n-query, --filters, --widths or --image-size, or --device cpu"
    )
    assert not Store(None).model_dir("x").exists()


def test_the_hint_for_a_validation_has_its_number_of_episodes(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "adapted_logits", after=1, engine=BatchedEngine)  # the first is update 1's accuracy before
    with pytest.raises(DeviceError, match=SAID) as caught:
        train(**(quick | {"engine": "batched", "eval_episodes": 9, "log_every": 100, "save_every": 100}))
    assert "fewer than 9 episodes" in str(caught.value.hint)
    assert "--resume x --episode-chunk 4" in str(caught.value.hint)


@pytest.fixture
def trained(pack: Path, quick: dict[str, Any]) -> None:
    train(**quick)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("run", "method", "hint"),
    [
        (
            lambda: probe.run(ProbeSettings(models=("x",), n_episodes=4), SilentReporter()),
            "features",
            "use a smaller --n-query or --n-shot, or --device cpu",
        ),
        (
            lambda: rates.run(RatesSettings(models=("x",), n_episodes=4), SilentReporter()),
            "support_gradient",
            "use a smaller --n-shot, or --device cpu",
        ),
        (
            lambda: adapt.run(AdaptSettings(model="x"), SilentReporter()),
            "adapt",
            "use fewer images (--n-query, --n-shot, --query), or --device cpu",
        ),
    ],
    ids=["probe", "rates", "adapt"],
)
def test_the_hint_of_a_command_says_how_to_use_less_memory(
    run: Any, method: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, method)
    with pytest.raises(DeviceError, match=SAID) as caught:
        run()
    assert caught.value.hint == hint


@pytest.mark.usefixtures("trained")
def test_the_hint_for_a_probe_on_several_threads_is_fewer_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "features")
    with pytest.raises(DeviceError, match=SAID) as caught:
        probe.run(ProbeSettings(models=("x",), n_episodes=4, threads=4, episode_chunk=3), SilentReporter())
    assert caught.value.hint == "compute fewer than 3 episodes at the same time: --episode-chunk 1"


@pytest.fixture
def small_gpu() -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**27 / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.usefixtures("small_gpu")
def test_a_gpu_that_is_really_full_trains_with_the_flag_that_the_error_names(quick: dict[str, Any]) -> None:
    large = quick | {"device": "cuda", "meta_batch_size": 64, "filters": 64, "eval_every": 0, "outer_steps": 2}
    with pytest.raises(DeviceError, match=r"out of memory on `cuda` \(.+\): \d+\.\d\d GiB of ") as caught:
        train(**large)
    assert caught.value.hint == "compute fewer than 64 episodes at the same time: --episode-chunk 32"
    train(**large, episode_chunk=1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("engine", ["explicit", "batched", pytest.param("reference", marks=pytest.mark.slow)])
def test_training_in_chunks_is_the_same_training_and_may_be_resumed_with_another(
    engine: str, quick: dict[str, Any]
) -> None:
    settings = quick | {"engine": engine, "meta_batch_size": 3, "threads": 2, "outer_steps": 4, "eval_every": 2}
    train(**settings)
    whole = state()
    train(force=True, episode_chunk=1, **(settings | {"outer_steps": 2}))
    train(resume="auto", episode_chunk=2, **settings)
    for name, value in state().items():
        if engine == "batched":  # sums in another order
            torch.testing.assert_close(torch.tensor(value), torch.tensor(whole[name]), rtol=1e-3, atol=1e-4)
        else:
            assert value == whole[name]
