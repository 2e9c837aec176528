"""No stored file holds an absolute path, a user name or a host name, except with --record-paths."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.faults.conftest import TRAIN, Nilr, check_store, draw_images, fresh

USER, HOST, PLACE = "quentin-telltale", "telltale-host", "his-secret-place"


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    """Return a directory whose path contains a user name, with a store and sources."""
    work = fresh(prepared, tmp_path / USER / PLACE / "work")
    draw_images(work / "own", splits={"": 3})
    for file in (work / "own").rglob("broken.png"):
        file.unlink()
    return work


def use_everything(nilr: Nilr, work: Path, *, more: str = "") -> list[Path]:
    """Run every measuring command with paths wherever possible, and return the files that they made."""
    before = set(work.rglob("*"))
    env = {"HOME": str(work.parents[1]), "USER": USER, "LOGNAME": USER, "HOST": HOST}
    pack, base, own = work / "home/datasets/mine.h5", work / "home/models/base", work / "own"
    lines = (
        f"prepare-data {work}/sources --name mine --image-size 16 --skip-broken",
        f"prepare-data --verify {pack}",
        f"{TRAIN} --name mine".replace("--data toy", f"--data {pack}"),
        f"adapt {base} --support {own} --query {own}/class0 --name by-path",
        f"adapt {base} --data {pack}",
        f"probe {base} {work}/home/models/mine/last.safetensors --data {pack} --n-episodes 3 --controls",
        f"rates {base} --data {pack}",
        f"models import {work}/copy --name again",
    )
    for i, line in enumerate(lines):
        nilr(f"{line} {more} --json {work}/copy-{i}.json", work, **env)
    return sorted(path for path in set(work.rglob("*")) - before if path.is_file())


def tells(file: Path) -> list[str]:
    words = [USER, HOST, PLACE]
    content = file.read_bytes()
    return [word for word in words if word.encode() in content or word in file.name]


def test_no_stored_file_names_a_user_a_host_or_a_path(nilr: Nilr, place: Path) -> None:
    made = use_everything(nilr, place)
    assert len(made) > 15
    assert {file.name: tells(file) for file in made if tells(file)} == {}
    check_store(place / "home")


def test_record_paths_records_them(nilr: Nilr, place: Path) -> None:
    use_everything(nilr, place, more="--record-paths")
    home = str(place / "home")
    paths = [json.loads((place / f"copy-{i}.json").read_text())["paths"] for i in range(8)]
    pack = f"{home}/datasets/mine.h5"
    assert [recorded["home"] for recorded in paths] == [home] * 8
    assert paths[0]["sources"] == [str(place / "sources")]
    assert paths[1]["verify"] == pack
    assert [recorded["data"] for recorded in (paths[2], *paths[4:7])] == [pack] * 4
    assert paths[3]["support"] == str(place / "own")
    assert paths[5]["models"] == [f"{home}/models/base", f"{home}/models/mine/last.safetensors"]
    assert paths[7]["sources"] == [str(place / "copy")]
    checkpoint = (place / "home/models/mine/last.safetensors").read_bytes()
    assert pack.encode() in checkpoint
    check_store(place / "home")


@pytest.mark.parametrize(("umask", "file", "directory"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_every_file_has_the_permissions_that_the_umask_leaves(
    nilr: Nilr, place: Path, umask: int, file: int, directory: int
) -> None:
    home = place / "another-home"
    env = {"NILR_HOME": str(home), "UMASK": oct(umask)}
    for line in (
        "prepare-data --synthetic --image-size 16 --limit-per-class 4 --name toy",
        f"{TRAIN} --name base",
        "adapt base",
        f"probe base --n-episodes 2 --json {home}/copy.json",
        "models import copy --name again",
    ):
        nilr(line, place, **env)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*")}
    wrong = {str(path): oct(mode) for path, mode in modes.items() if mode != (directory if path.is_dir() else file)}
    assert wrong == {}
