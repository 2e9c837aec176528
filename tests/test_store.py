from __future__ import annotations

import errno
import fcntl
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch

from nilr.checkpoint import save_checkpoint
from nilr.errors import StoreError, UnknownNameError
from nilr.store import Store
from tests.training_states import write_state

BAD_NAMES = ["", ".", "..", ".hidden", "-x", "a b", "a\n", "a\0b", "x" * 101, "ü", "a:b", "~"]


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home)


def save(store: Store, name: str, checkpoint: str = "last", **change: object) -> Path:
    path = store.model_dir(name) / f"{checkpoint}.safetensors"
    origin: dict[str, Any] = {
        "architecture": {"name": "conv4", "arguments": {}},
        "algorithm": {"name": "maml"},
        "settings": {},
        "data": {"name": "synthetic", "digest": "ab", "image_size": 32},
        "outer_step": 1,
        "metrics": {},
        "engine": "reference",
        "parent": None,
    }
    save_checkpoint(path, params={"w": torch.ones(1)}, inner_lr={}, **origin | change)
    return path


def pack(store: Store, name: str) -> Path:
    path = store.dataset_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_the_home_is_the_argument_else_the_variable_else_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NILR_HOME", str(tmp_path / "variable"))
    assert Store(tmp_path / "argument").home == tmp_path / "argument"
    assert Store().home == tmp_path / "variable"
    monkeypatch.setenv("NILR_HOME", "")
    assert Store().home == platformdirs.user_data_path("nilr", appauthor=False)


def test_a_user_without_a_home_directory_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NILR_HOME", "HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)
    with pytest.raises(StoreError, match="this user has no home directory") as caught:
        Store()
    assert "--home or NILR_HOME" in str(caught.value.hint)


def test_the_home_stays_where_it_was_when_the_process_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store(Path("here")).home == tmp_path / "here"


def test_reading_a_store_does_not_create_it(store: Store) -> None:
    assert store.model_names() == []
    with pytest.raises(StoreError):
        store.find_data("mini-imagenet")
    with pytest.raises(StoreError):
        store.find_model(None)
    assert not store.home.exists()


@pytest.mark.parametrize("name", [*BAD_NAMES, "../x", "a/b", "/etc/passwd"])
def test_an_invalid_name_is_an_error_of_one_line(store: Store, name: str) -> None:
    for refuse in (store.dataset_path, store.model_dir, store.new_model_name, store.remove_model):
        with pytest.raises(StoreError, match="is not a valid name of a") as caught:
            refuse(name)
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 120
    with pytest.raises(StoreError, match="is not a valid name of a model"), store.lock(name):
        pass


@pytest.mark.parametrize("ref", BAD_NAMES)
def test_an_invalid_reference_is_an_error(store: Store, ref: str) -> None:
    for find in (store.find_data, store.find_model):
        with pytest.raises(StoreError, match="is not a valid name of a"):
            find(ref)


@pytest.mark.parametrize("name", ["a", "A-1", "maml.v2_x", "0" * 100])
def test_a_valid_name_is_accepted(store: Store, name: str) -> None:
    assert store.model_dir(name) == store.home / "models" / name
    assert store.dataset_path(name) == store.home / "datasets" / f"{name}.h5"


