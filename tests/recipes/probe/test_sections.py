"""The sections of a probe, on real models and through the whole command."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from torch import Tensor

from docs.generate import schemas
from nilr.cli.boundary import run
from nilr.config.evaluation import ProbeSettings
from nilr.data.pack import PackInfo
from nilr.data.pack_writer import PackWriter
from nilr.episodes import EpisodeSampler
from nilr.errors import DataError, EpisodeError, UsageError
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.metrics import paired_difference
from nilr.probes.neighbours import RULES
from nilr.probes.similarity import BETWEEN, WITHIN
from nilr.recipes import probe
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.packs import open_split
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from nilr.store import Store
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

BLOCKS = ["block1", "block2", "block3", "block4"]
ADAPTED = ("same-task", "cross-task")
CPU = torch.device("cpu")


@pytest.fixture
def maml(quick: dict[str, Any]) -> str:
    few = {"outer_steps": 2, "eval_every": 0}
    train_model(algo="maml", name="maml", inner_lr=0.4, **(quick | few))
    return "maml"


def judge(*models: str, **settings: Any) -> Result[Any]:
    given = {"n_episodes": 4, "threads": 1, "inner_steps": 3} | settings
    return probe.run(ProbeSettings(models=models, **given), SilentReporter())


def leaves(tree: Any, *path: str) -> Iterator[tuple[tuple[str, ...], list[float | None]]]:
    if isinstance(tree, list):
        yield path, tree
    else:
        for key, branch in tree.items():
            yield from leaves(branch, *path, key)


def adapted(model: Any, episode: Any, steps: int = 3) -> dict[str, Tensor]:
    """Return the parameters after the inner loop, by a plain loop."""
    params = {name: value.clone().requires_grad_() for name, value in model.params.items()}
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model.learner.logits(params, episode.support_x), episode.support_y)
        gradients = torch.autograd.grad(loss, [params[name] for name in model.inner_lr])
        for name, gradient in zip(model.inner_lr, gradients, strict=True):
            params[name] = (params[name] - model.inner_lr[name] * gradient).detach().requires_grad_()
    return params


def drawn(pack: Path, stream: str, i: int, n_query: int, avoid: Tensor | None = None) -> tuple[Tensor, Any]:
    sampler = EpisodeSampler(open_split(pack, "test", CPU).images, 3, 1, n_query, 0, stream)
    classes, images = sampler.choose([i], avoid=avoid)
    return classes, sampler.load(classes, images)[0]


def other_pack(home: Path, *, image_size: int = 16) -> Path:
    """Pack 5 test classes of 6 images whose brightness says the class, as `other` in the store."""
    path = home / "datasets" / "other.h5"
    layout = {"test": {f"other{i}": 6 for i in range(5)}}
    info = PackInfo("other", image_size, "bilinear", source="x", licence="none")
    rng = np.random.default_rng(1)
    with PackWriter.create(path, info, layout) as writer:
        for i, name in enumerate(layout["test"]):
            pixels = 40 + 40 * i + rng.integers(0, 30, (6, image_size, image_size, 3))
            writer.write_class("test", name, pixels.astype(np.uint8), [f"{name}-{j}.png" for j in range(6)])
    return path


def test_layers_equal_a_plain_loop(maml: str, pack: Path) -> None:
    values = judge(maml, layers=("block3,block1",)).per_episode[maml]["layers"]
    assert list(values) == ["block1", "block3"]
    model = load_model(Store(None), maml, device=CPU, engine="reference")
    for i in range(4):
        classes, b = drawn(pack, "test", i, 3)
        _, a = drawn(pack, "test/task-a", i, 3, classes)
        for protocol, params in {
            "meta-init": model.params,
            "same-task": adapted(model, b),
            "cross-task": adapted(model, a),
        }.items():
            support, query = (model.learner.activations(params, x) for x in (b.support_x, b.query_x))
            for name in ("block1", "block3"):
                s, q = support[name].flatten(1), query[name].flatten(1)
                cosine = torch.nn.functional.cosine_similarity(q[:, None], s[None], dim=-1)
                right = (b.support_y[cosine.argmax(1)] == b.query_y).double().mean().item()
                assert values[name][protocol][i] == pytest.approx(right)


@pytest.mark.parametrize("batch_stats", ["apart", "together"])
def test_the_last_layer_is_the_features(maml: str, batch_stats: str) -> None:
    result = judge(maml, layers=("all",), batch_stats=batch_stats)
    values = result.per_episode[maml]
    assert list(values["layers"]) == BLOCKS
    assert values["layers"]["block4"] == {protocol: values[protocol] for protocol in ("meta-init", *ADAPTED)}
    plain = judge(maml, batch_stats=batch_stats).per_episode[maml]
    assert {protocol: values[protocol] for protocol in plain} == plain


def test_similarity_equals_a_plain_loop(maml: str, pack: Path) -> None:
    values = judge(maml, similarity=True, n_query=5, layers=("block2",)).per_episode[maml]["similarity"]
    assert list(values["meta-init"]["block2"]) == list(WITHIN)
    model = load_model(Store(None), maml, device=CPU, engine="reference")
    for i in range(4):
        classes, b = drawn(pack, "test", i, 5)
        _, a = drawn(pack, "test/task-a", i, 5, classes)
        x = model.learner.activations(model.params, b.query_x)["block2"].detach().double().flatten(1)
        for protocol, episode in zip(ADAPTED, (b, a), strict=True):
            y = model.learner.activations(adapted(model, episode), b.query_x)["block2"].detach().double().flatten(1)
            found = {measure: value[i] for measure, value in values[protocol]["block2"].items()}
            cosine = torch.nn.functional.cosine_similarity(x, y)
            assert found["cosine"] == pytest.approx(cosine.mean().item(), rel=1e-4)
            assert found["cka"] == pytest.approx(brute_cka(x, y), rel=1e-4)
            pairs = torch.nn.functional.cosine_similarity(y[:, None], y[None], dim=-1)
            same = b.query_y[:, None] == b.query_y[None]
            within = pairs[same & ~torch.eye(15, dtype=torch.bool)].mean().item()
            assert found["within-class-cosine"] == pytest.approx(within, rel=1e-4)
            assert found["between-class-cosine"] == pytest.approx(pairs[~same].mean().item(), rel=1e-4)


def brute_cka(x: Tensor, y: Tensor) -> float:
    """Return CKA from the definition of the unbiased HSIC: means over all tuples of different images."""
    k, l = (values @ values.T for values in (x, y))  # noqa: E741
    n = len(x)

    def hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
        apart = 1 - torch.eye(n, dtype=torch.float64)
        k, l = k * apart, l * apart  # noqa: E741
        pairs = (k * l).sum() / (n * (n - 1))
        distinct3 = torch.einsum("ij,ik->", k, l) - (k * l).sum()
        distinct4 = k.sum() * l.sum() - 4 * distinct3 - 2 * (k * l).sum()
        triples = distinct3 / (n * (n - 1) * (n - 2))
        return float(pairs + distinct4 / (n * (n - 1) * (n - 2) * (n - 3)) - 2 * triples)

    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def test_a_body_that_does_not_move_is_the_same_before_and_after(quick: dict[str, Any]) -> None:
    train_model(algo="anil", name="anil", **quick)
    found = judge("anil", similarity=True, n_query=5).metrics["anil"].similarity
    assert list(found["same-task"]) == BLOCKS
    for protocol in ADAPTED:
        for name in BLOCKS:
            assert [found[protocol][name][measure].mean for measure in BETWEEN] == pytest.approx([1, 1, 1])
            assert all(found[protocol][name][m] == found["meta-init"][name][m] for m in WITHIN)


def test_too_few_queries_for_a_similarity_are_an_error(maml: str) -> None:
    with pytest.raises(EpisodeError, match=r"SVCCA needs at least 10 samples .* the episode has 9"):
        judge(maml, similarity=True, layers=("block4",))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("engine", ["reference", "explicit"])
@pytest.mark.parametrize("rates", ["learned", "norm-matched"])
def test_the_steps_curve_equals_probes_with_each_number_of_steps(maml: str, engine: str, rates: str) -> None:
    curve = judge(maml, steps_curve=True, engine=engine, rates=(rates,)).per_episode[maml]
    assert list(curve["steps"]) == ["0", "1", "2", "3"]
    for steps, found in curve["steps"].items():
        alone = judge(maml, inner_steps=int(steps), engine=engine, rates=(rates,)).per_episode[maml]
        assert found == {protocol: alone[protocol] for protocol in ADAPTED}
    assert curve["steps"]["3"] == {protocol: curve[protocol] for protocol in ADAPTED}
    assert curve["steps"]["0"] == dict.fromkeys(ADAPTED, curve["meta-init"])


def test_the_steps_curve_uses_the_rates_of_each_step(quick: dict[str, Any]) -> None:
    few = {"outer_steps": 2, "eval_every": 0, "inner_steps": 3}
    train_model(algo="lslr", name="lslr", **(quick | few))
    curve = judge("lslr", steps_curve=True).per_episode["lslr"]["steps"]
    for steps, found in curve.items():
        alone = judge("lslr", inner_steps=int(steps)).per_episode["lslr"]
        assert found == {protocol: alone[protocol] for protocol in ADAPTED}


def stepped(model: Any, episode: Any, rates: str) -> dict[str, Tensor]:
    """Return the parameters after two steps with edited rates, by a plain loop."""
    params = dict(model.params)
    for _ in range(2):
        leaf = {name: value.clone().requires_grad_() for name, value in params.items()}
        loss = torch.nn.functional.cross_entropy(model.learner.logits(leaf, episode.support_x), episode.support_y)
        for name, g in zip(model.inner_lr, torch.autograd.grad(loss, [leaf[n] for n in model.inner_lr]), strict=True):
            step = model.inner_lr[name] * g
            matched = step.norm() / g.norm() * g if g.norm() > 0 else step
            params[name] = params[name] - {"learned": step, "negated": -step, "norm-matched": matched}[rates]
    return params


def test_the_own_head_is_judged_with_every_edit_of_the_rates(quick: dict[str, Any], pack: Path) -> None:
    drawn_rates = {"inner_lr_init": "uniform-each:-0.5,0.9", "outer_steps": 2, "eval_every": 0}
    train_model(algo="metasgd", name="sgd", **(quick | drawn_rates))
    asked = {"n_query": 7, "inner_steps": 2, "protocol": "same-task"}
    result = judge("sgd", rates=("negated", "norm-matched"), own_head=True, **asked)
    values = result.per_episode["sgd"]["own_head"]
    assert list(values) == ["negated", "norm-matched", "learned"]
    model = load_model(Store(None), "sgd", device=CPU, engine="reference")
    for i in range(4):
        _, b = drawn(pack, "test", i, 7)
        for rates, found in values.items():
            for protocol, params in (("meta-init", model.params), ("same-task", stepped(model, b, rates))):
                right = (model.learner.logits(params, b.query_x).argmax(1) == b.query_y).double().mean().item()
                assert found[protocol][i] == pytest.approx(right, abs=1e-6)
    after = {rates: torch.tensor(found["same-task"]) for rates, found in values.items()}
    assert not torch.equal(after["negated"], after["learned"])
    head = result.metrics["sgd"].own_head
    assert head["learned"].same_task.delta_to_learned is None
    expected = paired_difference(after["negated"], after["learned"]).mean
    assert head["negated"].same_task.delta_to_learned.mean == pytest.approx(expected)
    before = torch.tensor(values["negated"]["meta-init"])
    assert head["negated"].same_task.delta.mean == pytest.approx(paired_difference(after["negated"], before).mean)


def test_transfer_is_the_gradient_of_b_times_the_step_of_each_task_with_the_main_rates(
    quick: dict[str, Any], pack: Path
) -> None:
    signs = {"inner_lr_init": "uniform-each:-0.4,0.4", "algo": "metasgd"}
    train_model(name="sgd", **signs, **quick)
    result = judge("sgd", transfer=True, rates=("negated", "learned"), inner_steps=1, n_episodes=3)
    values = result.per_episode["sgd"]["transfer"]
    model = load_model(Store(None), "sgd", device=CPU, engine="reference")

    def query_loss(params: dict[str, Tensor], b: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(model.learner.logits(params, b.query_x), b.query_y)

    for i in range(3):
        classes, b = drawn(pack, "test", i, 3)
        start = {name: value.clone().requires_grad_() for name, value in model.params.items()}
        before = query_loss(start, b)
        gradient = dict(zip(start, torch.autograd.grad(before, list(start.values())), strict=True))
        for protocol, task in (("same-task", b), ("cross-task", drawn(pack, "test/task-a", i, 3, classes)[1])):
            loss = torch.nn.functional.cross_entropy(model.learner.logits(start, task.support_x), task.support_y)
            slopes = dict(zip(start, torch.autograd.grad(loss, list(start.values())), strict=True))
            step = {name: model.inner_lr[name] * g for name, g in slopes.items()}  # negated rates add it
            change = {name: gradient[name] * step[name] for name in start}
            found = values[protocol]
            assert found["predicted"][i] == pytest.approx(sum(c.sum().item() for c in change.values()), abs=1e-5)
            for sign, side in (("positive", -1), ("negative", 1)):  # of the negated rates
                block3 = sum(
                    c[model.inner_lr[name] * side > 0].sum().item() for name, c in change.items() if "block3" in name
                )
                assert found["parts"]["block3"][f"predicted_{sign}"][i] == pytest.approx(block3, abs=1e-5)
            moved = {name: value + step[name] for name, value in start.items()}
            assert found["actual"][i] == pytest.approx((query_loss(moved, b) - before).item(), abs=1e-5)


def test_each_model_has_a_curve_over_its_number_of_steps(maml: str, quick: dict[str, Any]) -> None:
    train_model(algo="metasgd", name="sgd", **quick)
    metrics = judge(maml, "sgd", steps_curve=True, inner_steps=None, n_episodes=2).metrics
    assert list(metrics[maml].steps) == [str(k) for k in range(11)]
    assert list(metrics["sgd"].steps) == ["0", "1"]


def test_shared_classes_range_from_a_disjoint_task_to_one_with_the_same_classes(maml: str) -> None:
    values = judge(maml, shared_classes=True, n_episodes=8).per_episode[maml]
    assert list(values["shared_classes"]) == ["0", "0.3333", "0.6667", "1"]
    same = judge(maml, task_b="same-classes", shared_classes=True, n_episodes=8).per_episode[maml]
    assert values["shared_classes"]["0"]["cross-task"] == values["cross-task"]
    assert values["shared_classes"]["1"]["cross-task"] == same["cross-task"] != values["cross-task"]
    assert same["shared_classes"] == values["shared_classes"]


def test_several_rules_judge_the_same_features_and_the_first_is_the_main_one(
    maml: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    features = ExplicitEngine.features
    monkeypatch.setattr(ExplicitEngine, "features", lambda *given: calls.append(1) or features(*given))
    result = judge(maml, neighbours=("class-mean,attention", "nearest"), n_shot=2, engine="explicit")
    # support and query, of 4 episodes under 3 protocols
    assert len(calls) == 2 * 4 * 3
    values = result.per_episode[maml]
    assert list(values["neighbours"]) == ["class-mean", "attention", "nearest"]
    assert result.config["neighbours"] == ["class-mean", "attention", "nearest"]
    for rule in RULES:
        alone = judge(maml, neighbours=(rule,), n_shot=2, engine="explicit")
        assert alone.metrics[maml].neighbours == {}
        found = {protocol: alone.per_episode[maml][protocol] for protocol in ("meta-init", *ADAPTED)}
        assert values["neighbours"][rule] == found
    assert values["meta-init"] == values["neighbours"]["class-mean"]["meta-init"]


def test_cross_task_adapts_to_one_pack_and_evaluates_on_the_other(maml: str, home: Path, pack: Path) -> None:
    other = other_pack(home)
    result = judge(maml, data_b="other")
    values = result.per_episode[maml]
    alone = judge(maml, data="other", protocol="same-task").per_episode[maml]
    assert all(values[protocol] == alone[protocol] for protocol in ("meta-init", "same-task"))
    model = load_model(Store(None), maml, device=CPU, engine="reference")
    for i in range(4):
        _, b = drawn(other, "test", i, 3)
        _, a = drawn(pack, "test/task-a", i, 3)
        support, query = (model.learner.features(adapted(model, a), x) for x in (b.support_x, b.query_x))
        cosine = torch.nn.functional.cosine_similarity(query[:, None], support[None], dim=-1)
        right = (b.support_y[cosine.argmax(1)] == b.query_y).double().mean().item()
        assert values["cross-task"][i] == pytest.approx(right)
    assert (result.data.name, result.data_b) == ("mini-imagenet", open_split(other, "test", CPU).used)
    assert (result.config["data"], result.config["data_b"]) == ("mini-imagenet", "other")


def test_data_b_must_differ_and_have_the_same_image_size(maml: str, home: Path) -> None:
    with pytest.raises(DataError, match="has the same images as `mini-imagenet`"):
        judge(maml, data_b="mini-imagenet")
    other_pack(home, image_size=18)
    with pytest.raises(
        DataError, match="`other` has RGB images of 18 px, and model `maml` was trained on RGB images of 16 px"
    ):
        judge(maml, data_b="other")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data_b": "other", "task_b": "same-classes"}, "--task-b same-classes"),
        ({"data_b": "other", "shared_classes": True}, "--shared-classes"),
        ({"protocol": "same-task", "shared_classes": True}, "--shared-classes"),
        ({"protocol": "meta-init", "steps_curve": True}, "--steps-curve"),
        ({"protocol": "cross-task", "own_head": True}, "--own-head"),
    ],
)
def test_contradictory_settings_are_an_error_before_a_model_is_opened(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge("nowhere", **settings)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--layers", "block1,fc", "error: unknown layer `fc`\nhint: known: all, block1, block2, block3, block4\n"),
        ("--neighbours", "closest", "error: unknown neighbour rule `closest`\nhint: known: nearest, class-mean, "),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(
    option: str, value: str, said: str, maml: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["-q", "probe", maml, option, value, "--threads", "1"]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_controls_are_judged_by_every_rule_and_an_untrained_body_in_every_layer(maml: str) -> None:
    settings = {"neighbours": ("nearest", "class-mean"), "layers": ("all",), "steps_curve": True, "similarity": True}
    result = judge(maml, controls=True, n_query=5, shared_classes=True, **settings)
    untrained, pixels = (result.per_episode[name] for name in ("untrained body", "raw pixels"))
    assert set(untrained) == {"meta-init", "neighbours", "layers"}
    assert set(pixels) == {"meta-init", "neighbours"}
    assert untrained["layers"]["block4"]["meta-init"] == untrained["meta-init"]
    assert list(untrained["layers"]["block1"]) == ["meta-init"]


def test_all_sections_together_match_the_schema_and_the_values_of_every_episode(maml: str) -> None:
    everything: dict[str, Any] = {"layers": ("all",), "similarity": True, "steps_curve": True, "shared_classes": True}
    everything |= {"own_head": True, "transfer": True, "directions": True, "harm": True}
    result = judge(maml, n_query=5, rates=("zero-negative",), neighbours=("nearest", "attention"), **everything)
    dumped = json.loads(result.model_dump_json())
    Draft202012Validator(schemas()["probe"]).validate(dumped)
    metrics, seen = dumped["metrics"][maml], 0
    for path, values in leaves(dumped["per_episode"][maml]):
        figure = metrics
        for key in path:
            figure = figure[key]
        mean = figure if path[0] in ("similarity", "transfer", "harm") else figure["accuracy"]
        assert mean["mean"] == pytest.approx(sum(values) / 4)
        assert mean["n_episodes"] == len(values) == 4
        seen += 1
    # 3 protocols; 2 rules and 4 layers under each; 2 edits, and 0 to 3 steps, under two of them; 4 shares; similarity
    # of 4 layers: 2 measures at meta-init, 5 under each of the other two; the head before and after with 2 edits
    seen -= 2 * 2 + 3 + 2 * 3 + 4 * 3 + 2 * 2 + 4 * 2 + 4 + 4 * (2 + 5 + 5)
    # under two protocols, 3 predicted changes of the loss of the network, body, 4 layers and head, and an actual one
    seen -= 2 * (3 * 7 + 1)
    # under two protocols, 5 displacements of the body and 3 of each layer
    seen -= 2 * (5 + 4 * 3)
    # under two protocols, the queries that turn to right and to wrong
    seen -= 2 * 2
    assert seen == 0
    layer = metrics["layers"]["block1"]["cross-task"]["delta"]
    pair = (torch.tensor(result.per_episode[maml]["layers"]["block1"][p]) for p in ("cross-task", "meta-init"))
    assert layer["mean"] == pytest.approx(paired_difference(*pair).mean)
