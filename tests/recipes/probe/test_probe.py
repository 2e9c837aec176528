from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from torch import Tensor

from nilr.checkpoint import load_checkpoint, save_checkpoint
from nilr.claims import CLAIMS
from nilr.config.base import PROTOCOLS
from nilr.config.evaluation import ProbeSettings
from nilr.episodes import EpisodeSampler, PackedImages, stream_seed
from nilr.errors import CheckpointError, DataError, DivergedError, EpisodeError, StoreError, UsageError
from nilr.models.registry import build_learner
from nilr.probes.neighbours import RULES
from nilr.recipes import probe
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.packs import open_split
from nilr.recipes.probe.dry_run import dry_run
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from nilr.store import Store
from tests.meta.engine.test_engines import conv4_features
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")


@pytest.fixture
def maml(quick: dict[str, Any]) -> str:
    train_model(algo="maml", name="maml", **quick)
    return "maml"


def judge(*models: str, **settings: Any) -> Result[Any]:
    given = {"n_episodes": 6, "threads": 1} | settings
    return probe.run(ProbeSettings(models=models, **given), SilentReporter())


def test_every_figure_follows_from_the_values_of_the_same_episodes(maml: str) -> None:
    result = judge(maml)
    values = {protocol: np.array(found) for protocol, found in result.per_episode[maml].items()}
    figures = result.metrics[maml].model_dump(exclude={"signs"})
    assert set(values) == set(figures) == set(PROTOCOLS)
    for protocol, found in figures.items():
        assert len(values[protocol]) == found["accuracy"]["n_episodes"] == 6
        assert found["accuracy"]["mean"] == pytest.approx(values[protocol].mean())
        error = values[protocol].std(ddof=1) / math.sqrt(6)
        assert found["accuracy"]["ci95"] == pytest.approx(2.5705818 * error)  # t(0.975) with 5 degrees of freedom
    assert figures["meta-init"]["delta"] is None
    p_values = []
    for protocol in ("same-task", "cross-task"):
        difference = values[protocol] - values["meta-init"]
        delta, test = figures[protocol]["delta"], ttest_rel(values[protocol], values["meta-init"])
        assert delta["mean"] == pytest.approx(difference.mean())
        assert (delta["low"], delta["high"]) == pytest.approx(tuple(test.confidence_interval()))
        assert delta["d"] == pytest.approx(difference.mean() / difference.std(ddof=1))
        assert delta["p"] == pytest.approx(test.pvalue)
        p_values.append((delta["p"], delta["p_holm"]))
    (smaller, adjusted), (larger, unadjusted) = sorted(p_values)
    assert adjusted == pytest.approx(min(1, 2 * smaller))
    assert unadjusted == pytest.approx(max(adjusted, larger))


def test_accuracies_equal_a_plain_loop(maml: str) -> None:
    result = judge(maml, n_episodes=3)
    cpu = torch.device("cpu")
    store = Store(None)
    model = load_model(store, maml, device=cpu, engine="reference")
    images = open_split(store.find_data("mini-imagenet"), "test", cpu).images

    def draw(stream: str, i: int, avoid: torch.Tensor | None = None) -> tuple[torch.Tensor, Any]:
        sampler = EpisodeSampler(PackedImages(images.images, images.class_sizes), 3, 1, 3, 0, stream)
        classes, chosen = sampler.choose([i], avoid=avoid)
        return classes, sampler.load(classes, chosen)[0]

    def adapted(episode: Any) -> dict[str, torch.Tensor]:
        params = {name: value.clone().requires_grad_() for name, value in model.params.items()}
        for _ in range(10):
            logits = model.learner.logits(params, episode.support_x)
            loss = torch.nn.functional.cross_entropy(logits, episode.support_y)
            gradients = torch.autograd.grad(loss, [params[name] for name in model.inner_lr])
            for name, gradient in zip(model.inner_lr, gradients, strict=True):
                params[name] = (params[name] - model.inner_lr[name] * gradient).detach().requires_grad_()
        return params

    for i in range(3):
        classes, b = draw("test", i)
        _, a = draw("test/task-a", i, classes)
        for protocol, params in (
            ("meta-init", model.params),
            ("same-task", adapted(b)),
            ("cross-task", adapted(a)),
        ):
            support, query = (model.learner.features(params, x).detach() for x in (b.support_x, b.query_x))
            cosine = torch.nn.functional.cosine_similarity(query[:, None], support[None], dim=-1)
            right = (b.support_y[cosine.argmax(1)] == b.query_y).double().mean().item()
            assert result.per_episode[maml][protocol][i] == pytest.approx(right)


