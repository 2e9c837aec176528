"""A model with one's own body through the commands: nothing is imported unless the user names it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from nilr.config.base import Settings
from nilr.config.evaluation import AdaptSettings, CalibrateSettings, ProbeSettings, RatesSettings
from nilr.config.meta_train import TrainSettings
from nilr.config.models import ExportSettings, ImportSettings, ModelsSettings
from nilr.data.pack import open_pack
from nilr.errors import CheckpointError, ModuleError
from nilr.recipes import adapt, calibrate, meta_train, probe, rates
from nilr.recipes.models import exporting, importing, list_models, verify_models
from nilr.reporting import SilentReporter
from nilr.store import Store

ARCH = "own_body_of_a_test:make"
SOURCE = """
from torch import nn
from pathlib import Path

Path(__file__).with_name("imported").touch()

def make(channels):
    last = nn.Conv2d(4, 4, 3)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), last, nn.Flatten())
"""

CENTRED = """
from torch import nn

class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(768, 4)

    def forward(self, x):
        return self.last(x.flatten(1) - x.flatten(1).mean(0))
"""

pytestmark = pytest.mark.usefixtures("pack", "one_thread")
SILENT = SilentReporter()


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "code"
    directory.mkdir()
    (directory / "own_body_of_a_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(directory)
    return directory


def forget(monkeypatch: pytest.MonkeyPatch, code: Path) -> Path:
    """Return the file that another import of the body would write."""
    monkeypatch.delitem(sys.modules, "own_body_of_a_test", raising=False)
    trace = code / "imported"
    trace.unlink(missing_ok=True)
    return trace


@pytest.fixture
def trained(code: Path, quick: dict[str, Any]) -> dict[str, Any]:
    del quick["filters"]  # an argument of other bodies
    settings = quick | {"name": "own", "arch": ARCH, "algo": "metasgd"}
    result = meta_train.run(TrainSettings(**settings), SILENT)
    assert result.environment["engine"] == "reference"
    assert meta_train.next_command(TrainSettings(**settings), result).endswith(f"--arch {ARCH}")
    return settings


def test_commands_use_the_body_that_the_user_names(trained: dict[str, Any], tmp_path: Path) -> None:
    probed = probe.run(
        ProbeSettings(arch=(ARCH,), n_episodes=3, layers=("all",), similarity=True, controls=True, untrained_bodies=1),
        SILENT,
    )
    assert list(probed.metrics["own"].layers) == ["0", "1", "3"]
    assert set(rates.run(RatesSettings(arch=(ARCH,), n_episodes=2), SILENT).metrics["own"].layers) == {
        "0",
        "1",
        "3",
        "head",
    }
    adapted = adapt.run(AdaptSettings(arch=(ARCH,), name="adapted"), SILENT)
    assert adapted.metrics.support_loss_after < adapted.metrics.support_loss_before
    described = exporting.run(ExportSettings(arch=(ARCH,), output=tmp_path / "own.safetensors"), SILENT).files
    assert [file.name for file in described] == ["own.safetensors", "own.safetensors.json"]
    resumed = meta_train.run(TrainSettings(resume="own", arch=ARCH, outer_steps=9), SILENT)
    assert resumed.metrics.outer_step == 9


def test_no_command_imports_what_a_checkpoint_names(
    trained: dict[str, Any], code: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    trace = forget(monkeypatch, code)
    runs = [
        lambda: probe.run(ProbeSettings(models=("own",)), SILENT),
        lambda: probe.run(ProbeSettings(models=("own",), arch=("other.code:make",)), SILENT),
        lambda: adapt.run(AdaptSettings(model="own"), SILENT),
        lambda: rates.run(RatesSettings(models=("own",)), SILENT),
        lambda: calibrate.run(CalibrateSettings(models=("own",)), SILENT),
        lambda: meta_train.run(TrainSettings(resume="own", outer_steps=9), SILENT),
        lambda: exporting.run(ExportSettings(output=tmp_path / "own.safetensors"), SILENT),
    ]
    for run in runs:
        with pytest.raises(ModuleError, match=r"model `own` has the body `own_body_of_a_test:make`") as caught:
            run()
        assert f"--arch {ARCH}" in (caught.value.hint or "")
    assert [check.problem for check in verify_models(ModelsSettings(), SILENT)] == [None] * 4
    assert [row.arch for row in list_models(Settings(), SILENT)] == [ARCH]
    exporting.run(ExportSettings(format="nilr", output=tmp_path / "copy.safetensors"), SILENT)
    assert (tmp_path / "copy.safetensors").read_bytes() == Store(home).find_model("own").file.read_bytes()
    elsewhere = ImportSettings(sources=(home / "models" / "own",), home=tmp_path / "elsewhere")
    assert importing.run(elsewhere, SILENT).models[0].name == "own"
    assert not trace.exists()


def test_a_body_without_inductive_statistics_is_adapted_apart_alone(
    pack: Path, code: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    (code / "centred_body_of_a_test.py").write_text(CENTRED)
    arch = "centred_body_of_a_test:Centred"
    quick.pop("filters")
    meta_train.run(TrainSettings(**quick, name="centred", arch=arch), SILENT)
    adapted = adapt.run(AdaptSettings(arch=(arch,), name="adapted"), SILENT)
    assert adapted.metrics.accuracy_after is not None
    split = open_pack(pack).open_split("test")
    for i in range(2):
        folder = tmp_path / "support" / f"class{i}"
        folder.mkdir(parents=True)
        PIL.Image.fromarray(split.images.read([8 * i])[0]).save(folder / "1.png")
    query = tmp_path / "support" / "class0" / "1.png"
    for settings in (
        AdaptSettings(arch=(arch,), model="centred", support=tmp_path / "support", query=(query,)),
        AdaptSettings(arch=(arch,), model="adapted", query=(query,)),
    ):
        with pytest.raises(ModuleError, match="depend on the other images of its batch"):
            adapt.run(settings, SILENT)


def test_a_body_that_has_changed_does_not_fit(
    trained: dict[str, Any], code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, code)
    file = code / "own_body_of_a_test.py"
    file.write_text(SOURCE.replace("4, 4, 3", "4, 64, 3"))
    with pytest.raises(CheckpointError, match="its tensors do not fit its architecture"):
        probe.run(ProbeSettings(models=("own",), arch=(ARCH,)), SILENT)
    file.unlink()
    forget(monkeypatch, code)
    with pytest.raises(ModuleError, match="there is no module `own_body_of_a_test`"):
        probe.run(ProbeSettings(models=("own",), arch=(ARCH,)), SILENT)
