"""The passes in C against the same ones in torch, each on its own, in float64 and float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nilr.meta.engine.native import library
from nilr.meta.engine.passes import AtenPasses, NativePasses

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(library() is None, reason="the kernels were not built: is there a C compiler?"),
]

SHAPES = [(2, 5, 8, 8), (3, 32, 21, 21), (1, 17, 6, 9), (75, 4, 10, 10), (2, 3, 2, 2)]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

Shape = tuple[int, int, int, int]


class Numbers:
    """Random planes, pooled planes and channels of one shape."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        self.n, self.c, self.h, self.w = shape
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(0)

    def plane(self, offset: float = 0.0) -> Tensor:
        return self._draw(self.n, self.c, self.h, self.w) + offset

    def pooled(self) -> Tensor:
        return self._draw(self.n, self.c, self.h // 2, self.w // 2)

    def channel(self) -> Tensor:
        return torch.randn(self.c, generator=self.generator, dtype=self.dtype)

    def _draw(self, *shape: int) -> Tensor:
        numbers = torch.randn(*shape, generator=self.generator, dtype=self.dtype)
        return numbers.contiguous(memory_format=torch.channels_last)


def agree(native: Tensor, aten: Tensor) -> None:
    tolerance = TOLERANCE[native.dtype]
    torch.testing.assert_close(native, aten, rtol=tolerance, atol=tolerance)


@every_shape
@both_dtypes
def test_pooling_and_statistics(shape: Shape, dtype: torch.dtype) -> None:
    numbers = Numbers(shape, dtype)
    y, scale = numbers.plane(offset=3.0), numbers.channel()
    native, aten = NativePasses().pool_statistics(y, scale), AtenPasses().pool_statistics(y, scale)
    assert torch.equal(native.pooled, aten.pooled)
    agree(native.mean, aten.mean)
    agree(native.rstd, aten.rstd)
    # 0 1 / 2 3 in the window against the position in the plane
    row, column = aten.where // shape[3], aten.where % shape[3]
    assert torch.equal(native.where.long(), 2 * (row % 2) + column % 2)


@both_dtypes
def test_the_variance_of_a_large_mean_is_that_of_float64(dtype: torch.dtype) -> None:
    y = Numbers((4, 8, 16, 16), torch.float64).plane(offset=1000.0)
    expected = (y.var((0, 2, 3), correction=0) + 1e-5).rsqrt()
    rstd = NativePasses().pool_statistics(y.to(dtype), torch.ones(8, dtype=dtype)).rstd
    # float32 keeps 1000 +- 1 to 6e-5; the sums must lose nothing more
    torch.testing.assert_close(rstd.double(), expected, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=0)


@both_dtypes
@pytest.mark.parametrize("width", [5, 21])
def test_a_constant_channel_has_no_variance_however_large_it_is(width: int, dtype: torch.dtype) -> None:
    values = 1e5 * (1 + 99 * torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    y = values.to(dtype)[None, :, None, None].expand(2, -1, width, width).contiguous(memory_format=torch.channels_last)
    rstd = NativePasses().pool_statistics(y, torch.ones(500, dtype=dtype)).rstd
    assert rstd.isfinite().all()
    assert rstd.max() <= 1e-5**-0.5 * (1 + 1e-6)


@both_dtypes
def test_channels_are_read_by_their_strides_and_refused_in_another_dtype_or_number(dtype: torch.dtype) -> None:
    y = Numbers((2, 4, 6, 6), dtype).plane()
    apart = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=dtype)[:, 0]
    repeated = torch.tensor(-1.0, dtype=dtype).expand(4)
    for scale in (apart, repeated):
        native, aten = NativePasses().pool_statistics(y, scale), AtenPasses().pool_statistics(y, scale)
        assert torch.equal(native.pooled, aten.pooled)
    other = torch.float32 if dtype == torch.float64 else torch.float64
    for wrong in (torch.ones(4, dtype=other), torch.ones(3, dtype=dtype)):
        with pytest.raises(ValueError, match="channels of"):
            NativePasses().pool_statistics(y, wrong)
    with pytest.raises(ValueError, match="channels-last"):
        NativePasses().pool_statistics(y.contiguous(), torch.ones(4, dtype=dtype))


@every_shape
@both_dtypes
def test_normalising(shape: Shape, dtype: torch.dtype) -> None:
    numbers = Numbers(shape, dtype)
    pooled, channels = numbers.pooled(), [numbers.channel() for _ in range(4)]
    expected = AtenPasses().normalise(pooled.clone(), *channels)
    for native, aten in zip(NativePasses().normalise(pooled, *channels), expected, strict=True):
        agree(native, aten)


@every_shape
@both_dtypes
@pytest.mark.parametrize("tangent", [False, True])
def test_masked_sums(shape: Shape, dtype: torch.dtype, tangent: bool) -> None:
    numbers = Numbers(shape, dtype)
    da, a, h = numbers.pooled(), numbers.pooled().relu(), numbers.pooled()
    more = (numbers.pooled(), numbers.pooled()) if tangent else None
    outcomes = zip(NativePasses().masked_sums(da, a, h, more), AtenPasses().masked_sums(da, a, h, more), strict=True)
    for native, aten in outcomes:
        torch.testing.assert_close(native, aten, rtol=TOLERANCE[dtype], atol=50 * TOLERANCE[dtype])


@every_shape
@both_dtypes
def test_spreading(shape: Shape, dtype: torch.dtype) -> None:
    numbers = Numbers(shape, dtype)
    y, u, scale = numbers.plane(), numbers.pooled(), numbers.channel()
    channels = numbers.channel(), numbers.channel(), numbers.channel()
    passes = NativePasses(), AtenPasses()
    native, aten = (p.spread(y, u, p.pool_statistics(y, scale).where, channels) for p in passes)
    agree(native, aten)
    for p in passes:
        place = y.clone()
        agree(p.spread(place, u, p.pool_statistics(y, scale).where, channels, reuse=True), aten)
        agree(place, aten)


@every_shape
@both_dtypes
def test_the_tangents(shape: Shape, dtype: torch.dtype) -> None:
    numbers = Numbers(shape, dtype)
    y, y_t, scale = numbers.plane(), numbers.plane(), numbers.channel()
    u, u_t, h, a = (numbers.pooled() for _ in range(4))
    mean, *rest = (numbers.channel() for _ in range(12))
    outcomes = []
    for passes in (NativePasses(), AtenPasses()):
        where = passes.pool_statistics(y, scale).where
        taken, *means = passes.tangent_statistics(y, y_t, where, mean)
        spread = passes.spread_tangent((y, y_t), (u, u_t), where, tuple(rest[:5]))  # type: ignore[arg-type]
        h_t, a_t = passes.normalise_tangent(taken.clone(), h, a, tuple(rest[5:11]))  # type: ignore[arg-type]
        outcomes.append((taken.clone(), *means, spread, h_t, a_t))
    for native, aten in zip(*outcomes, strict=True):
        agree(native, aten)
