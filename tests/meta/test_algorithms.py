import dataclasses

import pytest
import torch

from nilr.episodes import Episode
from nilr.errors import UnknownNameError, UsageError
from nilr.meta.algorithms import ALGORITHMS, find_algorithm, initial_rates
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.registry import ENGINES
from nilr.models.registry import build_learner

LEARNER = build_learner("conv4", n_way=3, image_size=16, filters=4, seed=1).double()
PARAMS = LEARNER.initial_params()

every_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(
            engine,
            id=name,
            marks=pytest.mark.skipif(
                not engine.supports(LEARNER, torch.device("cpu")), reason=f"`{name}` was not built"
            ),
        )
        for name, engine in ENGINES.items()
    ],
)


def batch() -> Episode:
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(2, 12, 3, 16, 16, generator=generator, dtype=torch.float64)
    y = torch.arange(3).repeat_interleave(2).expand(2, -1)
    return Episode(x[:, :6], y, x[:, 6:], y)


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("maml", {"conv.weight", "head.weight", "head.bias"}),
        ("fomaml", {"conv.weight", "head.weight", "head.bias"}),
        ("metasgd", {"conv.weight", "norm.weight", "norm.bias", "head.weight", "head.bias"}),
        ("anil", {"head.weight", "head.bias"}),
        ("boil", {"conv.weight", "norm.weight", "norm.bias"}),
    ],
)
def test_each_row_moves_what_its_paper_says(name: str, moved: set[str]) -> None:
    assert {".".join(found.split(".")[-2:]) for found in ALGORITHMS[name].moved(PARAMS)} == moved


def test_the_rows_are_those_of_the_design() -> None:
    columns = {
        row.name: (row.order, row.inner_steps, row.eval_inner_steps, row.inner_lr_init, row.learns_rates)
        for row in ALGORITHMS.values()
    }
    assert columns == {
        "maml": (2, 5, 10, "0.05", False),
        "fomaml": (1, 5, 10, "0.05", False),
        "metasgd": (2, 1, 1, "uniform:0.005,0.1", True),
        "anil": (2, 5, 10, "0.05", False),
        "boil": (2, 1, 1, "0.5", False),
    }


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_algorithm("reptile")
    assert caught.value.hint == "known: maml, fomaml, metasgd, anil, boil"
    assert caught.value.exit_status == 2


@every_engine
@pytest.mark.parametrize(("row", "zero_part"), [("anil", "body."), ("boil", "head.")])
def test_anil_is_maml_with_zero_body_rate_and_boil_with_zero_head_rate(
    engine: Engine, row: str, zero_part: str
) -> None:
    algorithm = ALGORITHMS[row]
    everything = dataclasses.replace(algorithm, name="all", moves="all")
    rates = initial_rates(everything, PARAMS, seed=0)
    zeroed = {name: rate * (0.0 if name.startswith(zero_part) else 1.0) for name, rate in rates.items()}
    partial = initial_rates(algorithm, PARAMS, seed=0)
    episodes = batch()
    frozen, moved = (
        engine.meta_gradient(LEARNER, PARAMS, given, which, episodes, steps=3)
        for given, which in ((partial, algorithm), (zeroed, everything))
    )
    torch.testing.assert_close(frozen.query_loss, moved.query_loss, rtol=1e-12, atol=0)
    for name in PARAMS:
        torch.testing.assert_close(frozen.params[name], moved.params[name], rtol=1e-9, atol=1e-13)
    adapted = engine.adapt(LEARNER, PARAMS, partial, episodes[0].support_x, episodes[0].support_y, steps=3)
    for name, value in adapted.items():
        assert torch.equal(value, PARAMS[name]) == name.startswith(zero_part)


@every_engine
def test_metasgd_with_constant_rates_is_maml_at_the_first_step(engine: Engine) -> None:
    metasgd = dataclasses.replace(ALGORITHMS["metasgd"], inner_lr_init="0.05", norm_adapted=False)
    maml = ALGORITHMS["maml"]
    episodes = batch()
    first, second = (
        engine.meta_gradient(LEARNER, PARAMS, initial_rates(row, PARAMS, seed=0), row, episodes, steps=5)
        for row in (metasgd, maml)
    )
    torch.testing.assert_close(first.query_loss, second.query_loss, rtol=1e-12, atol=0)
    for name in PARAMS:
        torch.testing.assert_close(first.params[name], second.params[name], rtol=1e-9, atol=1e-13)


def test_one_draw_is_shared_by_all_rates_and_depends_on_the_seed() -> None:
    rates, others = (initial_rates(ALGORITHMS["metasgd"], PARAMS, seed=seed) for seed in (0, 1))
    values = {value for rate in rates.values() for value in rate.flatten().tolist()}
    assert len(values) == 1
    assert 0.005 <= values.pop() <= 0.1
    assert rates["head.bias"][0] != others["head.bias"][0]
    assert all(rate.shape == PARAMS[name].shape for name, rate in rates.items())


def test_uniform_each_draws_every_element_within_the_bounds() -> None:
    row = dataclasses.replace(ALGORITHMS["metasgd"], inner_lr_init="uniform-each:-0.1,0.3")
    values = torch.cat([rate.flatten() for rate in initial_rates(row, PARAMS, seed=0).values()])
    assert values.unique().numel() == values.numel()
    # 855 draws: the mean of U(-0.1, 0.3) is 0.1 with a standard error of 0.004
    assert values.mean().item() == pytest.approx(0.1, abs=0.02)
    assert (values.min() >= -0.1, values.max() <= 0.3) == (True, True)


@pytest.mark.parametrize("text", ["", "fast", "nan", "inf", "uniform:1", "uniform:2,1", "uniform:a,b", "normal:0,1"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    row = dataclasses.replace(ALGORITHMS["metasgd"], inner_lr_init=text)
    with pytest.raises(UsageError) as caught:
        initial_rates(row, PARAMS, seed=0)
    assert "uniform:LOW,HIGH" in (caught.value.hint or "")
