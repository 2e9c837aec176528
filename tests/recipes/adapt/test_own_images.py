"""Own images with other numbers of classes, two readings, later images, and many of them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nilr.checkpoint import load_checkpoint, save_checkpoint
from nilr.config.evaluation import AdaptSettings, ProbeSettings
from nilr.errors import CheckpointError, EpisodeError, StoreError, UsageError
from nilr.recipes import adapt, probe
from nilr.recipes.adapt import judging, tasks
from nilr.reporting import SilentReporter
from nilr.store import Store
from tests.meta.engine.test_engines import conv4_features, conv4_logits
from tests.recipes.adapt.running import paint, run

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

Tensors = dict[str, Tensor]
MORE = {
    "elm": (220, 220, 40),
    "fir": (40, 220, 220),
    "gum": (220, 40, 220),
    "holly": (20, 20, 20),
    "iris": (250, 250, 250),
}


@pytest.fixture
def classes(own: Path) -> Callable[[int], Path]:
    """Return what makes folders with some of eight classes, support/ and query/, of 16 px pictures."""

    def make(n: int) -> Path:
        colours = {"ash": (200, 60, 60), "birch": (60, 200, 60), "cedar": (60, 60, 200)} | MORE
        for number, (name, colour) in enumerate(list(colours.items())[:n]):
            for i in range(3):
                folder = own / f"{n}-classes" / ("query" if i == 2 else "support") / name
                paint(folder / f"{number}-{i}.png", colour, 20 * number + i)
                Image.open(folder / f"{number}-{i}.png").resize((16, 16), Image.Resampling.BILINEAR).save(
                    folder / f"{number}-{i}.png"
                )
        return own / f"{n}-classes"

    return make


def images(folder: Path) -> tuple[Tensor, Tensor]:
    files = sorted(folder.glob("*/*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    names = sorted({file.parent.name for file in files})
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    return torch.tensor(pixels).permute(0, 3, 1, 2).double() / 255, labels


def adapted(params: Tensors, x: Tensor, y: Tensor) -> Tensors:
    """Take MAML's ten steps with rate 0.05 on everything but norms, in float64."""
    at = {name: value.double().requires_grad_() for name, value in params.items()}
    moved = [name for name in at if "norm" not in name]
    for _ in range(10):
        gradients = torch.autograd.grad(F.cross_entropy(conv4_logits(at, x), y), [at[name] for name in moved])
        for name, gradient in zip(moved, gradients, strict=True):
            at[name] = (at[name] - 0.05 * gradient).detach().requires_grad_()
    return at


HEADS = {
    "rows": lambda w, n: torch.stack([w[i % len(w)] for i in range(n)]),
    "mean": lambda w, n: torch.stack([sum(w) / len(w)] * n),
    "zeros": lambda w, n: torch.stack([0 * w[0]] * n),
}


