from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nilr.checkpoint import load_checkpoint
from nilr.config.meta_train import TrainSettings
from nilr.config.models import PullSettings, PushSettings
from nilr.errors import NilrError
from nilr.recipes import meta_train
from nilr.recipes.models import Pushed, hub
from nilr.reporting import SilentReporter
from tests.recipes.models.hub_server import TOKEN, Hub, serving

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def model(home: Path, pack: Path, quick: dict[str, Any], one_thread: None) -> Path:
    short = {"outer_steps": 2, "eval_every": 2, "eval_episodes": 2, "meta_batch_size": 1}
    meta_train.run(TrainSettings(name="m", **quick | short), SilentReporter())
    return home / "models" / "m"


def push(repo: str | None = "hf://me/shared", **more: Any) -> Pushed:
    return hub.push(PushSettings(**{"model": "m", "repo": repo} | more), SilentReporter())


def pull(repo: str | None = "hf://me/shared", **more: Any) -> Any:
    return hub.pull(PullSettings(repo=repo, **more), SilentReporter())


def test_a_model_goes_to_the_hub_and_back(model: Path, home: Path, server: Hub) -> None:
    pushed = push(licence="cc-by-4.0", private=True)
    names = ["best.safetensors", "last.safetensors", "history.jsonl"]
    assert pushed.files == [*names, "README.md"]
    assert pushed.url == f"{server.endpoint}/me/shared"
    assert server.private == {"me/shared"}
    assert {name: server.repos["me/shared"][name] for name in names} == {
        name: (model / name).read_bytes() for name in names
    }
    result = pull()
    assert result.metrics["shared"].files == names
    assert not result.metrics["shared"].resumable
    for name in names:
        assert (home / "models" / "shared" / name).read_bytes() == (model / name).read_bytes()
    assert not pull("hf://me/shared@main").metrics["shared"].imported
    assert pull(name="other").metrics.keys() == {"other"}


def test_the_card_has_settings_metrics_data_and_licences(model: Path, server: Hub) -> None:
    push(licence="cc-by-4.0")
    card = server.repos["me/shared"]["README.md"].decode()
    manifest = load_checkpoint(model / "best.safetensors").manifest
    best: Any = manifest.metrics["best_val_accuracy"]
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: nilr\ntags:\n- meta-learning\n")
    for row in (
        "| body | conv4 |", "| filters | 4 |", "| algorithm | maml |", "| outer_steps | 2 |",
        "| name | mini-imagenet |", f"| digest | {manifest.data.digest} |", "| image size | 16 px |",
    ):  # fmt: skip
        assert row in card
    assert f"| best_val_accuracy | {100 * best['mean']:.2f} ± {100 * best['ci95']:.2f} % |" in card
    assert "nilr models pull hf://me/shared\n" in card
    assert "Model: cc-by-4.0." in card
    assert "Images that it was trained on: none." in card  # the note in the pack of this test
    assert str(model) not in card


def test_a_card_that_is_there_is_kept(model: Path, server: Hub) -> None:
    push()
    server.repos["me/shared"]["README.md"] = b"mine"
    again = push()
    assert server.repos["me/shared"]["README.md"] == b"mine"
    assert again.notes == ["The repository keeps its README.md; --force replaces it."]
    push(force=True)
    assert b"# m" in server.repos["me/shared"]["README.md"]
    assert b"license" not in server.repos["me/shared"]["README.md"]


def test_a_wrong_name_of_a_repository_is_an_error_before_the_network(home: Path, server: Hub) -> None:
    for repo in (
        None,
        "me/shared",
        "hf://shared",
        "hf://me/../shared",
        "hf://me/a..b",
        "hf://me/shared@",
        "https://x/y",
    ):
        for command in (push, pull):
            with pytest.raises(
                NilrError, match="no repository is named" if repo is None else "is not a repo"
            ) as caught:
                command(repo)
            assert "hf://USER/REPO" in (caught.value.hint or "")
    assert server.requests == []


def test_what_is_missing_is_named(model: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NilrError, match="no model is named"):
        push(model=None)
    with pytest.raises(NilrError, match="no model `x`"):
        push(model="x")
    with pytest.raises(NilrError, match="names a revision"):
        push("hf://me/shared@main")
    with pytest.raises(NilrError, match="is not the name of a licence"):
        push(licence="do: what")
    assert server.requests == []
    with pytest.raises(NilrError, match="there is no repository `me/none`, or it is private"):
        pull("hf://me/none")
    server.repos["me/other"] = {"README.md": b"", "training.safetensors": b""}
    with pytest.raises(NilrError, match="`me/other` contains no model of nilr"):
        pull("hf://me/other")
    with pytest.raises(NilrError, match="`me/other` has no such revision"):
        pull("hf://me/other@v2")
    with pytest.raises(NilrError, match="is not a valid name of a model"):
        pull(name="a b")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(NilrError, match="Invalid username or password") as caught:
        push()
    assert "HF_TOKEN" in (caught.value.hint or "")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(NilrError, match="needs a token") as caught:
        push()
    assert "hf auth login" in (caught.value.hint or "")


def test_without_a_network_it_is_one_error(model: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between retries
    for command in (push, pull):
        with pytest.raises(NilrError, match="the Hugging Face Hub cannot be reached") as caught:
            command()
        assert "\n" not in caught.value.message


def test_without_the_package_it_is_one_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for command in (push, pull):
        with pytest.raises(NilrError, match="huggingface_hub is not installed") as caught:
            command()
        assert caught.value.hint == "install it: pip install 'nilr[hub]'"


def test_a_damaged_or_foreign_file_of_a_repository_is_not_imported(model: Path, home: Path, server: Hub) -> None:
    push()
    content = server.repos["me/shared"]["last.safetensors"]
    server.repos["me/shared"]["last.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(NilrError, match="is damaged"):
        pull()
    assert not (home / "models" / "shared").exists()
    (model / "best.safetensors").write_bytes(b"x")
    with pytest.raises(NilrError, match="is not a safetensors file"):
        push("hf://me/damaged")
    assert "me/damaged" not in server.repos