def test_data_is_found_by_name_and_by_path(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(store, "mini-imagenet")
    assert store.find_data("mini-imagenet") == path
    assert store.find_data(str(path)) == path
    monkeypatch.chdir(path.parent)
    assert store.find_data("./mini-imagenet.h5") == Path("mini-imagenet.h5")


def test_a_missing_pack_has_a_hint_how_to_make_it(store: Store) -> None:
    with pytest.raises(StoreError, match=re.escape(f"no pack `birds` in `{store.home}/datasets`")) as caught:
        store.find_data("birds")
    assert "nilr prepare-data" in (caught.value.hint or "")


def test_the_hint_for_a_missing_pack_lists_the_packs_in_the_store(store: Store) -> None:
    pack(store, "synthetic")
    pack(store, "cars")
    with pytest.raises(StoreError) as caught:
        store.find_data("birds")
    assert (caught.value.hint or "").startswith("known: cars, synthetic; or make a pack with `nilr prepare-data ")


def test_a_file_of_this_directory_named_like_a_dataset_is_pointed_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("birds.h5").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        store.find_data("birds.h5")
    assert "write `./birds.h5`" in (caught.value.hint or "")


def test_a_missing_path_is_named(store: Store, tmp_path: Path) -> None:
    for ref in (f"{tmp_path}/none.h5", str(tmp_path), f"{tmp_path}/{'x' * 300}"):
        with pytest.raises(StoreError) as caught:
            store.find_data(ref)
        assert str(tmp_path) in caught.value.message


def test_a_model_means_its_best_checkpoint_else_its_last(store: Store) -> None:
    last = save(store, "maml")
    found = store.find_model("maml")
    assert (found.name, found.checkpoint, found.file, found.directory) == ("maml", "last", last, last.parent)
    best = save(store, "maml", "best")
    assert (store.find_model("maml").checkpoint, store.find_model("maml").file) == ("best", best)
    assert store.find_model("maml@last").file == last
    assert store.find_model("maml@best").file == best


def test_a_checkpoint_that_is_not_there_names_the_one_that_is(store: Store) -> None:
    save(store, "maml")
    with pytest.raises(StoreError, match="model `maml` has no checkpoint `best`") as caught:
        store.find_model("maml@best")
    assert "`maml@last`" in (caught.value.hint or "")


def test_only_best_and_last_are_valid_after_the_at(store: Store) -> None:
    save(store, "maml")
    with pytest.raises(UnknownNameError, match="unknown checkpoint `first`") as caught:
        store.find_model("maml@first")
    assert caught.value.hint == "known: best, last"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("maml@", "`maml@` names no checkpoint after the `@`"),
        ("./maml@", "`./maml@` names no checkpoint after the `@`"),
        ("@best", "`@best` names no model before the `@`"),
        ("@first", "`@first` names no model before the `@`"),
        ("@", "`@` names no model before the `@`"),
    ],
)
def test_a_missing_part_of_a_reference_is_named(store: Store, ref: str, message: str) -> None:
    save(store, "maml")
    with pytest.raises(StoreError) as caught:
        store.find_model(ref)
    assert caught.value.message == message


def test_an_unknown_model_lists_the_known_ones(store: Store) -> None:
    save(store, "maml")
    save(store, "anil")
    with pytest.raises(StoreError, match=re.escape(f"no model `boil` in `{store.home}/models`")) as caught:
        store.find_model("boil")
    assert caught.value.hint == "known: anil, maml"


def test_an_unknown_name_among_many_has_a_short_hint_with_the_nearest(store: Store) -> None:
    for seed in range(300):
        store.new_model_name(f"cpu-maml-s{seed}")
        (store.home / "datasets").mkdir(exist_ok=True)
        store.dataset_path(f"photos-{seed}").touch()
    for find, ref, nearest, command in (
        (store.find_model, "cpu-mamls299", "cpu-maml-s299", "nilr models ls"),
        (store.find_data, "photo-299", "photos-299", "nilr data ls"),
        (lambda ref: store.matching_models([ref]), "cpu-mamls299*", "cpu-maml-s299", "nilr models ls"),
    ):
        with pytest.raises(StoreError) as caught:
            find(ref)
        hint = caught.value.hint or ""
        assert hint.startswith(f"did you mean `{nearest}`? the nearest of 300 names: {nearest}, ")
        assert f"; `{command}" in hint
        assert hint.count(nearest[:6]) == 11


def test_a_model_without_a_checkpoint_is_an_error(store: Store) -> None:
    store.new_model_name("maml")
    with pytest.raises(StoreError, match="model `maml` has no checkpoint yet"):
        store.find_model("maml")


def test_a_model_is_found_by_the_path_of_its_directory_or_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, best = save(store, "maml"), save(store, "maml", "best")
    assert store.find_model(str(last.parent)).file == best
    assert store.find_model(f"{last.parent}@last").file == last
    found = store.find_model(str(last))
    assert (found.name, found.checkpoint, found.file) == ("maml", "last", last)
    monkeypatch.chdir(last.parent)
    assert store.find_model("./last.safetensors").name == "maml"
    assert store.find_model("./").name == "maml"