@pytest.mark.parametrize(("n", "head"), [(2, "rows"), (8, "rows"), (2, "mean"), (8, "zeros"), (3, "mean")])
def test_a_head_for_any_number_of_classes_gives_the_probabilities_of_an_independent_network(
    maml: str, classes: Callable[[int], Path], n: int, head: str
) -> None:
    folder = classes(n)
    result = run(model=maml, support=folder / "support", query=folder / "query", head=head, name="child")
    assert result.config["head"] == head
    assert any("starts from" in note and f"(--head {head})" in note for note in result.notes)
    start = load_checkpoint(Store(None).find_model(maml).file).params
    start |= {name: HEADS[head](start[name], n) for name in ("head.weight", "head.bias")}
    (x, y), (query, labels) = images(folder / "support"), images(folder / "query")
    reached = adapted(start, x, y)
    expected = conv4_logits(reached, query, x).softmax(1).detach()
    found = torch.tensor([list(p.probabilities.values()) for p in result.metrics.predictions], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert result.metrics.accuracy_after == pytest.approx((found.argmax(1) == labels).double().mean().item())
    for moment, params in (("before", {name: v.double() for name, v in start.items()}), ("after", reached)):
        support, features = (conv4_features(params, images_, x) for images_ in (x, query))
        near = F.cosine_similarity(features[:, None], support[None], dim=-1).argmax(1)
        names = [getattr(p, f"nearest_{moment}") for p in result.metrics.predictions]
        assert names == [result.metrics.classes[label] for label in y[near].tolist()]
    # the adapted model can be probed with its own number of classes
    settings = ProbeSettings(models=("child",), protocol="same-task", n_episodes=2, threads=1)
    probed = probe.run(settings, SilentReporter())
    assert probed.config["n_way"] == n


def test_a_probe_with_another_number_of_classes_uses_the_first_rows(maml: str) -> None:
    result = probe.run(ProbeSettings(models=(maml,), n_way=2, n_episodes=3, own_head=True, threads=1), SilentReporter())
    assert "maml has a head for 3 classes; for 2 it starts from its trained rows in turn (--head rows)." in result.notes
    path = Store(None).find_model(maml).file
    checkpoint = load_checkpoint(path)
    params = checkpoint.params | {name: checkpoint.params[name][:2] for name in ("head.weight", "head.bias")}
    manifest = checkpoint.manifest.model_dump(
        exclude={"format", "format_version", "nilr_version", "saved_at", "tensors_sha256"}
    )
    manifest["architecture"]["arguments"]["n_way"] = 2
    save_checkpoint(path, params=params, inner_lr=checkpoint.inner_lr, **manifest)
    cut = probe.run(ProbeSettings(models=(maml,), n_way=2, n_episodes=3, own_head=True, threads=1), SilentReporter())
    assert cut.per_episode == result.per_episode
    assert not any("has a head for" in note for note in cut.notes)


def test_later_images_are_classified_as_beside_the_support(maml: str, own: Path) -> None:
    first = run(model=maml, support=own / "support", query=own / "labelled", name="child").metrics
    before = sorted(Store(None).model_names())
    result = run(model="child", query=own / "labelled")
    later = result.metrics
    assert sorted(Store(None).model_names()) == before
    assert "no step is taken" in result.notes
    assert (result.config["support"], result.config["batch_stats"]) == (None, "inductive")
    assert later.classes == first.classes
    assert (later.accuracy_after, later.nearest_accuracy_after) == (first.accuracy_after, first.nearest_accuracy_after)
    assert (later.accuracy_before, later.support_loss_before, later.nearest_accuracy_before) == (None, None, None)
    for one, other in zip(later.predictions, first.predictions, strict=True):
        assert (one.image, one.after, one.nearest_after) == (other.image, other.after, other.nearest_after)
        assert (one.before, one.nearest_before) == (None, None)
        assert one.probabilities == other.probabilities  # the same batch: bit for bit
    alone = run(model="child", query=own / "plain" / "cedar-1.png").metrics.predictions[0]
    among = next(p for p in first.predictions if p.image == "cedar/1.png")
    assert alone.probabilities == pytest.approx(among.probabilities, abs=1e-6)


def test_what_has_no_effect_on_later_images_is_an_error(maml: str, own: Path) -> None:
    with pytest.raises(UsageError, match="--query needs --support, or an adapted model, and `maml` is not one"):
        run(model=maml, query=own / "plain")
    run(model=maml, support=own / "support", name="child")
    for name, value in {"inner_steps": 3, "batch_stats": "apart", "name": "other", "save": False}.items():
        with pytest.raises(UsageError, match="is adapted already, and without --support no step is taken: --"):
            run(model="child", query=own / "plain", **{name: value})
    (own / "mixed" / "ash").mkdir(parents=True)
    (own / "mixed" / "oak").mkdir()
    for name in ("ash", "oak"):
        (own / "mixed" / name / "0.png").write_bytes((own / "support" / "ash" / "0.png").read_bytes())
    with pytest.raises(EpisodeError, match="not a class of the support set: oak"):
        run(model="child", query=own / "mixed")


def test_a_support_that_does_not_fit_its_model_is_an_error(maml: str, own: Path) -> None:
    run(model=maml, support=own / "support", name="child")
    path = Store(None).find_model("child").file
    checkpoint = load_checkpoint(path)
    manifest = checkpoint.manifest.model_dump(
        exclude={"format", "format_version", "nilr_version", "saved_at", "tensors_sha256"}
    )
    kept = {"params": checkpoint.params, "inner_lr": checkpoint.inner_lr}
    good = checkpoint.support
    assert good["features"].shape == (6, 4)
    for tensors in ({}, good | {"features": good["features"][:5]}, good | {"statistics/block1": torch.ones(2, 5)}):
        save_checkpoint(path, **kept, support_tensors=tensors, **manifest)
        with pytest.raises(CheckpointError, match="its support does not fit the model"):
            run(model="child", query=own / "plain")


def test_queries_with_the_pixels_of_a_support_image_are_named(maml: str, own: Path) -> None:
    (own / "plain" / "copy.png").write_bytes((own / "support" / "birch" / "1.png").read_bytes())
    result = run(model=maml, support=own / "support", query=own / "plain")
    assert "1 query image with the pixels of a support image: copy.png" in result.notes
    assert not any("pixels" in note for note in run(model=maml, support=own / "support", query=own / "labelled").notes)


def test_predictions_are_written_as_csv(maml: str, own: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    metrics = run(model=maml, support=own / "support", query=own / "plain", predictions=file).metrics
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert list(rows[0]) == ["image", "predicted", "nearest", "p(ash)", "p(birch)", "p(cedar)"]
    assert [(row["image"], row["predicted"], row["nearest"]) for row in rows] == [
        (p.image, p.after, p.nearest_after) for p in metrics.predictions
    ]
    assert [float(row["p(birch)"]) for row in rows] == [p.probabilities["birch"] for p in metrics.predictions]
    with pytest.raises(StoreError, match="there is no directory"):
        run(model=maml, support=own / "support", query=own / "plain", predictions=tmp_path / "no" / "out.csv", name="x")
    assert "x" not in Store(None).model_names()


class Stages(SilentReporter):
    """Keeps the stages with their units, and how many were completed."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        self.stages.append([title, total, done])

    def advance(self, n: int = 1) -> None:
        if self.stages:
            self.stages[-1][2] += n


def test_many_queries_show_progress_and_are_classified_a_few_at_a_time(
    maml: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AdaptSettings(model=maml, support=own / "support", query=(own / "plain",), threads=1)
    few = Stages()
    expected = adapt.run(settings, few).metrics.predictions
    assert few.stages == []
    for module in (tasks, adapt):
        monkeypatch.setattr(module, "MANY", 5)
    monkeypatch.setattr(judging, "_AT_ONCE", 4)
    many = Stages()
    found = adapt.run(settings, many).metrics.predictions
    # six support and six query images are read; the queries are classified before and after adaptation
    assert many.stages == [["read", 6, 6], ["read", 6, 6], ["classify", 12, 12]]
    for one, other in zip(found, expected, strict=True):
        assert (one.after, one.nearest_after) == (other.after, other.nearest_after)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
