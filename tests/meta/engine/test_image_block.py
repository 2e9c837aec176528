"""The first block by C kernels against the block of tensor functions, pass by pass."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.nn.functional import unfold

from nilr.meta.engine import native
from nilr.meta.engine.convolution import TorchConvolution
from nilr.meta.engine.image_block import ImageBlock, image_block, moments_of
from nilr.meta.engine.layer import BranchParams, ConvLayer, Ends
from nilr.meta.engine.native import library
from nilr.meta.engine.passes import AtenPasses

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(library() is None, reason="the kernels were not built: is there a C compiler?"),
]

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}


@pytest.fixture(autouse=True, params=native.instruction_sets() if library() else [None])
def _every_instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "instruction_sets", lambda: (request.param,))


every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
# even and odd sizes, channels that fill pairs of vectors and that do not
every_shape = pytest.mark.parametrize(
    "shape", [(2, 18, 18, 16), (3, 17, 21, 32), (1, 40, 36, 48), (2, 16, 16, 64)], ids=str
)


def images(n: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
    x = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def params(channels: int, dtype: torch.dtype, seed: int) -> BranchParams:
    """Return random parameters, with scales of both signs."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (channels, 3, 3, 3), (channels,), (channels,)
    return BranchParams(*(0.5 * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes))


def made_for(x: Tensor) -> ImageBlock:
    return ImageBlock(x, moments_of(x))


@every_dtype
@every_shape
def test_every_pass_is_that_of_the_block_of_tensor_functions(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    n, h, w, channels = shape
    x, at, direction = images(n, h, w, dtype), params(channels, dtype, 1), params(channels, dtype, 2)
    generator = torch.Generator().manual_seed(3)
    da, da_t = (
        torch.randn(n, channels, h // 2, w // 2, generator=generator, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(2)
    )
    outcomes = []
    for block in (made_for(x), ConvLayer(AtenPasses(), TorchConvolution(torch.channels_last))):
        a, kept = block.forward([x], [at])
        ends = Ends([x], a)
        (dx,), (gradient,), kept_gradient = block.backward(da.clone(), ends, kept, [at], needed=[False])
        a_t, tangent = block.forward_tangent([None], ends, kept, [at], [direction])
        (dx_t,), (gradient_t,) = block.backward_tangent(
            da_t.clone(), ends, kept, kept_gradient, tangent, [at], [direction]
        )
        assert dx is None
        assert dx_t is None
        _, (alone,), _ = block.backward(da.clone(), ends, block.forward([x], [at])[1], [at], needed=[False], last=True)
        assert torch.equal(block.forward([x], [at], last=True)[0], a)
        for value, again in zip(gradient, alone, strict=True):
            torch.testing.assert_close(value, again)
        outcomes.append((a, *gradient, a_t, *gradient_t))
    for value, expected in zip(*outcomes, strict=True):
        assert (value - expected).norm() <= TOLERANCE[dtype] * expected.norm()


@every_dtype
@pytest.mark.parametrize(("h", "w"), [(16, 16), (17, 23), (24, 19)])
def test_the_moments_are_those_of_all_patches(h: int, w: int, dtype: torch.dtype) -> None:
    x = images(3, h, w, dtype)
    patches = unfold(x.double(), 3, padding=1).mT.flatten(0, 1)
    block = made_for(x).moments
    torch.testing.assert_close(block.mean[0], patches.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(block.covariance, patches.T.cov(correction=0), rtol=1e-10, atol=1e-13)


@every_dtype
def test_a_filter_with_a_tiny_variance_is_normalised_as_in_float64(dtype: torch.dtype) -> None:
    smooth = torch.linspace(0.4, 0.6, 32, dtype=torch.float64).expand(2, 3, 32, 32)
    smooth = smooth + 1e-3 * images(2, 32, 32, torch.float64)
    x = smooth.to(dtype).contiguous(memory_format=torch.channels_last)
    edges = torch.zeros(16, 3, 3, 3, dtype=dtype)
    edges[:, :, 1, 0], edges[:, :, 1, 1], edges[:, :, 1, 2] = 1, -2, 1
    block = BranchParams(edges, torch.ones(16, dtype=dtype), torch.zeros(16, dtype=dtype))
    _, kept = made_for(x).forward([x], [block])
    assert kept is not None
    y = torch.nn.functional.conv2d(x.double(), edges.double(), padding=1)
    expected = (y.var((0, 2, 3), correction=0) + 1e-5).rsqrt()
    torch.testing.assert_close(kept.rstd[0], expected, rtol=1e-7, atol=0)


@every_dtype
def test_moments_are_computed_again_after_images_change(dtype: torch.dtype) -> None:
    x = images(2, 16, 16, dtype)
    first = image_block(x, x, 16)
    again = image_block(x, x, 16)
    assert first is not None
    assert again is not None
    assert again.moments is first.moments
    x += 1
    changed = image_block(x, x, 16)
    assert changed is not None
    torch.testing.assert_close(changed.moments.covariance, made_for(x).moments.covariance)
    assert not torch.equal(changed.moments.mean, first.moments.mean)


def test_images_that_nobody_else_needs_are_not_held() -> None:
    x = images(2, 16, 16, torch.float64)
    assert image_block(x, x, 16) is not None
    watched = weakref.ref(x)
    del x
    assert watched() is None


def test_what_the_kernels_do_not_read_is_left_to_others() -> None:
    grey = images(2, 16, 16, torch.float64)[:, :1].contiguous(memory_format=torch.channels_last)
    assert image_block(grey, grey, 16) is None
    assert image_block(images(2, 16, 16, torch.float64), grey, 20) is None