def test_one_protocol_alone_gives_the_same_numbers_as_all(maml: str) -> None:
    everything, alone = judge(maml), judge(maml, protocol="cross-task")
    assert alone.per_episode[maml]["cross-task"] == everything.per_episode[maml]["cross-task"]
    assert alone.metrics[maml].same_task is None
    of_one, of_all = alone.metrics[maml].cross_task, everything.metrics[maml].cross_task
    assert of_one.accuracy == of_all.accuracy
    assert of_one.delta.p_holm == of_one.delta.p == of_all.delta.p <= of_all.delta.p_holm


def test_the_result_says_which_question_it_answers(maml: str, quick: dict[str, Any]) -> None:
    size = "3-way, 3 queries per class, "  # of the test pack's episodes
    assert judge(maml).question == f"{size}6 episodes"
    asked = judge(maml, n_shot=2, distance="euclidean", neighbours=("class-mean",), rates=("absolute,learned",))
    assert asked.question == (
        "3-way, 2-shot, 3 queries per class, class-mean neighbours, euclidean, rates absolute, 6 episodes"
    )
    train_model(algo="maml", name="three", eval_inner_steps=3, **quick)
    assert judge("three").question == judge("three", inner_steps=3).question == f"{size}6 episodes"
    assert judge("three", inner_steps=10).question == f"{size}10 inner steps, 6 episodes"


def test_several_models_share_all_episodes(maml: str, quick: dict[str, Any]) -> None:
    train_model(algo="metasgd", name="sgd", **quick)
    both = judge(maml, "sgd")
    for name in (maml, "sgd"):
        assert both.per_episode[name] == judge(name).per_episode[name]
    assert [model.name for model in both.models] == [maml, "sgd"]


def test_best_and_last_of_one_model_stand_side_by_side(maml: str) -> None:
    result = judge(f"{maml}@best", f"{maml}@last")
    assert set(result.metrics) == {"maml@best", "maml@last"}
    assert [model.checkpoint for model in result.models] == ["best", "last"]


def test_the_model_trained_last_is_judged_by_default(maml: str, quick: dict[str, Any]) -> None:
    train_model(algo="anil", name="newest", **quick)
    assert list(judge().metrics) == ["newest"]


def test_a_body_that_does_not_move_changes_by_exactly_zero(quick: dict[str, Any]) -> None:
    train_model(algo="anil", name="anil", **quick)
    delta = judge("anil").metrics["anil"].same_task.delta
    assert (delta.mean, delta.ci95, delta.p, delta.verdict) == (0.0, 0.0, None, "exactly zero")


def test_one_episode_gives_no_interval_and_no_p(maml: str) -> None:
    figures = judge(maml, n_episodes=1).metrics[maml].same_task
    assert figures.accuracy.ci95 is None
    assert (figures.delta.ci95, figures.delta.p) == (None, None)


def scores_by_hand(rule: str, query: Tensor, support: Tensor, labels: Tensor) -> Tensor:
    """Return scores (q, 3) from squared Euclidean distances, one query and class after another."""
    scores = torch.empty(len(query), 3, dtype=torch.float64)
    for i, q in enumerate(query.double()):
        weights = torch.softmax(torch.stack([-((q - s) ** 2).sum() for s in support.double()]), 0)
        for label in range(3):
            own = support.double()[labels == label]
            scores[i, label] = {
                "nearest": max(-((q - s) ** 2).sum() for s in own),
                "class-mean": -((q - own.mean(0)) ** 2).sum(),
                "attention": weights[labels == label].sum(),
            }[rule]
    return scores


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch_stats", ["apart", "together", "inductive"])
def test_every_rule_and_batch_statistic_gives_the_accuracy_computed_by_hand(
    maml: str, rule: str, batch_stats: str
) -> None:
    chosen = {"neighbours": (rule,), "batch_stats": batch_stats, "distance": "euclidean", "n_shot": 2}
    result = judge(maml, protocol="meta-init", **chosen)
    store, cpu = Store(None), torch.device("cpu")
    model = load_model(store, maml, device=cpu, engine="reference")
    sampler = EpisodeSampler(open_split(store.find_data("mini-imagenet"), "test", cpu).images, 3, 2, 3, 0, "test")
    for i, accuracy in enumerate(result.per_episode[maml]["meta-init"]):
        e = sampler.draw([i])[0]
        if batch_stats == "together":
            both = model.learner.features(model.params, torch.cat([e.support_x, e.query_x])).detach()
            support, query = both[:6], both[6:]
        elif batch_stats == "inductive":
            support, query = (conv4_features(dict(model.params), x, e.support_x) for x in (e.support_x, e.query_x))
        else:
            support, query = (model.learner.features(model.params, x).detach() for x in (e.support_x, e.query_x))
        right = (scores_by_hand(rule, query, support, e.support_y).argmax(1) == e.query_y).double().mean().item()
        assert accuracy == pytest.approx(right)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("query_batch", ["class", "image"])