def test_a_file_of_another_name_is_a_model_of_that_name(store: Store, tmp_path: Path) -> None:
    path = save(store, "maml").rename(tmp_path / "ours.safetensors")
    found = store.find_model(str(path))
    assert (found.name, found.checkpoint, found.file) == ("ours", "ours", path)
    with pytest.raises(StoreError, match="is a single checkpoint"):
        store.find_model(f"{path}@best")


def test_an_at_in_a_directorys_name_is_part_of_the_path(store: Store, tmp_path: Path) -> None:
    last = save(store, "maml")
    odd = tmp_path / "runs@best"
    last.parent.rename(odd)
    assert store.find_model(str(odd)).file == odd / "last.safetensors"
    assert store.find_model(str(odd / "last.safetensors")).file == odd / "last.safetensors"


def test_a_path_without_a_model_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "pack.h5").write_bytes(b"")
    for ref in (f"{tmp_path}/none", f"{tmp_path}/pack.h5", f"{tmp_path}/{'x' * 300}"):
        with pytest.raises(StoreError) as caught:
            store.find_model(ref)
        assert str(tmp_path) in caught.value.message
    with pytest.raises(StoreError, match="has no checkpoint yet"):
        store.find_model(str(tmp_path))


def test_the_default_model_is_the_latest_trained_one(store: Store) -> None:
    save(store, "zeta")
    save(store, "alpha")
    save(store, "alpha-adapted", parent={"name": "alpha", "digest": "ab"})
    store.new_model_name("maml")
    assert store.find_model(None).name == "alpha"
    save(store, "zeta")
    save(store, "alpha", "best")
    assert store.find_model(None).name == "zeta"


def test_the_default_model_is_found_beside_broken_ones(store: Store) -> None:
    save(store, "broken").write_bytes(b"broken")
    save(store, "maml")
    save(store, "cut").write_bytes(b"")
    (store.home / "models" / "file").write_bytes(b"")
    (store.home / "models" / "dangling").symlink_to("nowhere")
    assert store.find_model(None).name == "maml"


def test_without_any_trained_model_the_hint_is_to_train(store: Store) -> None:
    pack(store, "birds")
    command = f"`nilr meta-train --home {store.home}`"
    for expected in (f"train one with {command}", "they are adapted or unreadable: maml-adapted"):
        with pytest.raises(StoreError, match="there is no trained model in") as caught:
            store.find_model(None)
        assert expected in (caught.value.hint or "")
        save(store, "maml-adapted", parent={"name": "maml", "digest": "ab"})


def test_only_models_are_listed_in_order(store: Store) -> None:
    save(store, "b")
    save(store, "a")
    (store.home / "models" / ".tmp-0").mkdir()
    (store.home / "models" / "not a name").mkdir()
    (store.home / "models" / "file").write_bytes(b"")
    assert store.model_names() == ["a", "b"]


def test_fresh_names_count_up(store: Store) -> None:
    assert [store.new_model_name("maml") for _ in range(3)] == ["maml", "maml-2", "maml-3"]
    assert store.model_names() == ["maml", "maml-2", "maml-3"]


def test_a_fresh_name_of_the_longest_base_is_a_name(store: Store) -> None:
    assert store.new_model_name("x" * 100) == "x" * 100
    assert store.new_model_name("x" * 100) == "x" * 98 + "-2"


