import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nilr.episodes import Episode
from nilr.errors import UnknownNameError
from nilr.meta.algorithms import ALGORITHMS, Algorithm, find_algorithm
from nilr.meta.engine.contract import Engine, Objective
from nilr.meta.engine.registry import ENGINES
from nilr.meta.inner_lr import bounds, initial_rates, inner_rates
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


# What Finn et al., Raghu et al., Oh et al. ... adapt: kinds of parameters, by module type.
CONVOLUTIONS, NORMS, HEAD = {"convolution weight"}, {"norm scale", "norm shift"}, {"head weight", "head bias"}
MOVED = {
    "maml": CONVOLUTIONS | HEAD,
    "fomaml": CONVOLUTIONS | HEAD,
    "metasgd": CONVOLUTIONS | NORMS | HEAD,
    "fometasgd": CONVOLUTIONS | NORMS | HEAD,
    "anil": HEAD,
    "boil": CONVOLUTIONS | NORMS,
    "lslr": CONVOLUTIONS | HEAD,
    "sparse-maml": CONVOLUTIONS | NORMS | HEAD,
}


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_the_inner_loop_of_each_row_moves_what_its_paper_says_whatever_the_names(row: Algorithm) -> None:
    assert {LEARNER.kinds[name] for name in row.moved(LEARNER.kinds)} == MOVED[row.name]
    renamed = {name.replace("conv", "a").replace("norm", "b"): kind for name, kind in LEARNER.kinds.items()}
    assert {renamed[name] for name in row.moved(renamed)} == MOVED[row.name]


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_each_row_can_be_run_as_it_is(row: Algorithm) -> None:
    rates = initial_rates(row, PARAMS, LEARNER.kinds, seed=0)
    assert all(rate.isfinite().all() for rate in inner_rates(row, rates, PARAMS, LEARNER.kinds).values())
    low, high = bounds(row.constraint)
    assert low < high
    assert row.learns_rates or (row.constraint, row.per_step, row.rectified) == ("free", False, False)


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_row_is_stored_under_the_keys_that_old_checkpoints_have(row: Algorithm) -> None:
    stored = row.to_stored()
    assert stored["rates"] == row.grain
    assert "grain" not in stored
    assert Algorithm.from_stored(stored) == row
    with pytest.raises(TypeError):
        Algorithm.from_stored(stored | {"colour": "red"})


def test_the_table_imports_no_torch() -> None:
    program = "import sys, nilr.models, nilr.meta.algorithms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_help_of_algo_names_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"Algorithm: {', '.join(ALGORITHMS)}." in page


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_algorithm("reptile")
    assert caught.value.hint == "known: maml, fomaml, metasgd, fometasgd, anil, boil, lslr, sparse-maml"
    assert caught.value.exit_status == 2


@every_engine
@pytest.mark.parametrize(("row", "zero_part"), [("anil", "body."), ("boil", "head.")])
def test_anil_is_maml_with_zero_body_rate_and_boil_with_zero_head_rate(
    engine: type[Engine], row: str, zero_part: str
) -> None:
    algorithm = ALGORITHMS[row]
    everything = dataclasses.replace(algorithm, name="all", moves="all")
    rates = initial_rates(everything, PARAMS, LEARNER.kinds, seed=0)
    zeroed = {name: rate * (0.0 if name.startswith(zero_part) else 1.0) for name, rate in rates.items()}
    partial = initial_rates(algorithm, PARAMS, LEARNER.kinds, seed=0)
    episodes = batch()
    frozen, moved = (
        engine(LEARNER).meta_gradient(PARAMS, given, episodes, Objective(which, 3))
        for given, which in ((partial, algorithm), (zeroed, everything))
    )
    torch.testing.assert_close(frozen.query_loss, moved.query_loss, rtol=1e-12, atol=0)
    for name in PARAMS:
        torch.testing.assert_close(frozen.params[name], moved.params[name], rtol=1e-9, atol=1e-13)
    adapted = engine(LEARNER).adapt(PARAMS, partial, episodes[0].support_x, episodes[0].support_y, steps=3)
    for name, value in adapted.items():
        assert torch.equal(value, PARAMS[name]) == name.startswith(zero_part)


@every_engine
def test_metasgd_with_constant_rates_is_maml_at_the_first_step(engine: type[Engine]) -> None:
    metasgd = dataclasses.replace(ALGORITHMS["metasgd"], inner_lr_init="0.05", norm_adapted=False)
    maml = ALGORITHMS["maml"]
    episodes = batch()
    first, second = (
        engine(LEARNER).meta_gradient(
            PARAMS, initial_rates(row, PARAMS, LEARNER.kinds, seed=0), episodes, Objective(row, 5)
        )
        for row in (metasgd, maml)
    )
    torch.testing.assert_close(first.query_loss, second.query_loss, rtol=1e-12, atol=0)
    for name in PARAMS:
        torch.testing.assert_close(first.params[name], second.params[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_the_page_has_the_row_as_it_is_with_its_paper(row: Algorithm) -> None:
    lines = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8").splitlines()
    cells = next(line for line in lines if line.startswith(f"| `{row.name}` |")).split(" | ")
    assert cells[2:4] == [str(row.order), f"{row.inner_steps}, {row.eval_inner_steps}"]
    assert re.sub(r"[*|]", "", cells[5]).strip() in (row.paper, "the same")
    assert row.inner_lr_init.removeprefix("uniform:").replace(",", ", ") in cells[4]