def test_batches_of_queries_change_what_is_apart_and_nothing_that_is_inductive(maml: str, query_batch: str) -> None:
    def values(batch_stats: str, **settings: Any) -> dict[str, Any]:
        found = judge(maml, own_head=True, batch_stats=batch_stats, **settings).per_episode[maml]
        return {**{p: found[p] for p in PROTOCOLS}, **found["own_head"]["learned"]}

    inductive, batched = values("inductive"), values("inductive", query_batch=query_batch)
    assert {name: pytest.approx(of) for name, of in inductive.items()} == batched
    assert values("apart") != values("apart", query_batch=query_batch)
    with pytest.raises(UsageError, match="--similarity compares all queries"):
        judge(maml, query_batch=query_batch, similarity=True)


def test_models_are_judged_as_they_were_trained_and_old_ones_apart(maml: str, quick: dict[str, Any]) -> None:
    train_model(name="inductive", batch_stats="inductive", **quick)
    for name, trained in ((maml, "apart"), ("inductive", "inductive")):
        default = judge(name, own_head=True, controls=True)
        assert default.config["batch_stats"] == trained
        assert default.per_episode == judge(name, own_head=True, controls=True, batch_stats=trained).per_episode
    both = judge(maml, "inductive")
    assert both.config["batch_stats"] == {maml: "apart", "inductive": "inductive"}
    questions = [result.question.split(", ")[2] for result in (judge(maml), judge("inductive"), both)]
    assert questions == ["6 episodes", "batch statistics inductive", "batch statistics apart and inductive"]
    path = Store(None).find_model(maml).file
    checkpoint = load_checkpoint(path)
    manifest = checkpoint.manifest.model_dump(
        exclude={"format", "format_version", "nilr_version", "saved_at", "tensors_sha256"}
    )
    del manifest["settings"]["batch_stats"]  # as earlier versions wrote it
    save_checkpoint(path, params=checkpoint.params, inner_lr=checkpoint.inner_lr, **manifest)
    assert judge(maml).config["batch_stats"] == "apart"


def test_until_ci_gives_the_same_numbers_as_that_many_episodes(maml: str) -> None:
    few = {"inner_steps": 1}
    wide = judge(maml, n_episodes=50, **few)
    widest = max(wide.metrics[maml].same_task.delta.ci95, wide.metrics[maml].cross_task.delta.ci95)
    narrow = judge(maml, n_episodes=5, until_ci=0.9 * widest, **few)
    n = narrow.metrics[maml].meta_init.accuracy.n_episodes
    assert 50 < n < 150
    assert all(
        figures.delta.ci95 <= 0.9 * widest
        for figures in (narrow.metrics[maml].same_task, narrow.metrics[maml].cross_task)
    )
    assert judge(maml, n_episodes=n, **few).per_episode == narrow.per_episode


def test_max_episodes_ends_the_probe_and_the_note_gives_the_number_needed(maml: str) -> None:
    result = judge(maml, until_ci=0.0005, max_episodes=60, inner_steps=1)
    assert result.metrics[maml].meta_init.accuracy.n_episodes == 60
    assert "± 0.05 needs about" in result.notes[0]


def test_fewer_episodes_at_most_than_at_least_are_an_error(maml: str) -> None:
    with pytest.raises(UsageError, match="--n-episodes 60 is above --max-episodes 50"):
        judge(maml, n_episodes=60, until_ci=0.01, max_episodes=50)


