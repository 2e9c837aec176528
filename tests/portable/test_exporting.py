from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nilr.checkpoint import load_checkpoint
from nilr.cli.boundary import run
from nilr.config.evaluation import ProbeSettings, RatesSettings
from nilr.config.meta_train import TrainSettings
from nilr.config.models import ExportSettings, ImportSettings
from nilr.errors import NilrError
from nilr.recipes import meta_train, probe, rates
from nilr.recipes.models import Exported, exporting, importing
from nilr.reporting import SilentReporter
from tests.portable.test_formats import bring, four_blocks

SHORT = {"outer_steps": 2, "eval_every": 0, "meta_batch_size": 1}


def train(name: str, quick: dict[str, Any], *, algo: str | None = None, **more: Any) -> None:
    meta_train.run(TrainSettings(name=name, algo=algo or name, **quick | SHORT | more), SilentReporter())


def export(output: Path, model: str = "metasgd", **more: Any) -> Exported:
    return exporting.run(ExportSettings(model=model, output=output, **more), SilentReporter())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(("algo", "arch"), [("metasgd", "conv4"), ("metasgd", "resnet12"), ("lslr", "conv6")])
def test_a_state_dict_and_its_import_are_the_same_model(
    suffix: str, algo: str, arch: str, home: Path, pack: Path, quick: dict[str, Any], tmp_path: Path, one_thread: None
) -> None:
    body = {"arch": arch} | ({"widths": (3, 4, 3, 4)} if arch == "resnet12" else {})
    train(algo, {name: value for name, value in quick.items() if arch != "resnet12" or name != "filters"}, **body)
    path = tmp_path / f"out.{suffix}"
    export(path, algo)
    steps = {} if algo == "lslr" else {"inner_steps": 1}
    importing.run(ImportSettings(sources=(path,), name="again", image_size=16, **steps), SilentReporter())
    first, again = (load_checkpoint(home / "models" / name / "last.safetensors") for name in (algo, "again"))
    assert first.params.keys() == again.params.keys()
    assert all(torch.equal(value, again.params[name]) for name, value in first.params.items())
    assert all(torch.equal(value, again.inner_lr[name]) for name, value in first.inner_lr.items())
    assert again.manifest.architecture == first.manifest.architecture
    assert again.manifest.algorithm["name"] == algo
    described = json.loads((tmp_path / f"out.{suffix}.json").read_text())
    assert described["architecture"] == first.manifest.architecture.model_dump()
    assert [stage["name"] for stage in described["stages"]] == [
        f"block{i + 1}" for i in range(len(described["stages"]))
    ]
    assert described["names"].keys() == first.params.keys()


def test_a_copy_of_the_checkpoint_and_what_stops_an_export(
    home: Path, pack: Path, quick: dict[str, Any], tmp_path: Path, one_thread: None
) -> None:
    train("metasgd", quick)
    train("lslr", quick)
    export(tmp_path / "copy.safetensors", format="nilr")
    assert (tmp_path / "copy.safetensors").read_bytes() == (home / "models/metasgd/last.safetensors").read_bytes()
    for output, more, words, hint in (
        (None, {}, "no file to write", "--output"),
        (tmp_path / "x.onnx", {}, "has no suffix for the format state-dict", ".safetensors, .pt, .pth"),
        (tmp_path / "x.pt", {"format": "nilr"}, "has no suffix for the format nilr", ".safetensors"),
        (tmp_path / "copy.safetensors", {}, "exists", "--force"),
        (tmp_path / "no" / "x.pt", {}, "no", ""),
        (tmp_path / "x.pt", {"model": "lslr", "format": "learn2learn"}, "has a rate for each inner step", "state-dict"),
    ):
        with pytest.raises(NilrError, match=words) as caught:
            exporting.run(ExportSettings(**{"model": "metasgd", "output": output} | more), SilentReporter())
        assert hint in (caught.value.hint or "")
    export(tmp_path / "copy.safetensors", force=True)
    assert "inner_lr.head.bias" in load_file(tmp_path / "copy.safetensors")


