"""Images of one channel: every engine against the loop of test_engines.py."""

from __future__ import annotations

import pytest
import torch

from nilr.episodes import Episode
from nilr.meta.engine.contract import Engine, Objective
from nilr.meta.inner_lr import initial_rates, inner_rates
from nilr.models.registry import BODIES, build_learner
from tests.meta.engine.networks import NETWORKS
from tests.meta.engine.test_engines import ROWS, every_engine, flat, loop_gradients

ARGUMENTS: dict[str, dict[str, object]] = {"resnet12": {"widths": (3, 4, 2, 4)}}


@pytest.mark.sampled(20)
@every_engine
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("arch", sorted(BODIES.keys() & NETWORKS.keys()))
@pytest.mark.parametrize("algorithm", ["maml", "metasgd", "fomaml"])
def test_the_meta_gradient_on_grey_images_is_that_of_an_independent_loop(
    engine: type[Engine], algorithm: str, arch: str
) -> None:
    learner = build_learner(arch, n_way=3, image_size=18, channels=1, **ARGUMENTS.get(arch, {"filters": 4})).double()
    assert {
        value.shape[1] for name, value in learner.initial_params().items() if "block1." in name and value.ndim == 4
    } >= {1}
    row = ROWS[algorithm]
    params = learner.initial_params()
    rates = initial_rates(row, params, learner.kinds, seed=3)
    packed = torch.rand(2, 15, 18, 18, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, labels = packed.permute(0, 1, 4, 2, 3), torch.arange(3)  # as packs have them: channels last
    episodes = Episode(
        x[:, :6], labels.repeat_interleave(2).expand(2, -1), x[:, 6:], labels.repeat_interleave(3).expand(2, -1)
    )
    taken = inner_rates(row, rates, params, learner.kinds)
    outcome = engine(learner).meta_gradient(params, taken, episodes, Objective(row, 2))
    loss, gradients = loop_gradients(arch, row, params, rates, episodes, 2)
    assert outcome.query_loss.mean().item() == pytest.approx(loss.item(), rel=1e-10)
    expected = flat(gradients[: len(params)])
    assert (flat([outcome.params[name] for name in params]) - expected).norm() <= 1e-9 * expected.norm()