def test_a_dry_run_finds_that_there_are_too_few_classes(maml: str) -> None:
    settings = ProbeSettings(models=(maml,), n_way=6, n_shot=1, n_query=2, threads=1)
    with pytest.raises(EpisodeError, match="a task of 6 classes disjoint from 6 others needs 12 classes") as dry:
        dry_run(settings, SilentReporter())
    with pytest.raises(EpisodeError, match=re.escape(str(dry.value.message))):
        probe.run(settings, SilentReporter())
    dry_run(settings.model_copy(update={"protocol": "same-task"}), SilentReporter())


def test_until_ci_without_a_difference_is_an_error(maml: str) -> None:
    with pytest.raises(UsageError, match="--until-ci"):
        judge(maml, until_ci=0.01, protocol="meta-init")


@pytest.mark.slow
def test_a_bootstrap_changes_the_intervals_and_nothing_else(maml: str) -> None:
    student, bootstrap = (judge(maml, n_episodes=30, interval=name) for name in ("t", "bootstrap"))
    assert student.per_episode == bootstrap.per_episode
    by_t, by_bootstrap = (result.metrics[maml].same_task.delta for result in (student, bootstrap))
    assert (by_t.mean, by_t.p, by_t.d) == (by_bootstrap.mean, by_bootstrap.p, by_bootstrap.d)
    assert by_t.low != by_bootstrap.low
    assert by_bootstrap.ci95 == pytest.approx(by_t.ci95, rel=0.2)


def test_models_that_differ_only_in_the_seed_have_one_recipe(maml: str, quick: dict[str, Any]) -> None:
    for name, change in {"again": {"seed": 1}, "other": {"outer_lr": 0.01}}.items():
        train_model(algo="maml", name=name, **quick, **change)
    first, again, other = judge(maml, "again", "other").models
    assert first.recipe == again.recipe != other.recipe
    assert [first.seed, again.seed, other.seed] == [0, 1, 0]


def test_controls_are_added_to_the_models(maml: str) -> None:
    result = judge(maml, controls=True)
    assert set(result.metrics) == {maml, "untrained body", "raw pixels"}
    assert result.metrics["raw pixels"].same_task is None
    mean = 100 * result.metrics["untrained body"].meta_init.accuracy.mean
    said = f"Features before adaptation, compared with the mean of 5 untrained bodies ({mean:.2f} ± "
    assert result.notes[0].startswith(said)


def test_the_untrained_control_is_the_mean_of_several_bodies(maml: str) -> None:
    settings = {"neighbours": ("attention", "nearest"), "batch_stats": "together"}
    result = judge(maml, controls=True, untrained_bodies=3, n_episodes=2, protocol="meta-init", seed=4, **settings)
    store, cpu = Store(None), torch.device("cpu")
    images = open_split(store.find_data("mini-imagenet"), "test", cpu).images
    episodes = [EpisodeSampler(images, 3, 1, 3, 4, "test").draw([i])[0] for i in range(2)]

    def share(seed: int, episode: Any) -> float:
        learner = build_learner("conv4", n_way=3, image_size=16, filters=4, seed=seed)
        both = torch.cat([episode.support_x, episode.query_x])
        with torch.no_grad():
            features = learner.features(dict(learner.named_parameters()), both)
        cosine = torch.nn.functional.cosine_similarity(features[3:, None], features[None, :3], dim=-1)
        return (episode.support_y[cosine.argmax(1)] == episode.query_y).double().mean().item()

    seeds = [stream_seed(4, f"untrained/{i}") for i in range(3)]
    shares = np.array([[share(seed, episode) for seed in seeds] for episode in episodes])
    assert len(set(shares.mean(0))) > 1
    untrained = result.metrics["untrained body"]
    assert result.per_episode["untrained body"]["meta-init"] == pytest.approx(shares.mean(1).tolist())
    assert set(untrained.over_bodies) == {"attention", "nearest"}
    found = untrained.over_bodies["nearest"]
    assert found.bodies == pytest.approx(shares.mean(0).tolist())
    assert found.mean == pytest.approx(untrained.meta_init.accuracy.mean) == pytest.approx(shares.mean())
    # t(0.975) with 2 degrees of freedom
    assert found.ci95 == pytest.approx(4.3026527 * shares.mean(0).std(ddof=1) / math.sqrt(3))
    assert result.metrics[maml].over_bodies == {}
    assert list(result.metrics) == [maml, "untrained body", "raw pixels"]


def test_the_engine_does_not_change_the_numbers(maml: str) -> None:
    assert judge(maml, engine="reference").per_episode == judge(maml, engine="explicit").per_episode


