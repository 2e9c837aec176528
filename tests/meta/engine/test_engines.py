"""Every engine x algorithm x architecture against a network and a loop written here, in float64."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.algorithms import ALGORITHMS, Algorithm
from nilr.meta.engine.contract import Engine, Objective
from nilr.meta.engine.registry import ENGINES
from nilr.meta.engine.workers import in_order
from nilr.meta.inner_lr import SHARED, initial_rates, inner_rates, learned_gradient
from nilr.meta.outer_loop import OuterLoop, OuterSettings
from nilr.models.learner import Learner
from nilr.models.registry import BODIES, build_learner
from tests.meta.engine.networks import NETWORKS, features, logits, make_learner
from tests.meta.steps import take_step

Tensors = dict[str, Tensor]


def batch(seed: int = 0, n_episodes: int = 2) -> Episode:
    """Return 3-way episodes of 18 px images (an odd size on the way), 2 support and 3 query images per class."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n_episodes, 15, 3, 18, 18, generator=generator, dtype=torch.float64)
    labels = torch.arange(3)
    return Episode(
        x[:, :6],
        labels.repeat_interleave(2).expand(n_episodes, -1),
        x[:, 6:],
        labels.repeat_interleave(3).expand(n_episodes, -1),
    )


# Rows as --rate-grain and --rate-per-step make them, beside those of the table.
ROWS = {
    **ALGORITHMS,
    "scalar": dataclasses.replace(ALGORITHMS["metasgd"], grain="scalar"),
    "scalar-per-step": dataclasses.replace(ALGORITHMS["metasgd"], grain="scalar", per_step=True, inner_steps=2),
    "element-per-step": dataclasses.replace(ALGORITHMS["metasgd"], per_step=True, inner_steps=2),
    "rectified-second-order": dataclasses.replace(ALGORITHMS["sparse-maml"], order=2, grain="tensor"),
}


def model(arch: str, algorithm: Algorithm) -> tuple[Learner, Tensors, Tensors]:
    """Return a small float64 learner with norm scales of both signs, and learned numbers of both signs (or rates)."""
    learner = make_learner(arch)
    generator = torch.Generator().manual_seed(2)
    params = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in learner.initial_params().items()
    }
    for name, value in params.items():
        if learner.kinds[name] == "norm scale":
            value[0] *= -1
    rates = initial_rates(algorithm, params, learner.kinds, seed=3)
    if algorithm.learns_rates:
        rates = {
            name: 0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for name, value in rates.items()
        }
    return learner, params, rates


def conv4_features(params: Tensors, x: Tensor, support: Tensor | None = None) -> Tensor:
    return features("conv4", params, x, support)


def conv4_logits(params: Tensors, x: Tensor, support: Tensor | None = None) -> Tensor:
    return logits("conv4", params, x, support)


def query_loss(
    network: str,
    params: Tensors,
    rates: Tensors,
    episode: Episode,
    steps: int,
    *,
    row: Algorithm,
    weights: tuple[float, ...] = (),
    inductive: bool = False,
) -> Tensor:
    """Return the query loss after the inner loop, or the weighted sum of those after each step, by autograd alone."""
    kinds = make_learner(network).kinds
    current = dict(params)
    statistics_of = episode.support_x if inductive else None
    total = torch.zeros((), dtype=torch.float64)
    for k in range(steps):
        loss = F.cross_entropy(logits(network, current, episode.support_x), episode.support_y)
        moved = row.moved(kinds) if SHARED in rates else list(rates)
        gradients = torch.autograd.grad(loss, [current[name] for name in moved], create_graph=True)
        for name, gradient in zip(moved, gradients, strict=True):
            rate = rates[SHARED if SHARED in rates else name]
            if row.per_step:
                rate = rate[min(k, len(rate) - 1)]
            if row.rectified:
                rate = rate + (rate.relu() - rate).detach()
            current[name] = current[name] - rate * (gradient.detach() if row.order == 1 else gradient)
        if weights:
            judged = logits(network, current, episode.query_x, statistics_of)
            total = total + weights[k] * F.cross_entropy(judged, episode.query_y)
    return (
        total if weights else F.cross_entropy(logits(network, current, episode.query_x, statistics_of), episode.query_y)
    )