def test_a_network_that_learn2learn_lacks_is_not_exported_to_it(home: Path, tmp_path: Path) -> None:
    bring(home, four_blocks("how-to-train-your-maml"))
    with pytest.raises(NilrError, match="learn2learn has no network like conv4-leaky"):
        export(tmp_path / "x.pt", "m", format="learn2learn")


def test_probe_and_rates_work_on_an_imported_model(
    home: Path, pack: Path, quick: dict[str, Any], tmp_path: Path, one_thread: None
) -> None:
    train("metasgd", quick, inner_lr_init="0.01")
    export(tmp_path / "theirs.pt", format="learn2learn")
    flags: dict[str, Any] = {"sources": (tmp_path / "theirs.pt",), "inner_steps": 1, "n_shot": 1}
    importing.run(ImportSettings(**flags, name="known", data="mini-imagenet"), SilentReporter())
    importing.run(ImportSettings(**flags, image_size=16), SilentReporter())
    common: dict[str, Any] = {"n_episodes": 3, "n_query": 3, "threads": 1}
    ours, known, theirs = (
        probe.run(ProbeSettings(models=(name,), **common, **more), SilentReporter())
        for name, more in (("metasgd", {}), ("known", {}), ("theirs", {"data": "mini-imagenet"}))
    )
    unsigned = ours.metrics["metasgd"].model_copy(update={"signs": {}})  # none is claimed of the others
    assert unsigned == known.metrics["known"] == theirs.metrics["theirs"]
    assert [result.models[0].claimed for result in (known, theirs)] == [False, False]
    assert any("was trained on are unknown" in note for note in theirs.notes)
    with pytest.raises(NilrError, match="that model `theirs` was trained on are unknown") as caught:
        probe.run(ProbeSettings(models=("theirs",), **common), SilentReporter())
    assert "--data" in (caught.value.hint or "")
    found = [
        rates.run(RatesSettings(models=(name,), n_episodes=2, threads=1), SilentReporter()).metrics[name]
        for name in ("metasgd", "known")
    ]
    assert found[0].all == found[1].all
    assert found[0].all.std > 0


def test_an_export_from_the_command_line_says_how_to_load_it(
    home: Path, pack: Path, quick: dict[str, Any], tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    train("metasgd", quick)
    out = str(tmp_path / "out.pt")
    assert run(["models", "export", "metasgd", "--output", out, "--format", "learn2learn"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "Load it with MetaSGD(network).load_state_dict(...)." in said
    assert run(["models", "export", "metasgd", "--output", out]) == 1


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_tensors_do_not_show_comes_back_from_the_description_or_is_refused(
    suffix: str, home: Path, pack: Path, quick: dict[str, Any], tmp_path: Path, one_thread: None
) -> None:
    def bring_back(path: Path, name: str) -> Path:
        importing.run(ImportSettings(sources=(path,), name=name, image_size=16, inner_steps=1), SilentReporter())
        return home / "models" / name / "last.safetensors"

    train("metasgd", quick)
    plain, normalised, again = (tmp_path / f"{name}.{suffix}" for name in ("plain", "normalised", "again"))
    export(plain)
    given = {"input_mean": "0.5", "input_std": "0.25,0.5,1"}
    settings = ImportSettings(sources=(plain,), name="normalised", image_size=16, inner_steps=1, **given)
    importing.run(settings, SilentReporter())
    export(normalised, "normalised")
    found = load_checkpoint(bring_back(normalised, "back")).manifest.inputs
    assert found is not None
    assert (found.mean, found.std) == ((0.5,) * 3, (0.25, 0.5, 1.0))

    train("leaky", quick, algo="metasgd", arch="conv4-leaky")
    export(again, "leaky")
    with pytest.raises(NilrError, match="exported from `conv4-leaky`, whose tensors are those of conv4"):
        bring_back(again, "other")

    if suffix == "pt":
        for text in ("[", "[]", "{}", '{"architecture": {"name": "conv4"}, "inputs": {"mean": ["x"], "std": [1]}}'):
            plain.with_name(f"{plain.name}.json").write_text(text)
            with pytest.raises(NilrError, match="description"):
                bring_back(plain, "other")
    assert not (home / "models" / "other").exists()