def test_a_probe_has_its_findings_on_the_signs_of_the_paper_and_the_last_note_their_scope(maml: str) -> None:
    result = judge(maml)
    assert {protocol: sign.claimed for protocol, sign in result.metrics[maml].signs.items()} == CLAIMS["maml"]
    dependence, note = result.notes[-2:]
    assert dependence.startswith("Batch statistics are apart, the field's custom: each prediction depends on the other")
    assert not any("Batch statistics" in other for other in judge(maml, batch_stats="inductive").notes)
    assert note.startswith("Findings on the paper's signs are over episodes, ")


@pytest.mark.parametrize(
    ("models", "change", "error", "said"),
    [
        (("nowhere",), {}, StoreError, ("nowhere", "maml")),
        (("maml",), {"data": "nowhere"}, StoreError, ("nowhere",)),
        (("maml",), {"n_way": 11}, EpisodeError, ("10", "11")),
        (("maml",), {"n_query": 8}, EpisodeError, ("9", "8")),
    ],
)
def test_an_unusable_request_is_an_error_that_names_both_sides(
    maml: str, models: tuple[str, ...], change: dict[str, Any], error: type[Exception], said: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        judge(*models, **change)
    text = f"{caught.value.message} {caught.value.hint}"  # type: ignore[attr-defined]
    assert all(word in text for word in said)


def test_models_trained_with_different_shots_need_n_shot(maml: str, quick: dict[str, Any]) -> None:
    train_model(algo="maml", name="two", **(quick | {"n_shot": 2}))
    with pytest.raises(EpisodeError, match=r"different --n-shot: `maml` 1, `two` 2"):
        judge(maml, "two")
    assert set(judge(maml, "two", n_shot=1).metrics) == {"maml", "two"}


def test_a_pack_with_the_same_name_and_other_images_is_an_error(maml: str, pack: Any) -> None:
    from nilr.data.pack import open_pack
    from nilr.data.pack_writer import PackWriter

    opened = open_pack(pack)
    split = opened.open_split("test")
    layout = {"test": dict(zip(split.class_names, split.class_sizes, strict=True))}
    images = np.stack([*split.images])[::-1]
    with PackWriter.create(pack, opened.info, layout) as writer:
        start = 0
        for name, size in zip(split.class_names, split.class_sizes, strict=True):
            writer.write_class("test", name, images[start : start + size], [f"{i}.png" for i in range(size)])
            start += size
    with pytest.raises(DataError, match="has other images"):
        judge(maml)
    assert judge(maml, data="mini-imagenet").metrics


def test_a_damaged_model_is_an_error(maml: str) -> None:
    path = Store(None).find_model(maml).file
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError):
        judge(maml)


def test_models_with_equal_directory_names_get_numbers_and_a_file_is_used_once(maml: str, tmp_path: Path) -> None:
    own = Store(None).find_model(maml).directory
    copy = tmp_path / "copy" / "maml"
    shutil.copytree(own, copy)
    result = judge(maml, str(copy), str(own), n_episodes=2)
    assert list(result.metrics) == ["maml@best", "maml@best (2)"]
    assert len(result.models) == 2


@pytest.mark.parametrize("rates", ["1e30", "1e38"])
def test_features_that_overflow_are_an_error(maml: str, rates: str) -> None:
    # taken as they are, every neighbour would be the first one: exactly 1/N, with no spread
    with pytest.raises(
        DivergedError, match=r"model `maml`, episode 0: same-task with 1e\+?\d+ rates: parameters or features"
    ):
        judge(maml, rates=(rates,))


def test_several_seeds_of_a_recipe_give_an_inference_for_new_seeds_and_new_classes(quick: dict[str, Any]) -> None:
    names = [f"maml-s{seed}" for seed in range(3)]
    for seed, name in enumerate(names):
        train_model(algo="maml", name=name, seed=seed, **quick)
    result = judge(*names, n_episodes=25)
    assert result.data is not None
    assert result.data.n_classes == 10
    note = result.notes[0]
    assert note.startswith("Over seeds, exploratory: maml, same-task, 3 seeds: from ")
    mean = np.mean([result.metrics[name].same_task.delta.mean for name in names])
    assert f"{100 * mean:+.2f} ± " in note
    assert note.count(" for new classes too)") == 2
    assert not any(text.startswith("Over seeds") for text in judge(*names[:1]).notes)
