"""The functions of `import nilr` give the numbers of the commands, and one clear error for bad input."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

import nilr
from nilr.config.evaluation import AdaptSettings, ProbeSettings, RatesSettings
from nilr.config.meta_train import TrainSettings
from nilr.config.packs import PrepareDataSettings
from nilr.errors import EpisodeError, ModuleError, NilrError, UnknownNameError, UsageError
from nilr.library.arguments import ARGUMENTS
from nilr.library.measuring import _SWITCHES
from nilr.recipes import adapt, meta_train, prepare_data, probe, rates
from nilr.recipes.report import read_result
from nilr.reporting import SilentReporter
from nilr.results.result import write_result

SILENT = SilentReporter()
pytestmark = pytest.mark.usefixtures("one_thread", "home")


@pytest.fixture
def trained(pack: Path, quick: dict[str, Any]) -> str:
    meta_train.run(TrainSettings(**quick, name="sgd", algo="metasgd", seed=3), SILENT)
    return "sgd"


@pytest.fixture
def small() -> nilr.Images:
    return nilr.generate_images(per_class=6, image_size=16)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_generated_images_are_those_of_a_pack(home: Path) -> None:
    prepare_data.run(PrepareDataSettings(synthetic=True, image_size=16, limit_per_class=2, seed=4), SILENT)
    opened = nilr.open_pack(home / "datasets" / "synthetic.h5", "val")
    made = nilr.generate_images("val", per_class=2, image_size=16, seed=4)
    assert opened.classes == made.classes
    assert all(torch.equal(opened.of_class(name), made.of_class(name)) for name in made.classes)
    episodes = [nilr.sample_episode(images, 3, n_query=1).query_x for images in (opened, made)]
    assert torch.equal(*episodes)
    assert nilr.open_pack("synthetic", "val").used == opened.used is not None


def test_images_of_a_folder_keep_their_classes(tmp_path: Path) -> None:
    for name, colour in (("b", 30), ("a", 90)):
        (tmp_path / name).mkdir()
        PIL.Image.new("RGB", (20, 20), (colour, 0, 0)).save(tmp_path / name / "1.png")
    images = nilr.read_images(tmp_path, image_size=8)
    assert images.classes == ("a", "b")
    assert images.of_class("a")[0, 0, 0, 0] == pytest.approx(90 / 255)
    PIL.Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    with pytest.raises(NilrError):
        nilr.read_images(tmp_path, image_size=8)


def test_a_training_in_memory_is_that_of_the_command(trained: str, quick: dict[str, Any]) -> None:
    start = nilr.build_model(algo="metasgd", filters=4, n_way=3, image_size=16, seed=3)
    before = {name: value.clone() for name, value in start.params.items()}
    seen: list[tuple[int, float, float]] = []
    model = nilr.train(
        start,
        nilr.open_pack("mini-imagenet", "train"),
        quick["outer_steps"],
        n_query=3,
        meta_batch_size=2,
        seed=3,
        on_update=lambda *report: seen.append(report),
    )
    stored = nilr.load_model(f"{trained}@last")
    assert equal(dict(model.params), dict(stored.params))
    assert equal(nilr.rates(model), nilr.rates(stored))
    assert equal(dict(start.params), before)
    assert [number for number, *_ in seen] == list(range(1, 9))


def test_a_model_is_loaded_by_name_and_by_file(trained: str, home: Path) -> None:
    by_name = nilr.load_model(f"{trained}@last")
    directory = home / "models" / trained
    for reference in (directory / "last.safetensors", str(directory / "last.safetensors"), f"{directory}@last"):
        assert equal(dict(nilr.load_model(reference).params), dict(by_name.params))


def test_adaptation_is_that_of_the_command(trained: str) -> None:
    result = adapt.run(AdaptSettings(model=trained, episode=2, name="adapted", rates=("absolute",)), SILENT)
    model = nilr.load_model(trained)
    images = nilr.open_pack("mini-imagenet")
    episode = nilr.sample_episode(images, 2, n_way=3, n_query=3)
    adapted = nilr.adapt(model, episode, rates="absolute")
    assert equal(dict(adapted.params), dict(nilr.load_model("adapted").params))
    labels = nilr.logits(adapted, episode.query_x).argmax(1)
    assert (labels == episode.query_y).double().mean().item() == result.metrics.accuracy_after
    by_hand = nilr.adapt(model, (episode.support_x, episode.support_y), rates="absolute")
    assert equal(dict(by_hand.params), dict(adapted.params))
    assert equal(dict(nilr.adapt(model, episode, steps=0).params), dict(model.params))


def test_a_probe_is_that_of_the_command(trained: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"n_episodes": 4, "layers": ("block1", "block4"), "rates": ("learned", "absolute")}
    expected = probe.run(ProbeSettings(models=(trained,), own_head=True, harm=True, **asked), SILENT)
    found = nilr.probe(
        {trained: nilr.load_model(trained)},
        nilr.open_pack("mini-imagenet"),
        n_query=3,
        sections=["own_head", "harm"],
        **asked,
    )
    assert found.metrics == expected.metrics
    assert found.per_episode == expected.per_episode
    assert found.models == expected.models
    assert found.question == expected.question
    assert found.notes == expected.notes
    write_result(tmp_path / "probe.json", found)
    assert nilr.read_result(tmp_path / "probe.json").metrics == found.metrics
    assert read_result(tmp_path / "probe.json").result == nilr.read_result(tmp_path / "probe.json")


def test_controls_and_images_of_a_second_pack_are_those_of_the_command(trained: str) -> None:
    prepare_data.run(PrepareDataSettings(synthetic=True, image_size=16, limit_per_class=10, seed=4), SILENT)
    asked: dict[str, Any] = {"n_episodes": 3, "controls": True, "untrained_bodies": 2}
    asked |= {"universality_tasks": 2, "universality_images": 5}
    expected = probe.run(ProbeSettings(models=(trained,), data_b="synthetic", universality="val", **asked), SILENT)
    found = nilr.probe(
        {trained: nilr.load_model(trained)},
        nilr.open_pack("mini-imagenet"),
        n_query=3,
        data_b=nilr.open_pack("synthetic"),
        universality=nilr.open_pack("synthetic", "val"),
        **asked,
    )
    assert list(found.metrics) == [trained, "untrained body", "raw pixels"]
    assert found.metrics == expected.metrics
    assert found.per_episode == expected.per_episode
    assert (found.data, found.data_b, found.question) == (expected.data, expected.data_b, expected.question)
    assert found.notes == [note for note in expected.notes if "have no class and no image in common" not in note]


def test_untrained_bodies_of_a_model_in_memory_are_those_of_its_file(trained: str, small: nilr.Images) -> None:
    model = nilr.load_model(trained)
    in_memory = nilr.adapt(model, nilr.sample_episode(small, n_way=3, n_query=2), steps=0)
    asked: dict[str, Any] = {"n_episodes": 2, "n_query": 2, "controls": True, "untrained_bodies": 2}
    found, expected = (nilr.probe({"m": one}, small, **asked) for one in (in_memory, model))
    assert found.metrics["untrained body"] == expected.metrics["untrained body"]
    assert (len(found.models), len(expected.models)) == (0, 1)


def test_a_saved_model_comes_back_and_the_commands_read_it(small: nilr.Images, pack: Path, tmp_path: Path) -> None:
    start = nilr.build_model(algo="lslr", filters=4, n_way=3, image_size=16)
    model = nilr.train(start, small, 2, n_query=2)
    file = nilr.save_model(model, tmp_path / "lslr.safetensors")
    loaded = nilr.load_model(file)
    assert equal(dict(loaded.params), dict(model.params))
    assert equal(nilr.rates(loaded), nilr.rates(model))
    assert (loaded.algorithm, loaded.used.claimed) == (model.algorithm, False)
    normalised = copy.deepcopy(model)
    normalised.learner.inputs = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    inputs = nilr.load_model(nilr.save_model(normalised, tmp_path / "normalised.safetensors")).learner.inputs
    assert [each.flatten().tolist() for each in inputs or ()] == [[0.5] * 3, [0.25] * 3]
    asked: dict[str, Any] = {"n_episodes": 2, "n_query": 2}
    expected = nilr.probe({"lslr.safetensors": model}, nilr.open_pack(pack), **asked).metrics
    settings = ProbeSettings(models=(str(file),), data="mini-imagenet", **asked)
    assert [*probe.run(settings, SILENT).metrics.values()] == [*expected.values()]


def test_a_model_of_a_file_keeps_its_history_when_it_is_saved(trained: str, tmp_path: Path) -> None:
    model = nilr.load_model(trained)
    again = nilr.load_model(nilr.save_model(model, tmp_path / "copy.safetensors"))
    assert again.checkpoint.digest == model.checkpoint.digest
    manifests = [one.checkpoint.manifest.model_dump(exclude={"saved_at"}) for one in (again, model)]
    assert manifests[0] == manifests[1]


def test_rates_are_those_of_the_command(trained: str) -> None:
    expected = rates.run(RatesSettings(models=(trained,), n_episodes=3, consistency=True), SILENT)
    images = nilr.open_pack("mini-imagenet")
    found = nilr.measure_rates({trained: nilr.load_model(trained)}, images, n_episodes=3, consistency=True)
    assert found.metrics == expected.metrics
    stepped = nilr.measure_rates(nilr.load_model(trained), images, n_episodes=3, effective_step=True)
    assert stepped.metrics["model"].effective_step is not None
    alone = nilr.measure_rates(nilr.load_model(trained))
    assert alone.metrics["model"].layers["block1"].ascent is None


def test_frames_have_the_numbers_of_the_results(trained: str) -> None:
    pytest.importorskip("pandas")
    model = nilr.load_model(trained)
    images = nilr.open_pack("mini-imagenet")
    result = nilr.probe({"m": model}, images, n_episodes=3, n_query=3, sections=["transfer"], layers="all")
    frame = nilr.result_frame(result)
    row = frame[(frame.section == "layers") & (frame["item"] == "block2") & (frame.protocol == "cross-task")]
    measured = result.metrics["m"].layers["block2"].cross_task
    assert row.set_index("quantity")["mean"].to_dict() == {
        "accuracy": measured.accuracy.mean,
        "delta": measured.delta.mean,
    }
    assert set(frame.section) == {"protocols", "layers", "transfer"}
    measured_rates = nilr.measure_rates({"m": model}, images, n_episodes=2)
    of_rates = nilr.result_frame(measured_rates).set_index(["section", "item"])
    assert of_rates.loc[("layers", "head"), "mean"] == measured_rates.metrics["m"].layers["head"].mean
    assert of_rates.loc[("all", ""), "ascent"] == measured_rates.metrics["m"].all.ascent.mean
    each = nilr.rates_frame(model)
    head = each[each.tensor == "head.weight"]
    assert torch.equal(torch.tensor(head.rate.to_numpy()), model.inner_lr["head.weight"].flatten())
    assert len(each) == sum(rate.numel() for rate in model.inner_lr.values())
    steps = nilr.rates_frame(nilr.build_model(algo="lslr", filters=2, image_size=16))
    assert sorted(set(steps.step)) == [0, 1, 2, 3, 4]


def test_figures_are_those_of_a_report(small: nilr.Images) -> None:
    models = {seed: nilr.build_model(filters=4, image_size=16, seed=int(seed)) for seed in "12"}
    result = nilr.probe(models, small, n_episodes=3, n_query=3, layers="all")
    rates_result = nilr.measure_rates(models)
    for figure in (nilr.plot(result), nilr.plot([result, rates_result], "rates"), nilr.plot(result, "layers")):
        assert isinstance(figure, matplotlib.figure.Figure)
        assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="lack the numbers of the figure `harm`") as caught:
        nilr.plot(result, "harm")
    assert "layers" in (caught.value.hint or "")
    with pytest.raises(UnknownNameError, match="unknown figure `pie`"):
        nilr.plot(result, "pie")


def test_ones_own_module_goes_the_whole_way(small: nilr.Images) -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
    before = {name: value.clone() for name, value in body.state_dict().items()}
    model = nilr.train(nilr.wrap(body, n_way=3, image_size=16), small, 2, n_query=2)
    assert equal(body.state_dict(), before)
    result = nilr.probe({"own": model}, small, n_episodes=2, n_query=4, layers="all", sections=["similarity"])
    assert list(result.metrics["own"].layers) == ["0", "1", "3"]
    assert result.environment["engine"] == "reference"
    inductive = nilr.probe(model, small, n_episodes=2, n_query=2, batch_stats="inductive")
    assert inductive.metrics["model"].same_task is not None


class OverBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(768, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1) - x.flatten(1).mean(0))


def test_statistics_that_a_module_cannot_give_are_one_clear_error(small: nilr.Images) -> None:
    model = nilr.wrap(OverBatch(), n_way=3, image_size=16)
    assert nilr.probe(model, small, n_episodes=2, n_query=2).metrics
    with pytest.raises(ModuleError, match="depend on the other images of its batch") as caught:
        nilr.probe(model, small, n_episodes=2, n_query=2, batch_stats="inductive")
    assert "apart" in (caught.value.hint or "")


def test_bad_input_is_one_clear_error(small: nilr.Images, tmp_path: Path) -> None:
    model, own = nilr.build_model(filters=4, image_size=16), nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    there = tmp_path / "there.safetensors"
    there.touch()
    x, y = torch.rand(5, 3, 16, 16), torch.arange(5)
    cases: list[tuple[Any, type[NilrError], str]] = [
        (lambda: nilr.features(model, x[0]), EpisodeError, r"images are torch.float32 \(3, 16, 16\)"),
        (lambda: nilr.features(model, (x * 255).byte()), EpisodeError, r"images are torch.uint8"),
        (lambda: nilr.features(model, x[:, :1]), EpisodeError, r"\(5, 1, 16, 16\) have 1 channel, and .* takes 3"),
        (lambda: nilr.features(model, torch.rand(5, 3, 32, 32)), EpisodeError, r"give 16 features, and .* takes 4"),
        (lambda: nilr.features(model, x, layer="block9"), UnknownNameError, "unknown layer `block9`"),
        (lambda: nilr.adapt(model, (x, y + 1)), EpisodeError, "the labels do not fit 5 images and a head for 5"),
        (lambda: nilr.adapt(model, (x, y.float())), EpisodeError, r"torch.float32 \(5,\)"),
        (lambda: nilr.adapt(model, (x, y), rates="halved"), UnknownNameError, "unknown rates `halved`"),
        (lambda: nilr.adapt(model, (x, y), parts="neck"), UnknownNameError, "unknown part to adapt `neck`"),
        (lambda: nilr.adapt(model, (x, y), steps=-1), UsageError, "`steps` cannot be -1"),
        (lambda: nilr.build_model("conv9"), UnknownNameError, "unknown architecture `conv9`"),
        (lambda: nilr.build_model(depth=3), UnknownNameError, "unknown argument of `conv4` `depth`"),
        (lambda: nilr.build_model(filters=0), UsageError, "`filters`"),
        (lambda: nilr.build_model(algo="sgd"), UnknownNameError, "unknown algorithm `sgd`"),
        (lambda: nilr.build_model(device="tpu"), UsageError, "invalid device `tpu`"),
        (lambda: nilr.wrap(nn.Linear(3, 3)), ModuleError, "the module `Linear` fails"),
        (lambda: nilr.sample_episode(small, n_way=30), EpisodeError, "needs 30 classes"),
        (lambda: nilr.sample_episode(small, -1), UsageError, "`index` cannot be -1"),
        (lambda: small.of_class("zebra"), UnknownNameError, "unknown class `zebra`"),
        (lambda: nilr.generate_images("all"), UnknownNameError, "unknown split `all`"),
        (lambda: nilr.probe(model, small, n_episodes=0), UsageError, "`n_episodes`"),
        (lambda: nilr.probe({}, small), UsageError, "there is no model"),
        (lambda: nilr.probe(model, small, sections=["pie"]), UnknownNameError, "unknown section `pie`"),
        (lambda: nilr.probe(model, small, layers="block9"), UnknownNameError, "unknown layer `block9`"),
        (lambda: nilr.probe(model, small, data_b=small), UsageError, "`data_b` has the same images"),
        (lambda: nilr.probe(model, nilr.generate_images(image_size=32)), EpisodeError, "built for 16 px"),
        (lambda: nilr.probe(nilr.wrap(own, image_size=16), small, controls=True), UsageError, "untrained bodies"),
        (lambda: nilr.save_model(nilr.wrap(own, image_size=16), tmp_path / "a.safetensors"), UsageError, "from `wrap`"),
        (lambda: nilr.save_model(model, tmp_path / "a.pt"), UsageError, "not a file of a model"),
        (lambda: nilr.save_model(model, tmp_path / "b" / "a.safetensors"), NilrError, "there is no directory"),
        (lambda: nilr.save_model(model, there), NilrError, "already exists"),
        (lambda: nilr.probe(model, "toy"), UsageError, "`images` has type str, not Images"),
        (lambda: nilr.probe(model, small, data_b="toy"), UsageError, "`data_b` has type str, not Images"),
        (lambda: nilr.probe(model, small, universality=True), UsageError, "`universality` has type bool, not Images"),
        (lambda: nilr.probe([model], small), UsageError, "`models` is neither a model nor a mapping"),
        (lambda: nilr.probe({"raw pixels": model}, small, controls=True), UsageError, "the name of a control"),
        (lambda: nilr.save_model("m", tmp_path / "a.safetensors"), UsageError, "`model` has type str, not Model"),
        (lambda: nilr.train(model, small, 0), UsageError, "invalid argument `updates`"),
        (lambda: nilr.train(model, small, 1), EpisodeError, "needs 16 images per class"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_errors_name_arguments_instead_of_flags(small: nilr.Images) -> None:
    model = nilr.build_model(filters=4, image_size=16)
    few = {"n_episodes": 2, "n_query": 1, "seed": 0}
    cases: list[tuple[Any, str, str]] = [
        (
            lambda: nilr.probe(model, small, data_b=nilr.generate_images("val", image_size=16), task_b="same-classes"),
            '`task_b="same-classes"` needs one pack: the classes of `data_b` differ',
            'omit `task_b="same-classes"` or `data_b`',
        ),
        (
            lambda: nilr.probe(model, small, universality=small, **few),
            "`universality` needs 100 images per class, but a class of `test` has ",
            "use another split or pack",
        ),
        (lambda: nilr.probe(model, small, n_way=11, n_query=1), "11 classes", '`task_b="any"`'),
        (lambda: nilr.probe(model, small, sections=["geometry"], **few), "`geometry` needs ", "raise `n_query`"),
        (lambda: nilr.probe(model, small, steps=-1), "invalid argument `steps`", ""),
        (lambda: nilr.sample_episode(small, n_way=30), "(`n_way`)", "use `n_way=20` or less"),
        (lambda: nilr.measure_rates(model, consistency=True), "`consistency` needs gradients", "give `images`"),
        (lambda: nilr.measure_rates(model, small, steps=0, effective_step=True), "and `steps` is 0", "omit `steps`"),
        (lambda: nilr.build_model(engine="fast"), "unknown engine `fast`", ""),
        (lambda: nilr.build_model(filters=0), "`filters`", "function's help"),
        (lambda: nilr.load_model("m", device="cuda:99"), "", '`device="cpu"`'),
        (lambda: nilr.plot(nilr.measure_rates(model), "harm"), "needs `nilr probe MODEL --harm`", ""),
        (
            lambda: nilr.train(nilr.build_model(inner_lr=1e30, algo="maml", image_size=16), small, 9, n_query=1),
            "",
            "lower `outer_lr`",
        ),
    ]
    for call, message, hint in cases:
        with pytest.raises(NilrError) as caught:
            call()
        assert message in caught.value.message
        assert hint in (caught.value.hint or "")
        assert f"hint: {caught.value.hint}" in [*getattr(caught.value, "__notes__", []), "hint: None"]
        assert not re.findall(r"--[a-z]", re.sub(r"`nilr [^`]*`", "", f"{caught.value} {caught.value.hint}"))


def test_every_argument_that_errors_name_exists() -> None:
    functions = [value for name in nilr.__all__ if inspect.isfunction(value := getattr(nilr, name))]
    known = {name for function in functions for name in inspect.signature(function).parameters}
    known |= {*_SWITCHES, "filters", "widths", "NILR_HOME"}
    assert set(ARGUMENTS.values()) <= known


def test_frames_without_pandas_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(NilrError, match="frames need pandas") as caught:
        nilr.rates_frame(nilr.build_model(filters=2, image_size=16))
    assert caught.value.hint == "pip install 'nilr[notebook]'"


def test_building_a_model_leaves_the_random_numbers_of_torch_alone() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    before = torch.get_rng_state()
    nilr.build_model("conv4", filters=4, image_size=16)
    nilr.build_model("resnet12", widths=[4, 4, 4, 4], image_size=16)
    nilr.wrap(module, image_size=8)
    assert torch.equal(torch.get_rng_state(), before)
