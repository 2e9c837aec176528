"""`nilr data`: what packs contain and share, seen from the command line."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nilr.cli.boundary import run
from nilr.data.pack import PackInfo, open_pack
from nilr.data.pack_writer import PackWriter
from nilr.data.sources.datasets import published
from nilr.episodes import EpisodeSampler
from nilr.recipes.common.packs import open_split
from nilr.store import Store
from tests.cli.screens import Terminal

Layout = Mapping[str, Mapping[str, np.ndarray]]


def pixels(seed: int, n: int = 1, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, channels), dtype=np.uint8)


def write(home: Path, name: str, layout: Layout) -> Path:
    path = home / "datasets" / f"{name}.h5"
    first = next(iter(next(iter(layout.values())).values()))
    info = PackInfo(name, first.shape[1], "bilinear", "made in a test", "none", channels=first.shape[3])
    sizes = {split: {c: len(images) for c, images in classes.items()} for split, classes in layout.items()}
    with PackWriter.create(path, info, sizes) as writer:
        for split, classes in layout.items():
            for c, images in classes.items():
                writer.write_class(split, c, images, [f"{i}.png" for i in range(len(images))])
    return path


@pytest.fixture
def two(home: Path) -> None:
    """Pack `a` and `b`, which share the classes n00000001 and cat, and two pictures, one of them twice in `b`."""
    common = pixels(99, 2)
    write(
        home,
        "a",
        {
            "train": {
                "n00000001": pixels(0, 3),
                "dog": np.concatenate([pixels(1, 2), common[:1]]),
                "class000": pixels(2),
            },
            "test": {"cat": np.concatenate([pixels(3, 2), common[1:]])},
        },
    )
    write(
        home,
        "b",
        {
            "train": {"cat": np.concatenate([common, common[:1]]), "class000": pixels(4)},
            "val": {"n00000001": pixels(5, 2)},
        },
    )


def compared(capsys: pytest.CaptureFixture[str], a: str, b: str) -> dict[tuple[str, str], tuple[list[str], int | None]]:
    assert run(["-q", "data", "compare", a, b, "--json", "-"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    return {(split["a"], split["b"]): (split["classes"], split["images"]) for split in metrics["splits"]}


@pytest.mark.usefixtures("two")
def test_compare_counts_shared_classes_and_pictures_by_split(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert compared(capsys, "a", "b") == {
        ("train", "train"): ([], 1),
        ("train", "val"): (["n00000001"], 0),
        ("test", "train"): (["cat"], 1),
        ("test", "val"): ([], 0),
    }
    assert run(["data", "compare", "a", str(home / "datasets" / "b.h5")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[3] == ["test", "train", "1", "1"]
    assert ["test,", "train:", "cat"] in rows
    assert any(re.fullmatch(r"test/cat/\d\.png = train/cat/\d\.png", " ".join(row)) for row in rows)
    write(home, "grey", {"train": {"cat": pixels(0, 1, 1)}})
    assert compared(capsys, "grey", "b")["train", "train"] == (["cat"], None)


def test_mini_and_tiered_imagenet_share_the_published_classes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mini-imagenet", "tiered-imagenet"):
        classes = published(name).classes
        black = np.zeros((1, 8, 8, 3), np.uint8)
        write(home, name, {split: dict.fromkeys(names, black) for split, names in classes.items()})
    found = compared(capsys, "mini-imagenet", "tiered-imagenet")
    assert len(found["train", "test"][0]) == 13
    assert len(found["test", "train"][0]) == 5
    assert {images for _, images in found.values()} == {1}


@pytest.mark.usefixtures("two")
def test_ls_lists_packs_and_names_a_damaged_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "datasets" / "bad.h5").write_bytes(b"<html>")
    assert run(["data", "ls"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:6] == ["a", "10", "3/0/1", "8", "px", "x"]
    assert rows[2][0] == "b"
    assert rows[3][0] == "bad"
    assert "is an HTML page, not a pack" in " ".join(rows[3])
    assert run(["-q", "data", "ls", "--json", "-"]) == 0
    first = json.loads(capsys.readouterr().out)["metrics"][0]
    assert first["images"] == {"train": 7, "test": 3}
    assert first["bytes"] == (home / "datasets" / "a.h5").stat().st_size
    assert first["digest"] == open_pack(home / "datasets" / "a.h5").info.digest


def test_ls_fits_80_columns(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "tiny-imagenet-without-mini", {"train": {"a": pixels(0)}})
    stdout = Terminal()
    monkeypatch.setattr("sys.stdout", stdout)
    assert run(["data", "ls"]) == 0
    text = re.sub("\x1b\\[[0-9;]*m", "", stdout.getvalue())
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"1/0/0 +8 px x 3 +[\d.]+ kB +\d+ s", text)


@pytest.mark.parametrize("channels", [3, 1])
def test_show_draws_the_images_of_the_pack(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], channels: int
) -> None:
    layout = {"train": {f"c{i}": pixels(i, 4, channels) for i in range(3)}, "test": {"d": pixels(9, 2, channels)}}
    path = write(home, "x", layout)
    assert run(["data", "show", "x", "--out", str(tmp_path), "--json", str(tmp_path / "x.json"), "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "made in a test" in out
    assert open_pack(path).info.digest in out
    card = json.loads((tmp_path / "x.json").read_text())["metrics"]
    assert card["splits"]["train"]["classes"] == {"c0": 4, "c1": 4, "c2": 4}
    assert card["pictures"] == ["x-classes.png", "x-episode.png"]
    # every image is in the contact sheet, 8 times as large
    sheet = np.asarray(Image.open(tmp_path / "x-classes.png"))
    expected = [image for classes in layout.values() for images in classes.values() for image in images]
    assert count_tiles(sheet, expected) == 14
    # the episode is the first one of a training: 3-way 1-shot, with 3 queries
    sampler = EpisodeSampler(open_split(path, "train", torch.device("cpu")).images, 3, 1, 3, 3, "train")
    episode = sampler.draw([0])[0]
    drawn = [(255 * x.permute(1, 2, 0)).round().byte().numpy() for x in (*episode.support_x, *episode.query_x)]
    assert count_tiles(np.asarray(Image.open(tmp_path / "x-episode.png")), drawn) == 12


def count_tiles(sheet: np.ndarray, images: list[np.ndarray]) -> int:
    """Count the images that are in a picture, each pixel as a square of 8 x 8."""
    content = sheet.tobytes()
    rows = (np.broadcast_to(image, (8, 8, 3)).repeat(8, 1) for image in images)
    return sum(row[0].tobytes() in content for row in rows)


@pytest.mark.parametrize("what", ["data", "models"])
def test_verify_of_an_empty_store_fails(what: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([what, "verify"]) == 1
    assert f"error: there is no {'pack' if what == 'data' else 'model'} in `{home}`\n" in capsys.readouterr().err


@pytest.mark.usefixtures("two")
def test_verify_names_the_damaged_pack_and_fails(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "verify"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [["a", "ok"], ["b", "ok"]]
    path = home / "datasets" / "b.h5"
    content = bytearray(path.read_bytes())
    content[content.index(pixels(4).tobytes())] ^= 1
    path.write_bytes(content)
    assert run(["data", "verify", "a", "b"]) == 1
    out, err = capsys.readouterr()
    assert "images of split `train`" in out.splitlines()[2]
    assert "error: 1 of 2 packs failed the check: `b`" in err


@pytest.mark.usefixtures("two")
def test_rm_asks_refuses_without_a_terminal_and_removes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = home / "datasets" / "a.h5"
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run(["data", "rm", "a"]) == 2
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", Terminal())
        assert run(["data", "rm", "a"]) == 1
    assert pack.exists()
    with Store(home).lock("a", kind="pack"):
        capsys.readouterr()
        assert run(["data", "rm", "--yes", "a"]) == 1
        assert "is in use by another process" in capsys.readouterr().err
    assert run(["data", "rm", "--yes", "a"]) == 0
    assert capsys.readouterr().err == "removed: a\n"
    assert not pack.exists()


@pytest.mark.parametrize("command", ["show", "verify", "rm --yes", "compare bird"])
def test_an_unknown_name_gets_the_nearest_one(home: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    write(home, "bird", {"train": {"a": pixels(0)}})
    assert run(["data", *command.split(), "birds"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: no pack `birds` in ")
    assert hint.startswith("hint: did you mean `bird`? known: bird; ")


@pytest.mark.usefixtures("home")
def test_an_empty_store_says_how_to_make_a_pack(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "ls"]) == 0
    assert "there is no pack in the store yet: make a pack with `nilr prepare-data" in capsys.readouterr().err