def test_processes_never_share_a_fresh_name(store: Store) -> None:
    code = "from nilr.store import Store\nfor _ in range(20): print(Store().new_model_name('maml'))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(names) == len(set(names)) == 60


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the model `maml`."""
    code = (
        "import time; from nilr.store import Store\n"
        "with Store().lock('maml'): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_model_in_use_can_be_neither_locked_nor_removed(store: Store, holder: subprocess.Popen[str]) -> None:
    path = save(store, "maml")
    with pytest.raises(StoreError, match="model `maml` is in use by another process"), store.lock("maml"):
        pass
    with pytest.raises(StoreError, match="model `maml` is in use by another process"):
        store.remove_model("maml")
    assert path.exists()
    with store.lock("anil"):
        pass


def test_a_killed_process_releases_its_lock(store: Store, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with store.lock("maml"):
        pass


def test_a_lock_is_released_after_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match="mine"), store.lock("maml"):
        raise ValueError("mine")
    with store.lock("maml"):
        pass


def test_a_removed_model_is_gone_and_its_name_free(store: Store) -> None:
    save(store, "maml")
    write_state(store.model_dir("maml") / "training.safetensors", {}, {})
    kept = save(store, "anil")
    store.remove_model("maml")
    assert list((store.home / "models").iterdir()) == [kept.parent]
    assert store.new_model_name("maml") == "maml"


def test_a_model_can_be_removed_while_its_file_is_read(store: Store) -> None:
    with save(store, "maml").open("rb") as handle:
        store.remove_model("maml")
        assert len(handle.read()) > 0


def test_removing_a_link_leaves_what_it_points_to(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    save(store, "maml").parent.rename(elsewhere)
    store.model_dir("linked").symlink_to(elsewhere)
    assert store.find_model("linked").name == "linked"
    store.remove_model("linked")
    assert (elsewhere / "last.safetensors").exists()
    (store.model_dir("holder")).mkdir()
    (store.model_dir("holder") / "inner").symlink_to(elsewhere)
    store.remove_model("holder")
    assert (elsewhere / "last.safetensors").exists()
    store.model_dir("dangling").symlink_to("nowhere")
    store.remove_model("dangling")
    assert store.model_names() == []


def test_removing_an_unknown_model_lists_the_known_ones(store: Store) -> None:
    save(store, "maml")
    with pytest.raises(StoreError, match="no model `boil`") as caught:
        store.remove_model("boil")
    assert caught.value.hint == "known: maml"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_store_that_cannot_be_written_is_one_clear_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, "The reason")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=r"cannot write `.*models`: the reason") as caught:
        store.new_model_name("maml")
    assert caught.value.hint
    with pytest.raises(StoreError, match=r"cannot lock `.*maml\.lock`: the reason"), store.lock("maml"):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_an_error_with_a_way_out(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "No locks available")

    path = save(store, "maml")
    monkeypatch.setattr("fcntl.flock", refuse)
    for use in (lambda: store.lock("maml").__enter__(), lambda: store.remove_model("maml")):
        with pytest.raises(StoreError, match=r"cannot lock `.*maml\.lock`: no locks available") as caught:
            use()
        assert "a place on a local disk with --home" in str(caught.value.hint)
    assert path.exists()
    assert not store.in_use("maml")


def test_a_model_is_in_use_while_a_process_holds_it(store: Store, holder: subprocess.Popen[str]) -> None:
    assert (store.in_use("maml"), store.in_use("anil")) == (True, False)
    holder.kill()
    holder.wait()
    assert not store.in_use("maml")


def test_looking_at_a_lock_does_not_keep_a_process_from_taking_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.lock("maml"):
        pass
    looking = (store.home / "locks" / "maml.lock").open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("time.sleep", lambda _: looking.close())
    with store.lock("maml"):
        assert looking.closed
        assert store.in_use("maml")


def test_a_file_in_the_place_of_the_store_is_one_clear_error(store: Store) -> None:
    store.home.write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write"):
        store.new_model_name("maml")
    with pytest.raises(StoreError, match="cannot lock"), store.lock("maml"):
        pass


def test_a_file_in_the_place_of_the_models_is_one_clear_error(store: Store) -> None:
    store.home.mkdir()
    (store.home / "models").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot write .*file exists"):
        store.new_model_name("maml")
    with pytest.raises(StoreError, match=r"cannot read .*not a directory"):
        store.model_names()


def test_results_get_fresh_paths_that_sort_by_time(store: Store) -> None:
    paths = [store.result_path("probe") for _ in range(50)]
    assert len(set(paths)) == 50
    assert {path.parent for path in paths} == {store.home / "results"}
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-probe-[0-9a-f]{12}\.json", path.name) for path in paths)


def test_the_file_of_a_probe_is_named_after_its_question(store: Store) -> None:
    assert re.fullmatch(
        r"\d{8}T\d{6}Z-probe-5_shot_euclidean-[0-9a-f]{12}\.json", store.result_path("probe", "5-shot, euclidean").name
    )
    assert not fnmatch.fnmatch(store.result_path("probe", "rates 0.1, 2 episodes").name, "*-rates-*")
    assert re.fullmatch(r"\d{8}T\d{6}Z-rates-[0-9a-f]{12}\.json", store.result_path("rates").name)
