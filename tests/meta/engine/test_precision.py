"""--precision: what is rounded, and what is refused."""

from __future__ import annotations

import pytest
import torch

from nilr.errors import UsageError
from nilr.meta.engine.registry import AUTO, choose_engine
from nilr.models.registry import build_learner
from nilr.runtime import prepare

CPU = torch.device("cpu")
LEARNER = build_learner("conv4", n_way=3, image_size=32, filters=8)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["auto", "explicit", "batched"])
def test_bf16_convolutions_are_near_float32_and_not_equal_to_it(name: str) -> None:
    x = torch.rand(15, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    params = LEARNER.initial_params()
    plain, rounded = (
        choose_engine(name, LEARNER, CPU, precision).features(params, x) for precision in ("float32", "bf16")
    )
    assert rounded.dtype == torch.float32
    error = (plain - rounded).norm() / plain.norm()
    # bfloat16 keeps 8 bits: roundings of 2e-3, over four layers
    assert 1e-4 < error < 5e-2


def test_an_engine_without_bf16_says_so() -> None:
    with pytest.raises(UsageError, match="`reference` does not support --precision bf16"):
        choose_engine("reference", LEARNER, CPU, "bf16")


def test_tf32_is_a_gpus() -> None:
    with pytest.raises(UsageError, match="tf32"):
        prepare("cpu", None, "tf32")


def test_a_gpu_rounds_nothing_unasked() -> None:
    prepare("cpu", None)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_auto_names_engines_for_every_device_and_ends_with_one_that_executes_everything() -> None:
    assert AUTO.keys() == {"cpu", "cuda"}
    assert {names[-1] for names in AUTO.values()} == {"reference"}
    assert choose_engine("auto", LEARNER, CPU).name in ("winograd", "explicit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_tf32_is_near_float32_on_a_gpu() -> None:
    device = prepare("cuda", None, "tf32")
    x = torch.rand(15, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    params = {name: value.to(device) for name, value in LEARNER.initial_params().items()}
    engine = choose_engine("auto", LEARNER, device)
    rounded = engine.features(params, x)
    prepare("cuda", None)
    plain = engine.features(params, x)
    assert 0 < (plain - rounded).norm() / plain.norm() < 1e-2
