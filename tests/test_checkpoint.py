from __future__ import annotations

import errno
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nilr
from nilr.checkpoint import (
    load_checkpoint,
    read_manifest,
    save_checkpoint,
)
from nilr.errors import CheckpointError, StoreError
from nilr.tensorfile import serialize

ORIGIN: dict[str, Any] = {
    "architecture": {"name": "conv4", "arguments": {"n_way": 5, "image_size": 84, "filters": 32}},
    "algorithm": {"name": "metasgd", "order": 2},
    "settings": {"n_way": 5, "n_shot": 1, "outer_steps": 60_000},
    "data": {
        "name": "mini-imagenet",
        "digest": "ab12",
        "image_size": 84,
        "resample": "box",
        "fit": "crop",
        "channels": 3,
        "generated": False,
    },
    "outer_step": 500,
    "metrics": {"best_val_accuracy": {"mean": 0.375, "ci95": None, "n_episodes": 1}},
    "engine": "reference",
    "parent": None,
}


@pytest.fixture
def params() -> dict[str, Tensor]:
    return {"head.weight": torch.tensor([[0.5, -0.25]]), "head.bias": torch.tensor([1.0], dtype=torch.float64)}


@pytest.fixture
def inner_lr() -> dict[str, Tensor]:
    return {"head.weight": torch.tensor([[0.01, -0.02]]), "head.bias": torch.tensor(0.05)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models" / "metasgd" / "last.safetensors"


def test_a_checkpoint_comes_back_as_it_was_saved(
    path: Path, params: dict[str, Tensor], inner_lr: dict[str, Tensor]
) -> None:
    before = datetime.now(UTC)
    manifest = save_checkpoint(path, params=params, inner_lr=inner_lr, **ORIGIN)
    back = load_checkpoint(path)
    for kept, given in ((back.params, params), (back.inner_lr, inner_lr)):
        assert set(kept) == set(given)
        assert all(torch.equal(kept[name], given[name]) and kept[name].dtype == given[name].dtype for name in given)
    assert back.manifest == manifest == read_manifest(path)
    assert back.digest == manifest.tensors_sha256
    assert manifest.model_dump(include=set(ORIGIN)) == ORIGIN
    assert manifest.nilr_version == nilr.__version__
    assert before <= datetime.fromisoformat(manifest.saved_at) <= datetime.now(UTC)


def test_an_adapted_model_names_its_parent(path: Path, params: dict[str, Tensor]) -> None:
    save_checkpoint(path, params=params, inner_lr={}, **ORIGIN | {"parent": {"name": "maml", "digest": "cd34"}})
    parent = read_manifest(path).parent
    assert parent is not None
    assert (parent.name, parent.digest) == ("maml", "cd34")


def test_the_digest_does_not_depend_on_when_or_how_it_was_trained(
    tmp_path: Path, params: dict[str, Tensor], inner_lr: dict[str, Tensor]
) -> None:
    one = save_checkpoint(tmp_path / "a", params=params, inner_lr=inner_lr, **ORIGIN)
    two = save_checkpoint(tmp_path / "b", params=params, inner_lr=inner_lr, **ORIGIN | {"outer_step": 501})
    assert one.tensors_sha256 == two.tensors_sha256
    assert one.saved_at < two.saved_at


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["params", "inner_lr"])
def test_a_number_that_is_not_finite_is_refused_and_the_old_file_stays(
    path: Path, params: dict[str, Tensor], inner_lr: dict[str, Tensor], part: str, number: float
) -> None:
    save_checkpoint(path, params=params, inner_lr=inner_lr, **ORIGIN)
    old = path.read_bytes()
    (params if part == "params" else inner_lr)["head.weight"] = torch.tensor([[0.0, number]])
    with pytest.raises(CheckpointError, match=f"`{part}/head.weight` has numbers that are not finite"):
        save_checkpoint(path, params=params, inner_lr=inner_lr, **ORIGIN)
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]


