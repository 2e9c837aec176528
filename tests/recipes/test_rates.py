from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from docs.generate import schemas
from nilr.checkpoint import load_checkpoint
from nilr.cli.boundary import run
from nilr.config.evaluation import RatesSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import DataError, EpisodeError, StoreError, UsageError
from nilr.meta.engine.reference import ReferenceEngine
from nilr.recipes import rates
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.packs import open_split
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from nilr.store import Store
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

CPU = torch.device("cpu")
NEW = ("consistency", "consistency_by_chance", "effective_step")


@pytest.fixture
def sgd(quick: dict[str, Any]) -> str:
    # from zero on, about half of the rates are negative after a few updates
    train_model(algo="metasgd", name="sgd", inner_lr_init="uniform-each:-0.1,0.1", **quick)
    return "sgd"


def look(*models: str, **settings: Any) -> Result[Any]:
    given = {"n_episodes": 4, "threads": 1} | settings
    return rates.run(RatesSettings(models=models, **given), SilentReporter())


def test_the_figures_are_those_of_the_checkpoint_and_of_gradients_taken_by_hand(sgd: str) -> None:
    found = look(sgd, engine="reference").metrics[sgd]
    model = load_model(Store(None), sgd, device=CPU, engine="reference")
    held = torch.cat([rate.flatten() for rate in model.inner_lr.values()]).double()
    assert found.all.count == len(held)
    assert found.all.share_negative == pytest.approx((held < 0).double().mean().item())
    assert found.all.quantiles["0.5"] == pytest.approx(held.quantile(0.5).item())
    images = open_split(Store(None).find_data("mini-imagenet"), "test", CPU).images
    sampler = EpisodeSampler(images, 3, 1, 3, 0, "test")
    ascents, norms, cosines = [], [], []
    for i in range(4):
        e = sampler.draw([i])[0]
        gradients = ReferenceEngine(model.learner).support_gradient(
            model.params, e.support_x, e.support_y, model.inner_lr
        )
        g = torch.cat([gradients[name].flatten() for name in model.inner_lr]).double()
        weighted = held.abs() * g**2
        ascents.append((weighted[held < 0].sum() / weighted.sum()).item())
        norms.append((held * g).norm().item())
        cosines.append(torch.cosine_similarity(held * g, g, dim=0).item())
    for figure, values in ((found.all.ascent, ascents), (found.all.step_norm, norms), (found.all.cosine, cosines)):
        assert figure.mean == pytest.approx(sum(values) / 4, rel=1e-4)
        assert figure.n_episodes == 4
        assert figure.ci95 is not None


def test_consistency_and_effective_step_are_those_of_gradients_taken_by_hand(sgd: str) -> None:
    result = look(sgd, consistency=True, effective_step=True)
    found, plain = result.metrics[sgd], look(sgd).metrics[sgd]
    assert found.model_copy(update=dict.fromkeys(NEW)) == plain
    model = load_model(Store(None), sgd, device=CPU, engine="reference")
    images = open_split(Store(None).find_data("mini-imagenet"), "test", CPU).images
    sampler = EpisodeSampler(images, 3, 1, 3, 0, "test")
    names = [name for name in model.inner_lr if name.startswith("body.block2.")]
    rates = torch.cat([model.inner_lr[name].flatten() for name in names])
    gradients, slopes = [], []
    for i in range(4):
        e = sampler.draw([i])[0]
        params = {name: value.clone().requires_grad_() for name, value in model.params.items()}
        loss = torch.nn.functional.cross_entropy(model.learner.logits(params, e.support_x), e.support_y)
        g = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
        gradients.append(torch.cat([g[name].flatten() for name in names]).double())
        slopes.append(-sum((model.inner_lr[name] * g[name].square()).sum().item() for name in g))
    products = [gradients[i] * gradients[j] for i in range(4) for j in range(4) if i != j]
    squares = torch.stack([g.square() for g in gradients]).mean(0)
    used = squares > 0
    shared = (torch.stack(products).mean(0) / squares)[used]
    layer = found.consistency["block2"]
    assert layer.negative.shared.mean == pytest.approx(shared[rates[used] < 0].mean().item(), abs=1e-5)
    assert layer.positive.shared.mean == pytest.approx(shared[rates[used] > 0].mean().item(), abs=1e-5)
    assert list(found.consistency) == ["all", "block1", "block2", "block3", "block4", "head"]
    values = result.per_episode[sgd]["effective_step"]
    assert values["slope"] == pytest.approx(slopes, rel=1e-4)
    assert found.effective_step.slope.mean == pytest.approx(sum(slopes) / 4, rel=1e-4)
    assert found.effective_step.ratio.mean == pytest.approx(-sum(values["curvature"]) / sum(slopes), rel=1e-4)


