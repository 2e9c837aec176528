"""From sources of every layout to a checked pack. Images are 8 px, lossless, each with pixels of its own."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nilr.config.packs import PrepareDataSettings
from nilr.data.pack import open_pack
from nilr.data.sources.datasets import published
from nilr.errors import DataError, NilrError, StoreError, UsageError
from nilr.recipes import prepare_data
from nilr.reporting import SilentReporter
from nilr.results.commands import PrepareDataMetrics
from nilr.results.result import Result
from nilr.store import Store
from tests.recipes.listening import Listening

Tree = dict[str, bytes]

# Two train classes, one val, one test, of the published split.
CLASSES = {"train": ("n01532829", "n01558993"), "val": ("n01855672",), "test": ("n01930112",)}
PER_CLASS = 3


def png(number: int, size: tuple[int, int] = (8, 8)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def images() -> dict[tuple[str, str, int], bytes]:
    """Return an encoded image for each (split, class, index from 1)."""
    keys = [(split, c, i) for split, classes in CLASSES.items() for c in classes for i in range(1, PER_CLASS + 1)]
    return {key: png(number) for number, key in enumerate(keys)}


def ravi_name(class_name: str, index: int) -> str:
    return f"{class_name}{index:08d}.jpg"


def tables() -> Tree:
    rows = {split: ["filename,label"] for split in CLASSES}
    for split, c, i in images():
        rows[split].append(f"{ravi_name(c, i)},{c}")
    return {f"{split}.csv": "\n".join(lines).encode() for split, lines in rows.items()}


def split_folders() -> Tree:
    return {f"{split}/{c}/{ravi_name(c, i)}": data for (split, c, i), data in images().items()}


def class_folders() -> Tree:
    return {f"some/{c}/{i}.png": data for (_, c, i), data in images().items()}


def flat_with_tables() -> Tree:
    return {f"images/{ravi_name(c, i)}": data for (_, c, i), data in images().items()} | tables()


def flat_without_tables() -> Tree:
    return {f"images/{ravi_name(c, i)}": data for (_, c, i), data in images().items()}


def tiny_imagenet_like() -> Tree:
    return {f"{split}/{c}/images/{c}_{i}.JPEG": data for (split, c, i), data in images().items()}


def class_tars() -> Tree:
    return {
        f"{c}.tar": tar_bytes({f"{c}_{i * 7}.JPEG": data for (_, k, i), data in images().items() if k == c})
        for classes in CLASSES.values()
        for c in classes
    }


LAYOUTS = [
    split_folders,
    class_folders,
    flat_with_tables,
    flat_without_tables,
    tiny_imagenet_like,
    class_tars,
]


def tar_bytes(tree: Tree, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def as_folder(tree: Tree, at: Path) -> Path:
    for name, content in tree.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(content)
    return at


def as_tar(tree: Tree, at: Path) -> Path:
    at.write_bytes(tar_bytes(tree))
    return at


def as_tar_gz(tree: Tree, at: Path) -> Path:
    # Images of different classes lie interleaved, as they may in an archive.
    at.write_bytes(tar_bytes(dict(sorted(tree.items(), key=lambda item: item[0][::-1])), "w:gz"))
    return at


def as_zip(tree: Tree, at: Path) -> Path:
    with zipfile.ZipFile(at, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    return at


@pytest.fixture
def pack(home: Path) -> Callable[..., Result[PrepareDataMetrics]]:
    def run(*sources: Path, reporter: SilentReporter | None = None, **settings: object) -> Result[PrepareDataMetrics]:
        given = {"name": "mine", "image_size": 8, "workers": 2, **settings}
        return prepare_data.run(PrepareDataSettings(sources=sources, **given), reporter or SilentReporter())

    return run


Pack = Callable[..., Result[PrepareDataMetrics]]


@pytest.mark.parametrize("hold", [as_folder, as_tar, as_tar_gz, as_zip])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_the_same_pixels_gives_the_same_digest(
    layout: Callable[[], Tree], hold: Callable[[Tree, Path], Path], tmp_path: Path, pack: Pack
) -> None:
    result = pack(hold(layout(), tmp_path / "source"))
    counts = {split: (n.classes, n.images) for split, n in result.metrics.splits.items()}
    assert counts == {"train": (2, 6), "val": (1, 3), "test": (1, 3)}
    reference = pack(as_folder(split_folders(), tmp_path / "reference"), name="reference")
    assert result.data is not None
    assert reference.data is not None
    assert result.data.digest == reference.data.digest


def test_three_archives_named_after_their_splits_are_one_source(tmp_path: Path, pack: Pack) -> None:
    archives = []
    for split in CLASSES:
        inside = {name.partition("/")[2]: data for name, data in split_folders().items() if name.startswith(split)}
        archives.append(as_tar(inside, tmp_path / f"{split}.tar"))
    assert pack(*archives).metrics.splits["train"].images == 6


def test_a_folder_of_archives_is_read_through_them(tmp_path: Path, pack: Pack) -> None:
    as_folder({"README.md": b"read me"} | class_tars(), tmp_path / "source")
    packed = pack(tmp_path / "source")
    assert packed.metrics.splits["train"].images == 6
    assert packed.notes == ["skipped 1 file other than images: `source/README.md` (a text file)"]


def test_the_pack_holds_the_pixels_and_names_of_the_images(tmp_path: Path, home: Path, pack: Pack) -> None:
    pack(as_folder(split_folders(), tmp_path / "source"))
    test = open_pack(Store().dataset_path("mine")).open_split("test")
    expected = {
        ravi_name(c, i): np.asarray(Image.open(io.BytesIO(data)))
        for (split, c, i), data in images().items()
        if split == "test"
    }
    packed = dict(zip(test.filenames(), test.images, strict=True))
    assert test.class_names == ("n01930112",)
    assert packed.keys() == expected.keys()
    assert all(np.array_equal(packed[name], expected[name]) for name in expected)


def test_split_files_may_lie_beside_the_source_or_be_given(tmp_path: Path, pack: Pack) -> None:
    # The third image of each class is in no split file.
    rows = {name: b"\n".join(content.split(b"\n")[:3]) for name, content in tables().items()}
    source = as_folder({f"all/{c}-{i}.png": d for (_, c, i), d in images().items()}, tmp_path / "here" / "source")
    renamed = {
        name: content.replace(b"00000001.jpg", b"-1.png").replace(b"00000002.jpg", b"-2.png")
        for name, content in rows.items()
    }
    as_folder(renamed, tmp_path / "here")
    as_folder(renamed, tmp_path / "there")
    assert pack(source).metrics.splits["train"].images == 2
    assert pack(source, name="given", split_files=tmp_path / "there").metrics.splits["val"].images == 2


def test_ilsvrc_images_are_counted_off_in_the_order_of_their_numbers(tmp_path: Path, home: Path, pack: Pack) -> None:
    # By number the third of 4, 30, 100, 2000 is 100; by text it would be 30.
    names = {number: png(number) for number in (4, 30, 100, 2000)}
    tree = {f"{c}/{c}_{n}.JPEG": data for c in ("n01532829", "n01855672", "n01930112") for n, data in names.items()}
    rows = {"train": "n01532829", "val": "n01855672", "test": "n01930112"}
    table = {f"{s}.csv": f"filename,label\n{ravi_name(c, 3)},{c}\n".encode() for s, c in rows.items()}
    pack(as_folder(tree, tmp_path / "source"), split_files=as_folder(table, tmp_path / "tables"))
    for split, class_name in rows.items():
        opened = open_pack(Store().dataset_path("mine")).open_split(split)
        assert opened.filenames() == [f"{class_name}_100.JPEG"]


def test_an_image_that_a_split_file_names_must_be_there(tmp_path: Path, pack: Pack) -> None:
    tree = flat_with_tables()
    del tree["images/n0153282900000002.jpg"]
    with pytest.raises(DataError, match=r"lack 1 image of the split files .* `n0153282900000002\.jpg`"):
        pack(as_folder(tree, tmp_path / "source"))


def test_folders_that_divide_every_class_are_replaced_by_the_published_split(tmp_path: Path, pack: Pack) -> None:
    # As in archives whose train/ and val/ hold 500 and 100 images of each of the same classes.
    tree = {f"{'val' if i == 3 else 'train'}/{c}/{i}.png": data for (_, c, i), data in images().items()}
    result = pack(as_folder(tree, tmp_path / "source"))
    assert {split: n.images for split, n in result.metrics.splits.items()} == {"train": 6, "val": 3, "test": 3}
    assert result.metrics.warnings[0] == (
        "the published split of Mini-ImageNet (Ravi and Larochelle) is used, because the folders of the sources "
        "divide 4 classes between splits"
    )


def test_other_classes_are_drawn_by_seed(tmp_path: Path, pack: Pack) -> None:
    source = as_folder(
        {f"{c}/{i}.png": png(10 * i + n) for n, c in enumerate("abcdef") for i in range(2)}, tmp_path / "s"
    )
    results = [pack(source, split_classes="3/1/2", seed=seed, force=True) for seed in (0, 0, 1, 2, 3)]
    assert {split: n.classes for split, n in results[0].metrics.splits.items()} == {"train": 3, "val": 1, "test": 2}
    digests = [result.data.digest for result in results if result.data]
    assert digests[0] == digests[1]
    assert len(set(digests)) > 1


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({f"{c}/x.png": png(0) for c in "abc"}, "the split of the 3 classes .* is unknown"),
        ({f"{s}/{c}/{s}.png": png(0) for c in "ab" for s in ("train", "test")}, "several splits share 2 classes"),
        ({"train/x.png": png(0)}, "1 image without class folders: `source/train`"),
    ],
)
def test_an_unknown_split_or_class_is_refused(tree: Tree, message: str, tmp_path: Path, pack: Pack) -> None:
    with pytest.raises(DataError, match=message) as caught:
        pack(as_folder(tree, tmp_path / "source"))
    assert caught.value.hint


def test_a_pack_named_mini_imagenet_must_have_its_counts(tmp_path: Path, pack: Pack) -> None:
    source = as_folder(split_folders(), tmp_path / "source")
    found = "train 2 classes, 6 images; val 1 class, 3 images; test 1 class, 3 images"
    with pytest.raises(DataError, match=f"64/16/20 classes with 38,400/9,600/12,000 images: found {found}"):
        pack(source, name=None)
    assert pack(source, name=None, limit_per_class=2).metrics.splits["train"].images == 4


@pytest.mark.parametrize(("source", "name"), [("photos", "photos"), ("My photos (2).tar", "My-photos-2")])
def test_other_images_are_packed_under_the_name_of_their_source(
    source: str, name: str, tmp_path: Path, pack: Pack
) -> None:
    tree = {f"{c}/{i}.png": png(i) for i, c in enumerate("abc")}
    hold = as_tar if source.endswith(".tar") else as_folder
    result = pack(hold(tree, tmp_path / source), name=None, split_classes="1/1/1")
    assert result.data is not None
    assert result.data.name == result.config["name"] == name


@pytest.mark.parametrize("sources", [("train",), ("one", "two")])
def test_sources_without_a_name_of_their_own_need_one(sources: tuple[str, ...], tmp_path: Path, pack: Pack) -> None:
    folders = [as_folder({f"{c}{s}/x.png": png(i) for i, c in enumerate("abc")}, tmp_path / s) for s in sources]
    with pytest.raises(DataError, match="the images are not a known data set, so the pack needs a name") as caught:
        pack(*folders, name=None, split_classes="1/1/1")
    assert "--name" in (caught.value.hint or "")


def test_classes_outside_mini_imagenet_are_not_dropped_from_another_dataset(tmp_path: Path, pack: Pack) -> None:
    tree = {f"{s}/{c}/x.png": png(i) for i, (s, c) in enumerate({"train": "cat", "val": "n99999999"}.items())}
    source = as_folder(tree | {"test/dog/x.png": png(9)}, tmp_path / "birds")
    with pytest.raises(DataError, match="1 class, such as n99999999, outside Mini-ImageNet"):
        pack(source, name=None)
    assert pack(source).metrics.splits["val"].classes == 1


def test_limit_per_class_takes_the_first_by_name(tmp_path: Path, home: Path, pack: Pack) -> None:
    pack(as_tar_gz(split_folders(), tmp_path / "source.tar.gz"), limit_per_class=2)
    val = open_pack(Store().dataset_path("mine")).open_split("val")
    assert sorted(val.filenames()) == ["n0185567200000001.jpg", "n0185567200000002.jpg"]


def test_unreadable_images_are_reported_by_kind_and_nothing_is_packed(tmp_path: Path, home: Path, pack: Pack) -> None:
    tree = split_folders()
    tree["val/n01855672/n0185567200000002.jpg"] = b"<!DOCTYPE html><html></html>"
    for number, length in (1, 60), (2, 70):
        tree[f"train/n01558993/n015589930000000{number}.jpg"] = png(3)[:length]
    source, notes = as_folder(tree, tmp_path / "source"), Listening()
    with pytest.raises(DataError, match="not all images can be read: ") as caught:
        pack(source, reporter=notes)
    assert "--skip-broken" in (caught.value.hint or "")
    kinds = caught.value.message.partition(": ")[2].split("; ")
    assert len(kinds) == 2
    assert kinds[0].startswith("`source/train/n01558993/n0155899300000001.jpg` cannot be decoded (")
    assert kinds[0].endswith(" (and 1 more file)")
    assert kinds[1] == "`source/val/n01855672/n0185567200000002.jpg` is not an image but an HTML page"
    assert list((home / "datasets").iterdir()) == []

    (source / "train" / "n01558993" / "more.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    (source / "train" / "n01558993" / "gone.jpg").symlink_to("nowhere")
    result = pack(source, skip_broken=True, min_images=3, reporter=notes)
    assert {split: n.images for split, n in result.metrics.splits.items()} == {"train": 4, "val": 2, "test": 3}
    assert result.metrics.skipped == [
        "source/train/n01558993/gone.jpg",
        "source/train/n01558993/more.7z",
        "source/train/n01558993/n0155899300000001.jpg",
        "source/train/n01558993/n0155899300000002.jpg",
        "source/val/n01855672/n0185567200000002.jpg",
    ]
    warning = result.metrics.warnings[-2]
    assert warning.startswith(
        "skipped 5 unreadable files: `source/train/n01558993/gone.jpg` is a link to a missing file; "
    )
    assert warning in notes.notes
    assert "fewer than 3 images in `n01558993` (1), `n01855672` (2)" in result.metrics.warnings[-1]


def test_data_after_a_gzip_is_a_warning_of_the_pack(tmp_path: Path, pack: Pack) -> None:
    source = as_tar_gz(split_folders(), tmp_path / "source.tar.gz")
    digest = pack(source).data.digest  # type: ignore[union-attr]
    source.write_bytes(source.read_bytes() + b"garbage")
    result = pack(source, name="again")
    assert f"ignored data after the end of the gzip file `{source}`" in result.metrics.warnings
    assert result.data is not None
    assert result.data.digest == digest


def test_equal_pixels_are_found_within_and_across_splits(tmp_path: Path, pack: Pack) -> None:
    tree = split_folders()
    tree["train/n01532829/n0153282900000002.jpg"] = tree["train/n01532829/n0153282900000001.jpg"]
    tree["val/n01855672/n0185567200000003.jpg"] = tree["train/n01558993/n0155899300000001.jpg"]
    pairs = [
        (("train", "n01532829", "n0153282900000001.jpg"), ("train", "n01532829", "n0153282900000002.jpg")),
        (("train", "n01558993", "n0155899300000001.jpg"), ("val", "n01855672", "n0185567200000003.jpg")),
    ]
    notes = Listening()
    packed = pack(as_folder(tree, tmp_path / "source"), reporter=notes)
    checked = pack(name=None, verify=Path("mine"))
    for result in (packed, checked):
        found = [tuple((i.split, i.class_name, i.filename) for i in pair) for pair in result.metrics.duplicate_pairs]
        assert found == pairs
    assert not any("identical" in note for note in notes.notes)  # the result lists them
    assert packed.data == checked.data
    assert packed.metrics.splits == checked.metrics.splits


def test_verify_takes_a_file_by_any_path(
    tmp_path: Path, home: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(as_folder(split_folders(), tmp_path / "source"))
    shutil.copy(Store().dataset_path("mine"), tmp_path / "copy.h5")
    monkeypatch.chdir(tmp_path)
    for path in ("copy.h5", "./copy.h5", tmp_path / "copy.h5"):
        assert pack(name=None, verify=Path(path)).data == packed.data


def test_pickles_that_each_number_their_classes_from_0_do_not_share_classes(tmp_path: Path, pack: Pack) -> None:
    for split, classes in CLASSES.items():
        pixels = [np.asarray(Image.open(io.BytesIO(d))) for (s, _, _), d in images().items() if s == split]
        labels = [number for number, _ in enumerate(classes) for _ in range(PER_CLASS)]
        phase = "train_phase_train" if split == "train" else split
        path = tmp_path / "pickles" / f"miniImageNet_category_split_{phase}.pickle"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps({"data": np.stack(pixels), "labels": labels}))
    result = pack(tmp_path / "pickles")
    reference = pack(as_folder(split_folders(), tmp_path / "reference"), name="reference")
    assert result.data is not None
    assert reference.data is not None
    assert result.data.digest == reference.data.digest


def test_verify_finds_a_flipped_bit(tmp_path: Path, home: Path, pack: Pack) -> None:
    pack(as_folder(split_folders(), tmp_path / "source"))
    path = Store().dataset_path("mine")
    content = bytearray(path.read_bytes())
    pixels = np.asarray(Image.open(io.BytesIO(images()["test", "n01930112", 1]))).tobytes()
    content[content.index(pixels)] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"the images of split `test` .* have changed since they were written"):
        pack(name=None, verify=path)


def test_a_pack_is_replaced_only_by_force(tmp_path: Path, home: Path, pack: Pack) -> None:
    source = as_folder(split_folders(), tmp_path / "source")
    pack(source)
    before = Store().dataset_path("mine").read_bytes()
    with pytest.raises(StoreError, match="the pack `mine` already exists") as caught:
        pack(source)
    assert "--force" in (caught.value.hint or "")
    for force in (False, True):
        with pytest.raises(DataError, match="there is no `"):
            pack(tmp_path / "not there", force=force)
    assert Store().dataset_path("mine").read_bytes() == before
    assert pack(source, force=True, limit_per_class=1).metrics.splits["train"].images == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there is nothing to pack"),
        ({"synthetic": True, "verify": Path("x")}, "cannot be combined"),
        ({"sources": (Path("x"),), "synthetic": True}, "cannot be combined"),
        ({"sources": (Path("x"),), "split_files": Path("y"), "split_classes": "1/1/1"}, "cannot be combined"),
        ({"sources": (Path("x"),), "dataset": "cub", "split_classes": "1/1/1"}, "cannot be combined"),
        ({"synthetic": True, "cub_split": "140/30/30"}, "--synthetic generates RGB images of its own classes"),
        ({"synthetic": True, "dataset": "cub"}, "--synthetic generates RGB images of its own classes"),
        ({"sources": (Path(),), "split_classes": "1/2"}, "invalid numbers of train, val and test classes `1/2`"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, object], message: str, home: Path) -> None:
    with pytest.raises(UsageError, match=message):
        prepare_data.run(PrepareDataSettings(**settings), SilentReporter())
    assert not (home / "datasets").exists()


def test_the_result_names_no_directory(tmp_path: Path, pack: Pack) -> None:
    result = pack(as_folder(split_folders(), tmp_path / "source"))
    assert result.schema_ == "nilr/prepare-data/1"
    assert result.config["sources"] == ["source"]
    assert str(tmp_path) not in result.model_dump_json()


def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path: Path, home: Path, pack: Pack) -> None:
    for name in ("../../x.png", "/etc/x.png", "train/../../x.png", "C:\\x.png"):
        for hold in (as_tar, as_zip):
            with pytest.raises(DataError, match=r"has a member named .*x\.png.*, which leads out of the archive"):
                pack(hold({name: png(0)}, tmp_path / "bad"))
    assert not list((home / "datasets").glob("*"))


def test_generated_images_are_packed_under_their_own_name(home: Path) -> None:
    def run(**settings: object) -> Result[PrepareDataMetrics]:
        return prepare_data.run(
            PrepareDataSettings(synthetic=True, image_size=16, limit_per_class=2, force=True, **settings), Listening()
        )

    result = run()
    assert result.data is not None
    assert (result.data.name, result.data.image_size) == ("synthetic", 16)
    counts = {split: (n.classes, n.images) for split, n in result.metrics.splits.items()}
    assert counts == {"train": (64, 128), "val": (16, 32), "test": (20, 40)}
    assert result.metrics.duplicate_pairs == []
    again, other = run(), run(seed=1)
    assert again.data == result.data
    assert other.data != result.data


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_archives_give_the_known_pack(mini_imagenet: Path, tmp_path: Path, home: Path) -> None:
    sources = tuple(mini_imagenet / f"{split}.tar" for split in ("train", "val", "test"))
    result = prepare_data.run(PrepareDataSettings(sources=sources), SilentReporter())
    counts = {split: (n.classes, n.images) for split, n in result.metrics.splits.items()}
    assert counts == {"train": (64, 38400), "val": (16, 9600), "test": (20, 12000)}
    pairs = result.metrics.duplicate_pairs
    assert len(pairs) == 8
    assert sum({a.split, b.split} == {"train", "val"} for a, b in pairs) == 6
    assert result.data is not None
    assert result.data.digest == "7bb987ce5ccb61a05180febb70132550eba4ed6fd774272cd85ddbc8bdce5ed3"
    shutil.rmtree(home)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_images_flat_in_a_zip_with_the_split_files_give_the_digest_of_the_tars(
    mini_imagenet: Path, tmp_path: Path, pack: Pack
) -> None:
    flat: Tree = {}
    for split in ("val", "test"):
        with tarfile.open(mini_imagenet / f"{split}.tar") as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    flat[f"images/{Path(member.name).name}"] = file.read()
    for name in ("train.csv", "val.csv", "test.csv"):
        flat[name] = (mini_imagenet / "splits" / name).read_bytes()
    common = {"image_size": 84, "limit_per_class": 20}
    tars = pack(mini_imagenet / "val.tar", mini_imagenet / "test.tar", **common)
    zipped = pack(as_zip(flat, tmp_path / "flat.zip"), name="zipped", **common)
    assert tars.data is not None
    assert zipped.data is not None
    assert tars.data.digest == zipped.data.digest
    assert len(zipped.metrics.warnings) == 1
    assert zipped.metrics.warnings[0].startswith("the sources lack 64 classes of the split files: n01532829, ")


def test_any_invalid_source_gives_a_nilr_error(tmp_path: Path, pack: Pack) -> None:
    for content in (b"", b"\0" * 600, b"\0" * 10240, b"<html>", b"PK\3\4", b"\x1f\x8b\x08", b"\x80\x04.", b"x" * 2000):
        (tmp_path / "source").write_bytes(content)
        with pytest.raises(NilrError, match=r"`.*source`"):
            pack(tmp_path / "source")


def pickles_of(tree: Tree) -> Tree:
    """Return the three cache pickles of a tree of split folders, with the pixels that Pillow decodes."""
    held: dict[str, tuple[list[np.ndarray], dict[str, list[int]]]] = {split: ([], {}) for split in CLASSES}
    for name, data in sorted(tree.items()):
        split, class_name, _ = name.split("/")
        images, members = held[split]
        members.setdefault(class_name, []).append(len(images))
        images.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)))
    return {
        f"data/mini-imagenet-cache-{split}.pkl": pickle.dumps({"image_data": np.stack(images), "class_dict": members})
        for split, (images, members) in held.items()
    }


@pytest.mark.parametrize("hold", [as_folder, as_tar, as_tar_gz, as_zip])
def test_pickles_in_an_archive_are_read_as_beside_it(
    hold: Callable[[Tree, Path], Path], tmp_path: Path, pack: Pack
) -> None:
    pickles = hold(pickles_of(split_folders()), tmp_path / "archive")
    result = pack(pickles / "data" if hold is as_folder else pickles)
    reference = pack(as_folder(split_folders(), tmp_path / "reference"), name="reference")
    assert result.data is not None
    assert reference.data is not None
    assert result.data.digest == reference.data.digest


def test_a_dangerous_pickle_in_an_archive_is_refused_with_its_name(tmp_path: Path, pack: Pack) -> None:
    archive = as_zip({"cache-train.pkl": b"cos\nsystem\n(S'true'\ntR."}, tmp_path / "archive.zip")
    with pytest.raises(DataError, match=r"cache-train\.pkl` contains `os"):
        pack(archive)


def test_what_sources_share_is_named(tmp_path: Path, pack: Pack) -> None:
    one = {
        "train/n00000001/1.png": png(1),
        "train/n00000001/2.png": png(2),
        "val/n00000002/1.png": png(3),
        "test/cow/1.png": png(4),
    }
    two = {
        "train/n00000001/3.png": png(5),
        "train/bee/1.png": png(4),
        "train/n00000001/1.png": png(1),
        "val/n00000002/2.png": png(3),
    }
    listening = Listening()
    metrics = pack(as_folder(one, tmp_path / "one"), as_tar(two, tmp_path / "two.tar"), reporter=listening).metrics
    assert metrics.shared_classes == {"n00000001": ["one", "two"], "n00000002": ["one", "two"]}
    assert "2 classes have images in several sources: `n00000001` (one, two), `n00000002` (one, two)" in listening.notes
    across = [(str(a), str(b)) for a, b in metrics.pairs_across_sources]
    assert across == [
        ("test/cow/1.png", "train/bee/1.png"),
        ("train/n00000001/1.png", "train/n00000001/1.png"),
        ("val/n00000002/1.png", "val/n00000002/2.png"),
    ]
    assert any(
        note.startswith("3 pairs of equal images in different sources: test/cow/1.png") for note in listening.notes
    )
    alone = pack(as_folder(one | {"train/n00000001/3.png": png(1)}, tmp_path / "one"), name="one").metrics
    assert len(alone.duplicate_pairs) == 1
    assert (alone.shared_classes, alone.pairs_across_sources) == ({}, [])


def test_classes_that_have_only_numbers_are_not_left_out_by_them(tmp_path: Path, pack: Pack) -> None:
    source = tmp_path / "one.npz"
    np.savez(source, images=np.zeros((4, 8, 8, 3), np.uint8), labels=[0, 0, 1, 1])
    pack(source, name="one", split_classes="2/0/0")
    with pytest.raises(DataError, match="the classes of `one` have only numbers, such as `class000`"):
        pack(source, split_classes="2/0/0", exclude_classes_of=("one",))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": [-1, -1, 0, 0]}, "labels contains -1, which is the label of no class"),
        ({"labels": [0.0, 0.0, 1.0, 1.0]}, "labels contains values that are not integers: float"),
        ({}, "contains an array, not images with labels"),
    ],
)
def test_arrays_without_labels_of_classes_are_an_error(
    arrays: dict[str, Any], message: str, tmp_path: Path, pack: Pack
) -> None:
    np.savez(tmp_path / "one.npz", images=np.zeros((4, 3, 8, 8), np.uint8), **arrays)
    with pytest.raises(DataError, match=message):
        pack(tmp_path / "one.npz", split_classes="2/0/0")


def test_classes_of_another_pack_are_left_out(tmp_path: Path, home: Path, pack: Pack) -> None:
    names = "abcdefgh"
    pack(as_folder({f"train/{c}/1.png": png(i) for i, c in enumerate("agx")}, tmp_path / "seen"), name="seen")
    pack(as_folder({"val/c/1.png": png(9)}, tmp_path / "tuned"), name="tuned")
    source = as_folder({f"all/{c}/1.png": png(i) for i, c in enumerate(names)}, tmp_path / "source")
    excluded = {"exclude_classes_of": ("seen", str(home / "datasets" / "tuned.h5"))}
    result = pack(source, split_classes="3/1/1", **excluded)
    packed = open_pack(home / "datasets" / "mine.h5")
    left = [name for split in packed.splits for name in packed.open_split(split).class_names]
    assert sorted(left) == ["b", "d", "e", "f", "h"]
    assert result.metrics.excluded_classes == ["a", "g", "c"]
    assert result.config["exclude_classes_of"] == ["seen", "tuned.h5"]
    assert "left out 2 classes of `seen` (--exclude-classes-of): a, g" in result.notes
    assert "left out 1 class of `tuned` (--exclude-classes-of): c" in result.notes
    tables = {
        f"{s}.csv": f"filename,label\n1.png,{c}\n".encode() for s, c in {"train": "b", "val": "c", "test": "a"}.items()
    }
    by_table = pack(source, split_files=as_folder(tables, tmp_path / "tables"), name="by-table", **excluded)
    assert by_table.metrics.splits.keys() == {"train"}
    with pytest.raises(DataError, match="all 1 class of the sources are classes of `seen` or `tuned`"):
        pack(tmp_path / "tuned", name="none", **excluded)


def test_another_data_set_than_the_requested_one_is_named(tmp_path: Path, pack: Pack) -> None:
    characters = {f"{c}/1.png": png(0) for c in published("omniglot").split_of}
    source = as_folder(characters, tmp_path / "omniglot")
    with pytest.raises(DataError, match="these are not the classes of CIFAR-FS but Omniglot") as caught:
        pack(source, dataset="cifar-fs")
    assert caught.value.hint == "use --dataset omniglot"
    for number, name in enumerate(("train", "test")):  # as in CIFAR-100, but of other classes
        content = {b"data": np.full((4, 3072), number, np.uint8), b"fine_labels": [0, 0, 1, 1]}
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"ape", b"bee"]}, 2))
    tree = {name: (tmp_path / name).read_bytes() for name in ("train", "test", "meta")}
    with pytest.raises(DataError, match="these are not the classes of Omniglot but others: ape, bee"):
        pack(as_tar_gz(tree, tmp_path / "cifar-100-python.tar.gz"), dataset="omniglot")
