"""`nilr probe --universality`: linear classifiers of all classes of a split, before and after adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nilr.config.evaluation import ProbeSettings
from nilr.data.pack import PackInfo
from nilr.data.pack_writer import PackWriter
from nilr.episodes import EpisodeSampler
from nilr.errors import EpisodeError, UsageError
from nilr.metrics import paired_difference
from nilr.probes.linear_classifiers import CLASSIFIERS
from nilr.recipes import probe
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.packs import open_split
from nilr.recipes.probe.stopping import over_episodes
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from nilr.store import Store
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("maml", "one_thread")

CPU = torch.device("cpu")


@pytest.fixture
def pack(home: Path) -> Path:
    """Pack 6/4/7 classes of 12 noisy images of 16 px, one colour per class, as the store's `mini-imagenet`."""
    return write_pack(home, "mini-imagenet", {"train": 6, "val": 4, "test": 7}, seed=0)


def write_pack(home: Path, name: str, numbers: dict[str, int], *, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    layout = {split: {f"{name}-{split}{i}": 12 for i in range(n)} for split, n in numbers.items()}
    path = home / "datasets" / f"{name}.h5"
    with PackWriter.create(path, PackInfo(name, 16, "bilinear", source="a test", licence="none"), layout) as writer:
        for split, classes in layout.items():
            for of_class, n in classes.items():
                pixels = rng.uniform(90, 165, (1, 1, 1, 3)) + rng.normal(0, 40, (n, 16, 16, 3))
                files = [f"{of_class}-{i}.png" for i in range(n)]
                writer.write_class(split, of_class, pixels.clip(0, 255).astype(np.uint8), files)
    return path


@pytest.fixture
def maml(pack: Path, quick: dict[str, Any], one_thread: None) -> str:
    few = {"outer_steps": 2, "eval_every": 0}
    train_model(algo="maml", name="maml", inner_lr=0.4, **(quick | few))
    return "maml"


def judge(*models: str, **settings: Any) -> Result[Any]:
    given = {"n_episodes": 3, "threads": 1, "inner_steps": 2, "universality_tasks": 3, "universality_images": 5}
    return probe.run(ProbeSettings(models=models, **(given | settings)), SilentReporter())


def adapted(model: Any, episode: Any) -> dict[str, Tensor]:
    """Return the parameters after two inner steps, by a plain loop."""
    params = {name: value.clone().requires_grad_() for name, value in model.params.items()}
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(model.learner.logits(params, episode.support_x), episode.support_y)
        gradients = torch.autograd.grad(loss, [params[name] for name in model.inner_lr])
        for name, gradient in zip(model.inner_lr, gradients, strict=True):
            params[name] = (params[name] - model.inner_lr[name] * gradient).detach().requires_grad_()
    return {name: value.detach() for name, value in params.items()}


def test_a_classifier_of_all_classes_is_fitted_and_judged_before_and_after_each_task(maml: str, pack: Path) -> None:
    result = judge(maml, universality="val")
    found, values = result.metrics[maml].universality, result.per_episode[maml]["universality"]
    model = load_model(Store(None), maml, device=CPU, engine="reference")
    of_all = EpisodeSampler(open_split(pack, "val", CPU).images, 4, 5, 5, 0, "val/all-classes")
    of_task = EpisodeSampler(open_split(pack, "test", CPU).images, 3, 1, 0, 0, "test/task-a")
    for i in range(3):
        wide, task = of_all.draw([i])[0], of_task.draw([i])[0]
        for protocol, params in (("meta-init", model.params), ("cross-task", adapted(model, task))):
            fit, judged = (model.learner.features(params, x).detach() for x in (wide.support_x, wide.query_x))
            for name, classify in CLASSIFIERS.items():
                right = (classify(judged, fit, wide.support_y, 4).argmax(1) == wide.query_y).double().mean().item()
                assert values[name][protocol][i] == pytest.approx(right, abs=0.051 if name == "logistic" else 1e-9)
    for name in CLASSIFIERS:
        pair = (torch.tensor(values[name][protocol]) for protocol in ("cross-task", "meta-init"))
        assert found[name].cross_task.delta.mean == pytest.approx(paired_difference(*pair).mean)
        assert found[name].cross_task.accuracy.n_episodes == 3
        assert found[name].same_task is None
    assert values["ridge"]["meta-init"] != values["ridge"]["cross-task"]


def test_images_to_fit_and_to_judge_are_of_all_classes_and_disjoint(pack: Path) -> None:
    sampler = EpisodeSampler(open_split(pack, "val", CPU).images, 4, 6, 6, 0, "val/all-classes")
    classes, images = sampler.choose(range(5))
    for i in range(5):
        assert sorted(classes[i].tolist()) == [0, 1, 2, 3]
        assert sorted(images[i].flatten().tolist()) == list(range(4 * 12))
    assert images[0].tolist() != images[1].tolist()


def test_every_model_is_judged_as_alone_and_nothing_else_changes(maml: str, quick: dict[str, Any]) -> None:
    train_model(algo="metasgd", name="sgd", **quick)
    both = judge(maml, "sgd", universality="val", controls=True)
    for name in (maml, "sgd"):
        assert judge(name, universality="val").per_episode[name] == both.per_episode[name]
        plain = judge(name).per_episode[name]
        assert {key: value for key, value in both.per_episode[name].items() if key != "universality"} == plain
    for control in ("untrained body", "raw pixels"):
        of_control = both.metrics[control].universality
        assert list(of_control) == list(CLASSIFIERS)
        assert all(row.cross_task is None and row.meta_init.accuracy.mean > 0.25 for row in of_control.values())


def test_precision_and_length_of_a_probe_do_not_depend_on_these_tasks(maml: str) -> None:
    result = judge(maml, universality="val")
    assert len(over_episodes(result.metrics)) == 2
    plain = judge(maml)
    precision = [note for note in plain.notes if note.startswith("Over 3 episodes")]
    assert len(precision) == 1
    assert set(precision) <= set(result.notes)


def test_the_pack_of_episode_b_has_the_judged_classes(maml: str, home: Path) -> None:
    other = write_pack(home, "other", {"train": 5, "test": 3}, seed=1)
    result = judge(maml, data_b="other", universality="train")
    alone = judge(maml, data="other", universality="train", task_b="any")
    of_all, of_one = (one.per_episode[maml]["universality"]["ridge"] for one in (result, alone))
    assert of_all["meta-init"] == of_one["meta-init"]
    assert of_all["cross-task"] != of_one["cross-task"]
    (note,) = (note for note in result.notes if note.startswith("Linear classifiers"))
    assert note == (
        "Linear classifiers distinguish all 5 classes of the train split of `other`, fitted to 5 images per class and "
        "evaluated on 5 others, after adaptation to 3 tasks of the test split of `mini-imagenet`."
    )
    assert other.exists()


def test_a_note_says_that_the_classes_of_the_tasks_are_judged_too(maml: str) -> None:
    notes = judge(maml, universality="test").notes
    assert any(note.endswith("The classes of these tasks are among them.") for note in notes)


def test_too_few_images_and_batches_of_queries_are_an_error(maml: str) -> None:
    with pytest.raises(EpisodeError, match="needs 14 images per class, but a class of `val` has 12") as caught:
        judge(maml, universality="val", universality_images=7)
    assert caught.value.hint == "set --universality-images 6"
    with pytest.raises(UsageError, match="--universality evaluates all images in one batch"):
        judge("nowhere", universality="val", query_batch="image")
    with pytest.raises(UsageError, match="--universality evaluates cross-task, and --protocol is same-task"):
        judge("nowhere", universality="val", protocol="same-task")