@pytest.mark.parametrize("flag", ["consistency", "effective_step"])
def test_what_needs_gradients_is_an_error_without_them(flag: str, sgd: str, pack: Path) -> None:
    for lacking in ("n_episodes", "inner_steps"):
        with pytest.raises(
            UsageError, match=f"--{flag.replace('_', '-')} needs gradients, and --{lacking}".replace("_", "-")
        ):
            look(sgd, **{flag: True, lacking: 0})
    pack.unlink()
    with pytest.raises(DataError):
        look(sgd, **{flag: True})


def test_one_episode_shares_no_gradient_with_another(sgd: str) -> None:
    with pytest.raises(UsageError, match="--consistency compares episodes, and --n-episodes is 1"):
        look(sgd, consistency=True, n_episodes=1)


def test_kinds_layers_and_tensors_each_cover_all_rates(sgd: str) -> None:
    found = look(sgd).metrics[sgd]
    for groups in (found.kinds, found.layers, found.tensors):
        assert sum(figures.count for figures in groups.values()) == found.all.count
        negative = sum(figures.count * figures.share_negative for figures in groups.values())
        assert negative == pytest.approx(found.all.count * found.all.share_negative)
    assert list(found.layers) == ["block1", "block2", "block3", "block4", "head"]
    assert set(found.kinds) == {"convolution weight", "norm scale", "norm shift", "head weight", "head bias"}
    scale = found.tensors["body.block2.norm.weight"]
    assert (scale.layer, scale.kind, scale.count) == ("block2", "norm scale", 4)


@pytest.mark.parametrize(("algo", "moved"), [("maml", 6), ("anil", 2), ("boil", 12)])
def test_fixed_rates_are_one_number_per_tensor_along_the_gradient(algo: str, moved: int, quick: dict[str, Any]) -> None:
    train_model(algo=algo, name=algo, **quick)
    found = look(algo, inner_steps=2).metrics[algo]
    assert found.all.count == moved == len(found.tensors)
    assert len(found.not_moved) == 14 - moved
    assert (found.all.share_negative, found.all.ascent.mean) == (0.0, 0.0)
    assert found.all.std == pytest.approx(0, abs=1e-12)
    assert found.all.cosine.mean == pytest.approx(1)
    assert found.left_out == []


@pytest.mark.parametrize("grain", ["scalar", "tensor", "element"])
def test_rates_of_every_grain_count_for_each_step(grain: Any, quick: dict[str, Any]) -> None:
    trained = {"inner_steps": 2, "eval_inner_steps": 3, "rate_grain": grain, "rate_per_step": True} | quick
    train_model(algo="metasgd", name="it", **trained)
    found = look("it").metrics["it"]
    model = load_model(Store(None), "it", device=CPU, engine="auto")
    elements = sum(value.numel() for value in model.params.values())
    assert found.all.count == 2 * (elements if grain == "element" else len(model.params))
    assert found.inner_steps == 3
    assert 0 < found.all.cosine.mean <= 1 + 1e-9


