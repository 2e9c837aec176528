"""Winograd's convolutions in C, for every instruction set of this machine, and matrix products against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nilr.meta.engine import native
from nilr.meta.engine.convolution import Convolution, MatrixConvolution, TorchConvolution, WinogradConvolution
from nilr.meta.engine.native import library

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(library() is None, reason="the kernels were not built: is there a C compiler?"),
]
DIRECT = TorchConvolution(torch.channels_last)


class Never(TorchConvolution):
    """A direct convolution that must not be used."""

    forward = forward_tangent = backward = backward_tangent = None  # type: ignore[assignment]


@pytest.fixture(autouse=True, params=native.instruction_sets() if library() else [None])
def _every_instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "instruction_sets", lambda: (request.param,))


def random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def all_passes(
    convolution: Convolution, n: int, h: int, w: int, ci: int, co: int, dtype: torch.dtype, kernel: int = 3
) -> list[Tensor]:
    x, x_t = (random(n, ci, h, w, seed=seed, dtype=dtype) for seed in (1, 2))
    dy, dy_t = (random(n, co, h, w, seed=seed, dtype=dtype) for seed in (3, 4))
    weight, weight_t = (random(co, ci, kernel, kernel, seed=seed, dtype=dtype) for seed in (5, 6))
    weights = weight, weight_t
    dx, dw = convolution.backward(dy, x, weight, input_gradient=True)
    dx_t, dw_t = convolution.backward_tangent((dy, dy_t), (x, x_t), weights)
    none, dw_alone = convolution.backward(dy, x, weight, input_gradient=False)
    none_t, dw_of_images = convolution.backward_tangent((None, dy_t), (x, None), weights)
    assert none is None
    assert none_t is None
    assert dx is not None
    assert dx_t is not None
    forward = convolution.forward(x, weight)
    tangents = convolution.forward_tangent((x, x_t), weights), convolution.forward_tangent((x, None), weights)
    return [forward, *tangents, dx, dw, dx_t, dw_t, dw_alone, dw_of_images]


# sizes that tiles of 4 fill and that they do not, one tile, several blocks of tiles, channels of one vector and of many
SHAPES = [(16, 4, 4, 16, 16), (5, 8, 8, 32, 48), (3, 11, 15, 48, 32), (2, 21, 23, 80, 16), (7, 10, 10, 16, 160)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_pass_is_that_of_a_direct_convolution(shape: tuple[int, int, int, int, int]) -> None:
    winograd = all_passes(WinogradConvolution(Never(torch.channels_last)), *shape, torch.float64)
    for value, expected in zip(winograd, all_passes(DIRECT, *shape, torch.float64), strict=True):
        assert value.is_contiguous(memory_format=torch.channels_last)
        assert (value - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rounding_in_float32_is_at_most_eight_times_that_of_a_direct_convolution(
    shape: tuple[int, int, int, int, int],
) -> None:
    exact = all_passes(DIRECT, *shape, torch.float64)
    winograd, direct = (all_passes(of, *shape, torch.float32) for of in (WinogradConvolution(DIRECT), DIRECT))
    for value, other, expected in zip(winograd, direct, exact, strict=True):
        error, error_of_direct = ((x.double() - expected).norm() / expected.norm() for x in (value, other))
        assert error <= 8 * error_of_direct + 2e-7


# one position, fewer positions than channels, more, and a kernel of one position
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1, 3, 5), (2, 2, 3, 40, 24), (3, 5, 4, 6, 16)], ids=str)
def test_matrix_products_are_direct_convolutions(shape: tuple[int, int, int, int, int], kernel: int) -> None:
    found, expected = (
        all_passes(convolution, *shape, torch.float64, kernel) for convolution in (MatrixConvolution(), DIRECT)
    )
    for value, other in zip(found, expected, strict=True):
        assert value.is_contiguous(memory_format=torch.channels_last)
        assert (value - other).norm() <= 1e-13 * other.norm()


@pytest.mark.parametrize("size", [2, 3])
def test_few_positions_of_many_channels_are_a_matrix_product(size: int) -> None:
    shape = 5, size, size, 48, 64
    found = all_passes(WinogradConvolution(Never(torch.channels_last)), *shape, torch.float64)
    for value, other in zip(found, all_passes(DIRECT, *shape, torch.float64), strict=True):
        assert (value - other).norm() <= 1e-13 * other.norm()


def test_images_do_not_influence_each_other() -> None:
    x, weight = random(9, 32, 12, 12, seed=1, dtype=torch.float32), random(32, 32, 3, 3, seed=2, dtype=torch.float32)
    winograd = WinogradConvolution(Never(torch.channels_last))
    alone = torch.cat([winograd.forward(part, weight) for part in x.split([3, 6])])
    assert torch.equal(winograd.forward(x, weight), alone)


@pytest.mark.parametrize(
    ("ci", "co", "kernel", "groups"), [(20, 16, 3, 1), (16, 24, 3, 1), (16, 16, 1, 1), (32, 32, 3, 2)]
)
def test_other_convolutions_are_left_to_torch(ci: int, co: int, kernel: int, groups: int) -> None:
    x = random(2, ci, 8, 8, seed=1, dtype=torch.float64)
    weight = random(co, ci // groups, kernel, kernel, seed=2, dtype=torch.float64)
    assert torch.equal(WinogradConvolution(DIRECT).forward(x, weight), DIRECT.forward(x, weight))
