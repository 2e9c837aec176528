"""The passes in C against the same ones in torch, each on its own, in float64 and float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nilr.meta.engine.native import library
from nilr.meta.engine.passes import AtenPasses, NativePasses, Term

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(library() is None, reason="the kernels were not built: is there a C compiler?"),
]

SHAPES = [(2, 5, 8, 8), (3, 32, 21, 21), (1, 17, 6, 9), (75, 4, 10, 10), (2, 3, 2, 2)]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_slope = pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
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
@pytest.mark.parametrize("first", [None, 1])
def test_statistics_of_the_first_images(shape: Shape, dtype: torch.dtype, first: int | None) -> None:
    numbers = Numbers(shape, dtype)
    y, scale = numbers.plane(offset=3.0), numbers.channel()
    native = NativePasses().pool_statistics(y, scale, first=first)
    whole = NativePasses().pool_statistics(y, scale)
    alone = NativePasses().statistics(y[:first])
    assert torch.equal(native.mean, alone[0])
    assert torch.equal(native.rstd, alone[1])
    assert torch.equal(native.pooled, whole.pooled)
    assert torch.equal(native.where, whole.where)
    for value, expected in zip(alone, AtenPasses().statistics(y[:first]), strict=True):
        agree(value, expected)


@every_shape
@both_dtypes
@every_slope
@pytest.mark.parametrize("n_terms", [1, 2])
def test_normalising(shape: Shape, dtype: torch.dtype, slope: float, n_terms: int) -> None:
    numbers = Numbers(shape, dtype)
    terms = [Term(numbers.plane(), numbers.channel(), numbers.channel()) for _ in range(n_terms)]
    t = numbers.channel()
    native, aten = (passes.normalise(terms, t, slope) for passes in (NativePasses(), AtenPasses()))
    agree(native, aten)


@every_shape
@both_dtypes
@every_slope
def test_pooling_a_sum(shape: Shape, dtype: torch.dtype, slope: float) -> None:
    numbers = Numbers(shape, dtype)
    terms = [Term(numbers.plane(), numbers.channel(), numbers.channel()) for _ in range(2)]
    t = numbers.channel()
    native, aten = (passes.pool_sum(terms, t, slope) for passes in (NativePasses(), AtenPasses()))
    agree(native[0], aten[0])
    same = native[1].long() == 2 * (aten[1] // shape[3] % 2) + aten[1] % shape[3] % 2
    assert (~same).sum() <= (0 if dtype == torch.float64 else 1)  # a sum that rounds to a tie
    for value, expected in zip(native[2], aten[2], strict=True):
        assert torch.equal(value[same], expected[same])


@every_shape
@both_dtypes
@every_slope
@pytest.mark.parametrize("n_branches", [1, 2])
@pytest.mark.parametrize("tangent", [False, True])
def test_masked_sums(shape: Shape, dtype: torch.dtype, slope: float, n_branches: int, tangent: bool) -> None:
    numbers = Numbers(shape, dtype)
    da, a = numbers.pooled(), numbers.pooled().relu()
    ps, ps_t = ([(numbers.pooled(), numbers.channel()) for _ in range(n_branches)] for _ in range(2))
    more = (numbers.pooled(), ps_t) if tangent else None
    (u, dshift, sums), (expected_u, expected_dshift, expected) = (
        passes.masked_sums(da.clone(), a, slope, ps, more) for passes in (NativePasses(), AtenPasses())
    )
    for native, aten in zip((u, dshift, *sums), (expected_u, expected_dshift, *expected), strict=True):
        torch.testing.assert_close(native, aten, rtol=TOLERANCE[dtype], atol=50 * TOLERANCE[dtype])


@every_shape
@both_dtypes
@pytest.mark.parametrize("pool", [False, True])
def test_spreading(shape: Shape, dtype: torch.dtype, pool: bool) -> None:
    numbers = Numbers(shape, dtype)
    y, scale = numbers.plane(), numbers.channel()
    u = numbers.pooled() if pool else numbers.plane()
    channels = numbers.channel(), numbers.channel(), numbers.channel()
    passes = NativePasses(), AtenPasses()
    wheres = [p.pool_statistics(y, scale).where if pool else None for p in passes]
    native, aten = (p.spread(y, u, where, channels) for p, where in zip(passes, wheres, strict=True))
    agree(native, aten)
    for p, where, fresh in zip(passes, wheres, (native, aten), strict=True):
        place = y.clone()
        assert torch.equal(p.spread(place, u, where, channels, reuse=True), fresh)
        assert torch.equal(place, fresh)


@every_shape
@both_dtypes
@every_slope
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("n_branches", [1, 2])
def test_the_tangents(shape: Shape, dtype: torch.dtype, slope: float, pool: bool, n_branches: int) -> None:
    numbers = Numbers(shape, dtype)
    y, y_t, scale = numbers.plane(), numbers.plane(), numbers.channel()
    u, u_t, a, *ps = (numbers.pooled() if pool else numbers.plane() for _ in range(3 + 2 * n_branches))
    mean, *channels = (numbers.channel() for _ in range(6))
    terms = [Term(p, numbers.channel(), numbers.channel()) for p in ps]
    outcomes = []
    for passes in (NativePasses(), AtenPasses()):
        where = passes.pool_statistics(y, scale).where if pool else None
        taken, *means = passes.tangent_statistics(y, y_t, where, mean)
        spread = passes.spread_tangent((y, y_t), (u, u_t), where, tuple(channels))
        outcomes.append((taken, *means, spread, passes.normalise_tangent(terms, mean, a, slope)))
    for native, aten in zip(*outcomes, strict=True):
        agree(native, aten)