def test_a_parameter_without_signal_is_left_out_and_named(sgd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = look(sgd, engine="reference").metrics[sgd]
    gradient = ReferenceEngine.support_gradient

    def blind(self: ReferenceEngine, *args: Any) -> dict[str, torch.Tensor]:
        found = gradient(self, *args)
        found["body.block1.norm.bias"] = 1e-9 * found["body.block1.norm.bias"]
        found["head.bias"] = torch.cat([torch.zeros(1), found["head.bias"][1:]])
        return found

    monkeypatch.setattr(ReferenceEngine, "support_gradient", blind)
    found = look(sgd, engine="reference").metrics[sgd]
    assert found.left_out == ["body.block1.norm.bias"]
    assert "body.block1.norm.bias" not in found.tensors
    assert found.all.count == whole.all.count - 4
    assert found.layers["block1"].count == whole.layers["block1"].count - 4
    assert (whole.tensors["head.bias"].no_signal, found.tensors["head.bias"].no_signal) == (0, 1)


def test_without_the_pack_the_distribution_is_still_reported(sgd: str, pack: Path) -> None:
    with_pack = look(sgd).metrics[sgd]
    pack.unlink()
    result = look(sgd)
    found = result.metrics[sgd]
    assert found.all.histogram == with_pack.all.histogram
    assert found.all.share_negative == with_pack.all.share_negative
    assert (found.all.ascent, found.all.step_norm, found.all.cosine) == (None, None, None)
    assert result.data is None
    assert result.notes[0].startswith("Omitted, because they need episodes: gradient-weighted ascent, ")
    assert "mini-imagenet" in result.notes[0]
    with pytest.raises(StoreError):
        look(sgd, data="mini-imagenet")


def test_zero_episodes_give_only_the_distribution(sgd: str) -> None:
    result = look(sgd, n_episodes=0)
    assert result.metrics[sgd].all.ascent is None
    assert "--n-episodes is 0" in result.notes[0]


def test_models_of_one_recipe_are_compared_over_their_seeds(quick: dict[str, Any]) -> None:
    for seed in (0, 1, 2):
        train_model(algo="metasgd", name=f"seed{seed}", seed=seed, inner_lr_init="uniform-each:-0.1,0.3", **quick)
    result = look("seed0", "seed1", "seed2", n_episodes=0)
    shares = torch.tensor([100 * figures.all.share_negative for figures in result.metrics.values()]).double()
    assert result.notes[-1] == (
        f"Share of negative rates over 3 seeds of metasgd: {shares.mean():.2f} % on average, standard deviation "
        f"between seeds {shares.std(correction=1):.2f} points."
    )
    result = look("seed0", "seed1", "seed2", n_episodes=3, consistency=True, effective_step=True)
    steps = torch.tensor([figures.effective_step.ratio.mean for figures in result.metrics.values()])
    assert result.notes[-1] == (
        f"Effective first step over 3 seeds of metasgd: {steps.mean():.2f} on average, standard deviation between "
        f"seeds {steps.std(correction=1):.2f}."
    )
    shared = [100 * figures.consistency["all"].difference.mean for figures in result.metrics.values()]
    assert f"seeds of metasgd: {sum(shared) / 3:.2f} points on average" in result.notes[-2]


def test_recipes_of_one_algorithm_are_told_apart(quick: dict[str, Any]) -> None:
    few = quick | {"outer_steps": 1, "eval_every": 0}
    for name, filters in (("narrow", 3), ("wide", 4)):
        for seed in (0, 1):
            train_model(
                algo="metasgd",
                name=f"{name}{seed}",
                seed=seed,
                inner_lr_init="uniform-each:-0.1,0.3",
                **few | {"filters": filters},
            )
    notes = look("wide0", "wide1", "narrow1", "narrow0", n_episodes=0).notes
    assert "Share of negative rates over 2 seeds of metasgd (wide0, ...): " in notes[-2]
    assert "Share of negative rates over 2 seeds of metasgd (narrow1, ...): " in notes[-1]


def test_episodes_too_large_for_the_split_are_an_error(sgd: str) -> None:
    with pytest.raises(EpisodeError):
        look(sgd, n_shot=9)


def test_the_command_shows_a_table_and_writes_json_of_its_schema(sgd: str, capsys: pytest.CaptureFixture[str]) -> None:
    requested = ["--consistency", "--effective-step"]
    assert run(["rates", sgd, "--n-episodes", "3", "--threads", "1", "--json", "-", *requested]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    jsonschema.validate(result, schemas()["rates"])
    figures = result["metrics"][sgd]
    lines = err.splitlines()
    held, seen = (line.split() for line in lines if line.startswith("body.block4.conv.weight"))
    tensor = figures["tensors"]["body.block4.conv.weight"]
    assert (held[1], held[-1]) == (str(tensor["count"]), f"{100 * tensor['share_negative']:.2f}")
    ascent = tensor["ascent"]
    assert seen[1:4] == [f"{100 * ascent['mean']:.2f}", "±", f"{100 * ascent['ci95']:.2f}"]
    after = lines[next(i for i, line in enumerate(lines) if line.startswith("shared by episodes")) :]
    head = next(line.split() for line in after if line.startswith("head"))
    assert head[1] == f"{100 * figures['consistency']['head']['positive']['shared']['mean']:.2f}"
    step = next(after[i + 1].split() for i, line in enumerate(after) if line.startswith("first step"))
    assert step[1] == f"{figures['effective_step']['slope']['mean']:.3g}"
    checkpoint = load_checkpoint(Store(None).find_model(sgd).file)
    assert f"sgd@best (metasgd, update {checkpoint.manifest.outer_step}, 1 inner step)" in lines
    assert any(line.startswith("gradients of 3 episodes of the test split of `mini-imagenet`") for line in lines)