def loop_gradients(
    network: str,
    algorithm: Algorithm,
    params: Tensors,
    rates: Tensors,
    episodes: Episode,
    steps: int,
    **how: Any,
) -> tuple[Tensor, list[Tensor]]:
    """Return the mean query loss and its gradient in all parameters and rates."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    rate_leaves = {name: value.clone().requires_grad_() for name, value in rates.items()}
    losses = [
        query_loss(network, leaves, rate_leaves, episodes[i], steps, row=algorithm, **how) for i in range(len(episodes))
    ]
    mean = torch.stack(losses).mean()
    gradients = torch.autograd.grad(mean, [*leaves.values(), *rate_leaves.values()], materialize_grads=True)
    return mean.detach(), list(gradients)


@functools.cache
def expected_gradients(arch: str, algorithm: Algorithm, steps: int, inductive: bool) -> tuple[Tensor, list[Tensor]]:
    """Return `loop_gradients` of the model and the batch that every engine is compared with."""
    _, params, rates = model(arch, algorithm)
    return loop_gradients(arch, algorithm, params, rates, batch(), steps, inductive=inductive)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@functools.cache
def is_built(engine: type[Engine]) -> bool:
    return engine.supports(build_learner("conv4", n_way=3, image_size=18, filters=4), torch.device("cpu"))


every_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(engine, id=name, marks=pytest.mark.skipif(not is_built(engine), reason=f"`{name}` was not built"))
        for name, engine in ENGINES.items()
    ],
)

CASES = [
    pytest.param(
        engine,
        ROWS[algorithm],
        arch,
        steps,
        inductive,
        id=f"{engine.name}-{algorithm}-{arch}-{steps}{'-inductive' * inductive}",
        marks=pytest.mark.skipif(not is_built(engine), reason=f"the engine `{engine.name}` was not built"),
    )
    for engine in ENGINES.values()
    for algorithm in ROWS
    for arch in NETWORKS
    for steps, inductive in ((1, False), (2, False), (5, False), (1, True), (2, True))
    if arch == "conv4" or (steps, inductive) in ((1, False), (2, False), (2, True))
]


def test_every_body_has_an_independent_network() -> None:
    assert BODIES.keys() - {"conv4-leaky"} <= NETWORKS.keys()  # `mixed` has its leaky blocks


@pytest.mark.sampled(32)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("engine", "algorithm", "arch", "steps", "inductive"), CASES)
def test_the_meta_gradient_is_that_of_an_independent_loop(
    engine: type[Engine], algorithm: Algorithm, arch: str, steps: int, inductive: bool
) -> None:
    learner, params, rates = model(arch, algorithm)
    episodes = batch()
    taken = inner_rates(algorithm, rates, params, learner.kinds)
    objective = Objective(algorithm, steps, inductive=inductive)
    outcome = engine(learner).meta_gradient(params, taken, episodes, objective)
    loss, gradients = expected_gradients(arch, algorithm, steps, inductive)
    assert outcome.query_loss.mean().item() == pytest.approx(loss.item(), rel=1e-10)
    assert [*outcome.params] == [*params]
    expected = flat(gradients[: len(params)])
    error = flat([outcome.params[name] for name in params]) - expected
    assert error.norm() <= 1e-9 * expected.norm()
    if algorithm.learns_rates:
        expected = flat(gradients[len(params) :])
        found = learned_gradient(algorithm, outcome.inner_lr)
        error = flat([found[name] for name in rates]) - expected
        assert error.norm() <= 1e-9 * expected.norm()
    else:
        assert outcome.inner_lr == {}


SHAPES = {
    "a number": lambda value: (),
    "a number per tensor": lambda value: (1,) * value.dim(),
    "a number per channel": lambda value: (value.shape[0], *(1,) * (value.dim() - 1)),
}


@pytest.mark.sampled(12)
@pytest.mark.usefixtures("one_thread")
@every_engine
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("inductive", [False, True], ids=["apart", "inductive"])
def test_rates_of_any_shape_and_per_step_have_the_gradient_of_autograd(
    engine: type[Engine], shape: str, order: Any, inductive: bool
) -> None:
    per_step = shape != "a number"
    algorithm = dataclasses.replace(ALGORITHMS["metasgd"], order=order, per_step=per_step)
    learner, params, _ = model("conv4", algorithm)
    generator = torch.Generator().manual_seed(5)
    rates = {
        name: 0.1 * torch.randn(2, *(SHAPES[shape](value) or (1,) * value.dim()), generator=generator).double()
        for name, value in params.items()
        if name != "body.block2.norm.bias"
    }
    if not per_step:
        rates = {name: rate[0].reshape(()) for name, rate in rates.items()}
    episodes, weights = batch(), (0.3, 0.7)
    how: Any = {"weights": weights, "inductive": inductive}
    outcome = engine(learner).meta_gradient(params, rates, episodes, Objective(algorithm, 2, weights, inductive))
    _, gradients = loop_gradients("conv4", algorithm, params, rates, episodes, 2, **how)
    assert {name: value.shape for name, value in outcome.inner_lr.items()} == {n: r.shape for n, r in rates.items()}
    computed = [*(outcome.params[name] for name in params), *(outcome.inner_lr[name] for name in rates)]
    assert (flat(computed) - flat(gradients)).norm() <= 1e-9 * flat(gradients).norm()
    last, _ = loop_gradients("conv4", algorithm, params, rates, episodes, 2, inductive=inductive)
    assert outcome.query_loss.mean().item() == pytest.approx(last.item(), rel=1e-10)


@pytest.mark.usefixtures("one_thread")
@every_engine
def test_single_steps_use_the_rates_of_their_number_and_later_steps_the_last_ones(engine: type[Engine]) -> None:
    learner, params, _ = model("conv4", ALGORITHMS["metasgd"])
    rates = {
        name: torch.tensor([0.1, -0.2], dtype=torch.float64).reshape(2, *(1,) * v.dim()) for name, v in params.items()
    }
    episode = batch()[0]
    at_once = engine(learner).adapt(params, rates, episode.support_x, episode.support_y, steps=3)
    one_by_one = params
    for step, number in enumerate((0.1, -0.2, -0.2)):
        gradient = engine(learner).support_gradient(one_by_one, episode.support_x, episode.support_y, params)
        moved = engine(learner).adapt(one_by_one, rates, episode.support_x, episode.support_y, steps=1, first_step=step)
        for name, value in moved.items():
            torch.testing.assert_close(value, one_by_one[name] - number * gradient[name], rtol=1e-10, atol=1e-12)
        one_by_one = moved
    for name, value in at_once.items():
        torch.testing.assert_close(value, one_by_one[name], rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("one_thread")
@every_engine
def test_activations_are_those_of_the_definition_and_end_in_the_features(engine: type[Engine]) -> None:
    learner, params, _ = model("conv4", ALGORITHMS["metasgd"])
    x = batch().query_x[0]
    found = engine(learner).activations(params, x)
    assert [(name, value.shape[1:]) for name, value in found.items()] == [
        ("block1", (16, 9, 9)), ("block2", (16, 4, 4)), ("block3", (16, 2, 2)), ("block4", (16, 1, 1)),
    ]  # fmt: skip
    for name, value in learner.activations(params, x).items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)
    assert torch.equal(found["block4"].flatten(1), engine(learner).features(params, x))


@pytest.mark.usefixtures("one_thread")
@every_engine
def test_the_supports_statistics_make_queries_independent_of_one_another(engine: type[Engine]) -> None:
    """In float64 to 1e-12: with the size of a batch, sums are rounded in another order."""
    learner, params, _ = model("conv4", ALGORITHMS["metasgd"])
    episode = batch()[0]
    x, judge = episode.query_x, engine(learner)
    statistics = judge.statistics(params, episode.support_x)
    expected = conv4_features(params, x, episode.support_x)
    sets = {"all": range(9), "reversed": range(8, -1, -1), "of a class": [0, 1, 2], "alone": [4]}
    for which, images in sets.items():
        found = judge.features(params, x[list(images)], statistics)
        torch.testing.assert_close(found, expected[list(images)], rtol=1e-10, atol=1e-12, msg=which)
    layers = judge.activations(params, x, statistics)
    torch.testing.assert_close(layers["block4"].flatten(1), expected, rtol=1e-10, atol=1e-12)
    for name, value in learner.activations(params, x, statistics).items():
        torch.testing.assert_close(layers[name], value, rtol=1e-10, atol=1e-12)
    mean, rstd = statistics["block1"]
    y = F.conv2d(episode.support_x, params["body.block1.conv.weight"], padding=1).transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, y.mean(1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(rstd, (y.var(1, correction=0) + 1e-5).rsqrt(), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("one_thread")
@every_engine
@pytest.mark.parametrize("steps", [0, 2])
def test_inductive_logits_are_those_of_an_independent_loop(engine: type[Engine], steps: int) -> None:
    learner, params, rates = model("conv4", ALGORITHMS["metasgd"])
    episodes = batch()
    found = engine(learner).adapted_logits(params, rates, episodes, steps=steps, inductive=True)
    for i in range(2):
        episode, at = episodes[i], {name: value.clone().requires_grad_() for name, value in params.items()}
        for _ in range(steps):
            loss = F.cross_entropy(conv4_logits(at, episode.support_x), episode.support_y)
            gradients = torch.autograd.grad(loss, list(at.values()))
            pairs = zip(at.items(), gradients, strict=True)
            at = {name: (value - rates[name] * g).detach().requires_grad_() for (name, value), g in pairs}
        expected = conv4_logits(at, episode.query_x, episode.support_x).detach()
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.sampled(16)
@pytest.mark.usefixtures("one_thread")
@every_engine
@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(row, id=name) for name, row in ROWS.items() if row.order == 2 and not row.rectified],
)
def test_a_second_order_meta_gradient_is_the_slope_along_a_random_direction(
    engine: type[Engine], algorithm: Algorithm
) -> None:
    learner, params, rates = model("conv4", algorithm)
    episodes = batch(seed=5)
    outcome = engine(learner).meta_gradient(
        params, inner_rates(algorithm, rates, params, learner.kinds), episodes, Objective(algorithm, 2)
    )
    in_rates = learned_gradient(algorithm, outcome.inner_lr) if algorithm.learns_rates else {}
    generator = torch.Generator().manual_seed(6)
    directions = [
        {name: torch.randn(value.shape, generator=generator, dtype=torch.float64) for name, value in given.items()}
        for given in (params, in_rates)
    ]

    def loss_at(step: float) -> float:
        moved = {name: value + step * directions[0][name] for name, value in params.items()}
        moved_rates = {
            name: value + step * directions[1][name] if name in directions[1] else value
            for name, value in rates.items()
        }
        leaves = {name: value.requires_grad_() for name, value in moved.items()}
        losses = [query_loss("conv4", leaves, moved_rates, episodes[i], 2, row=algorithm).item() for i in range(2)]
        return sum(losses) / 2

    announced = sum(
        float((gradient[name] * direction[name]).sum())
        for gradient, direction in zip((outcome.params, in_rates), directions, strict=True)
        for name in direction
    )
    # the central difference of step h errs by h^2 times a third derivative, by rounding over h, and where a pooled
    # position changes within it
    measured = (loss_at(1e-8) - loss_at(-1e-8)) / 2e-8
    assert measured == pytest.approx(announced, rel=1e-6, abs=1e-8)


@pytest.mark.usefixtures("one_thread")
@every_engine
@pytest.mark.parametrize("algorithm", ROWS.values(), ids=ROWS)
def test_adapting_moves_what_the_row_says_by_the_loops_steps_and_nothing_else(
    engine: type[Engine], algorithm: Algorithm
) -> None:
    learner, params, rates = model("conv4", algorithm)
    episode = batch()[0]
    taken = inner_rates(algorithm, rates, params, learner.kinds)
    adapted = engine(learner).adapt(params, taken, episode.support_x, episode.support_y, steps=3)
    moved = set(algorithm.moved(learner.kinds))
    expected = {name: value.clone().requires_grad_() for name, value in params.items()}
    for k in range(3):
        loss = F.cross_entropy(conv4_logits(expected, episode.support_x), episode.support_y)
        gradients = torch.autograd.grad(loss, [expected[name] for name in taken])
        for name, gradient in zip(taken, gradients, strict=True):
            number = rates[SHARED if algorithm.grain == "scalar" else name]
            number = number[min(k, len(number) - 1)] if algorithm.per_step else number
            number = number.relu() if algorithm.rectified else number
            expected[name] = (expected[name] - number * gradient).detach().requires_grad_()
    for name, value in params.items():
        if name in moved:
            torch.testing.assert_close(adapted[name], expected[name].detach(), rtol=1e-9, atol=1e-12)
        else:
            assert torch.equal(adapted[name], value)
        assert not adapted[name].requires_grad


@pytest.mark.usefixtures("one_thread")
@every_engine
@pytest.mark.parametrize(("name", "steps"), [("metasgd", 1), ("fometasgd", 1), ("fometasgd", 3)])
def test_the_gradient_of_a_rate_is_minus_the_summed_inner_gradient_times_the_query_gradient(
    engine: type[Engine], name: str, steps: int
) -> None:
    row = ALGORITHMS[name]
    learner, params, rates = model("conv4", row)
    episodes = batch(n_episodes=1)
    episode = episodes[0]
    outcome = engine(learner).meta_gradient(params, rates, episodes, Objective(row, steps))

    def gradient(at: Tensors, x: Tensor, y: Tensor) -> Tensors:
        leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
        gradients = torch.autograd.grad(F.cross_entropy(conv4_logits(leaves, x), y), list(leaves.values()))
        return dict(zip(leaves, gradients, strict=True))

    adapted = params
    summed = {name: torch.zeros_like(value) for name, value in params.items()}
    for _ in range(steps):
        inner = gradient(adapted, episode.support_x, episode.support_y)
        adapted = {name: value - rates[name] * inner[name] for name, value in adapted.items()}
        summed = {name: value + inner[name] for name, value in summed.items()}
    outer = gradient(adapted, episode.query_x, episode.query_y)
    for name in rates:
        torch.testing.assert_close(outcome.inner_lr[name], -summed[name] * outer[name], rtol=1e-8, atol=1e-13)
    if row.order == 1:  # FOMAML's: the query gradient at the adapted parameters
        for name in params:
            torch.testing.assert_close(outcome.params[name], outer[name], rtol=1e-8, atol=1e-13)


@pytest.mark.usefixtures("one_thread")
@every_engine
def test_features_are_those_of_the_definition(engine: type[Engine]) -> None:
    learner, params, _ = model("conv4", ALGORITHMS["maml"])
    x = batch()[0].query_x
    features = engine(learner).features(params, x)
    logits = features @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(logits, conv4_logits(params, x), rtol=1e-10, atol=1e-12)
    assert not features.requires_grad


@every_engine
def test_parallel_episodes_give_the_results_of_single_ones(engine: type[Engine]) -> None:
    learner, params, rates = model("conv4", ALGORITHMS["metasgd"])
    episodes = batch(n_episodes=12)

    def features(i: int) -> Tensor:
        x, y = episodes.support_x[i], episodes.support_y[i]
        return engine(learner).features(engine(learner).adapt(params, rates, x, y, steps=3), episodes.query_x[i])

    alone = [features(i) for i in range(12)]
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        beside = list(in_order(features, range(12), device=torch.device("cpu")))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, beside, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def without_reference(names: list[str]) -> list[Any]:
    return [
        pytest.param(
            ENGINES[name], id=name, marks=pytest.mark.skipif(not is_built(ENGINES[name]), reason=f"`{name}` not built")
        )
        for name in names
        if name != "reference"
    ]


every_other_engine = pytest.mark.parametrize("engine", without_reference(list(ENGINES)))


@pytest.mark.sampled(6)
@pytest.mark.usefixtures("one_thread")
@every_other_engine
@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_ten_updates_have_the_losses_of_the_reference(engine: type[Engine], algorithm: Algorithm) -> None:
    losses = losses_of_ten_updates(engine, algorithm)
    assert losses.dtype == torch.float64
    torch.testing.assert_close(losses, losses_of_ten_updates(ENGINES["reference"], algorithm), rtol=1e-8, atol=0)


@functools.cache
def losses_of_ten_updates(engine: type[Engine], algorithm: Algorithm) -> Tensor:
    learner, params, rates = model("conv4", algorithm)
    settings = OuterSettings(outer_lr=1e-3, grad_clip=None, inner_steps=2, outer_steps=10)
    outer = OuterLoop(algorithm, params, rates, engine=engine(learner), settings=settings)
    steps = [take_step(outer, batch(seed), outer_step=seed, first_episode=0) for seed in range(10)]
    return torch.stack([step.query_loss.mean() for step in steps])


@pytest.mark.sampled(4)
@pytest.mark.usefixtures("one_thread")
@every_other_engine
@pytest.mark.parametrize("name", ["maml", "metasgd"])
def test_in_float32_the_error_is_no_larger_than_the_references(engine: type[Engine], name: str) -> None:
    algorithm = ALGORITHMS[name]
    errors: dict[str, list[float]] = {"engine": [], "reference": []}
    for seed in range(5):
        learner = build_learner("conv4", n_way=5, image_size=32, filters=16, seed=seed)
        params = learner.initial_params()
        rates = {key: torch.full_like(params[key], 0.05) for key in algorithm.moved(learner.kinds)}
        x = torch.rand(1, 30, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(5)
        episodes = Episode(x[:, :5], labels[None], x[:, 5:], labels.repeat_interleave(5)[None])
        exact = [{key: value.double() for key, value in given.items()} for given in (params, rates)]
        wide = Episode(x[:, :5].double(), labels[None], x[:, 5:].double(), episodes.query_y)
        truth = ENGINES["reference"](learner.double()).meta_gradient(*exact, wide, Objective(algorithm, 3))
        for who, used in (("engine", engine), ("reference", ENGINES["reference"])):
            outcome = used(learner.float()).meta_gradient(params, rates, episodes, Objective(algorithm, 3))
            error = flat([outcome.params[key].double() - truth.params[key] for key in params])
            errors[who].append(float(error.norm() / flat(list(truth.params.values())).norm()))
    medians = {who: sorted(values)[len(values) // 2] for who, values in errors.items()}
    # a pooling tie that falls the other way is worth a thousand roundings, so the medians are compared, to a factor
    assert medians["engine"] <= 2 * medians["reference"], errors


RECOMPUTED = [row for row in ROWS.values() if row.order == 2]


@pytest.mark.sampled(12)
@pytest.mark.usefixtures("one_thread")
@every_engine
@pytest.mark.parametrize("arch", NETWORKS)
@pytest.mark.parametrize("weights", [None, (0.5, 0.3, 0.2)], ids=["last", "every step"])
@pytest.mark.parametrize("algorithm", RECOMPUTED, ids=lambda row: f"{row.name}-{row.grain}-{row.per_step}")
def test_recomputed_activations_give_the_same_meta_gradient(
    engine: type[Engine], arch: str, algorithm: Algorithm, weights: tuple[float, ...] | None
) -> None:
    learner, params, rates = model(arch, algorithm)
    taken = inner_rates(algorithm, rates, params, learner.kinds)
    objective = Objective(algorithm, 3, weights, inductive=weights is not None)
    kept, recomputed = (
        engine(learner, recompute=recompute).meta_gradient(params, taken, batch(), objective)
        for recompute in (False, True)
    )
    pairs = [(kept.params[name], recomputed.params[name]) for name in params]
    pairs += [(kept.inner_lr[name], recomputed.inner_lr[name]) for name in kept.inner_lr]
    pairs += [(kept.query_loss, recomputed.query_loss), (kept.accuracy, recomputed.accuracy)]
    for value, again in pairs:
        if engine.name == "reference":  # it adds the same terms in another order
            assert (value - again).norm() <= 1e-9 * value.norm() + 1e-13
        else:
            assert torch.equal(value, again)