def test_a_stored_number_that_is_not_finite_is_refused(path: Path, params: dict[str, Tensor]) -> None:
    manifest = save_checkpoint(path, params=params, inner_lr={}, **ORIGIN).model_dump()
    path.write_bytes(serialize("nilr/checkpoint", manifest, {"params/w": torch.tensor([float("nan")])}))
    with pytest.raises(CheckpointError, match="`params/w` has numbers that are not finite"):
        load_checkpoint(path)


def test_a_rate_per_step_comes_back(path: Path, params: dict[str, Tensor]) -> None:
    rates = {"head.weight": torch.tensor([[[0.1]], [[-0.2]]]), "head.bias": torch.tensor([[0.1], [0.2], [0.3]])}
    save_checkpoint(path, params=params, inner_lr=rates, **ORIGIN)
    assert {name: rate.tolist() for name, rate in load_checkpoint(path).inner_lr.items()} == {
        name: rate.tolist() for name, rate in rates.items()
    }


@pytest.mark.parametrize(
    ("rates", "what"),
    [
        ({"body.weight": torch.tensor(0.1)}, "`inner_lr/body.weight` does not fit a parameter"),
        ({"head.weight": torch.zeros(2)}, "`inner_lr/head.weight` does not fit a parameter"),
        ({"head.weight": torch.zeros(3, 2, 1)}, "`inner_lr/head.weight` does not fit a parameter"),
        ({"head.weight": torch.zeros(0, 1, 2)}, "`inner_lr/head.weight` does not fit a parameter"),
        ({"head.bias": torch.zeros(2, 1, 1)}, "`inner_lr/head.bias` does not fit a parameter"),
        ({"head.weight": torch.zeros(1, 2, dtype=torch.int64)}, "`inner_lr/head.weight` is I64"),
    ],
)
def test_a_rate_that_does_not_fit_is_refused(
    path: Path, params: dict[str, Tensor], rates: dict[str, Tensor], what: str
) -> None:
    with pytest.raises(CheckpointError, match=what):
        save_checkpoint(path, params=params, inner_lr=rates, **ORIGIN)
    assert not path.exists()


def test_a_file_without_parameters_or_with_other_tensors_is_refused(path: Path, params: dict[str, Tensor]) -> None:
    manifest = save_checkpoint(path, params=params, inner_lr={}, **ORIGIN).model_dump()
    path.write_bytes(serialize("nilr/checkpoint", manifest, {}))
    with pytest.raises(CheckpointError, match="has no parameters"):
        load_checkpoint(path)
    path.write_bytes(serialize("nilr/checkpoint", manifest, {"weights/w": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="`weights/w` is not a parameter, a rate or of a support"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"outer_step": -1}, "outer_step"),
        ({"data": {"name": "x", "image_size": 84}}, "data.digest"),
        ({"saved_at": "yesterday"}, "saved_at"),
        ({"surprise": 1}, "surprise"),
        ({"architecture": "conv4"}, "architecture"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused_with_the_fields_name(
    path: Path, params: dict[str, Tensor], change: dict[str, Any], where: str
) -> None:
    manifest = save_checkpoint(path, params=params, inner_lr={}, **ORIGIN).model_dump() | change
    path.write_bytes(serialize("nilr/checkpoint", manifest, {"params/w": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=f"manifest field `{where}`"):
        read_manifest(path)


def test_a_flipped_bit_in_the_tensors_is_seen_by_loading(path: Path, params: dict[str, Tensor]) -> None:
    save_checkpoint(path, params=params, inner_lr={}, **ORIGIN)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    read_manifest(path)
    with pytest.raises(CheckpointError, match="the SHA-256 of its tensors is not the recorded one"):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_old_checkpoint(
    path: Path, params: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(path, params=params, inner_lr={}, **ORIGIN)
    old = path.read_bytes()

    def full(_self: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="no space left on device"):
        save_checkpoint(path, params=params, inner_lr={}, **ORIGIN)
    assert path.read_bytes() == old


def test_reading_a_manifest_does_not_import_torch(path: Path, params: dict[str, Tensor]) -> None:
    save_checkpoint(path, params=params, inner_lr={}, **ORIGIN)
    code = (
        "import sys; from pathlib import Path; from nilr.checkpoint import read_manifest;"
        "read_manifest(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
