"""Sources in the forms in which data sets are published give the pack of the same images in class folders.

Fixtures are generated to the published layouts; test_real_data.py reads real files.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nilr.config.packs import PrepareDataSettings
from nilr.data.sources.datasets import published
from nilr.errors import DataError
from nilr.recipes import prepare_data
from nilr.reporting import SilentReporter
from nilr.results.commands import PrepareDataMetrics
from nilr.results.result import Result

SIZE, PER_CLASS = 32, 3
CLASSES = {"train": ("n01", "n02"), "val": ("n03",), "test": ("n04",)}
NAMES = [name for names in CLASSES.values() for name in names]
Pixels = Mapping[tuple[str, str], npt.NDArray[np.uint8]]
Write = Callable[[Path], list[Path]]


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """Return the images of each class, (n, 32, 32, 3)."""
    generator = np.random.default_rng(0)
    shape = (PER_CLASS, SIZE, SIZE, 3)
    return {(s, c): generator.integers(0, 256, shape, np.uint8) for s, names in CLASSES.items() for c in names}


def png(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def pack(sources: list[Path], home: Path, **settings: object) -> Result[PrepareDataMetrics]:
    given: dict[str, object] = {"name": "x", "image_size": SIZE, "workers": 1, "force": True, "home": home} | settings
    return prepare_data.run(PrepareDataSettings(sources=tuple(sources), **given), SilentReporter())


def digest(sources: list[Path], home: Path, **settings: object) -> str:
    data = pack(sources, home, **settings).data
    assert data is not None
    return data.digest


def class_folders(at: Path, pixels: Pixels, name: Callable[[str], str] = str) -> Path:
    for (split, class_name), images in pixels.items():
        for i, image in enumerate(images):
            file = at / split / name(class_name) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(image))
    return at


def of_split(pixels: Pixels, split: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Return the images of a split, and their labels as positions in `NAMES`, class by class in turn."""
    images = np.concatenate([pixels[split, name] for name in CLASSES[split]])
    labels = [NAMES.index(name) for name in CLASSES[split] for _ in range(PER_CLASS)]
    order = np.random.default_rng(1).permutation(len(labels))
    return images[order], [labels[i] for i in order]


def npz_with_pickled_labels(at: Path, pixels: Pixels) -> list[Path]:
    """Write tieredImageNet as the programs that use it keep it."""
    for split in CLASSES:
        images, labels = of_split(pixels, split)
        np.savez(at / f"{split}_images.npz", images=images)
        content = {
            "label_specific": np.array(labels),
            "label_general": np.zeros(len(labels)),
            "label_specific_str": NAMES,
        }
        (at / f"{split}_labels.pkl").write_bytes(pickle.dumps(content, 2))
    return [at]


def pickled_pngs(at: Path, pixels: Pixels) -> list[Path]:
    """Write tieredImageNet as its authors published it: lists of arrays that are PNG files."""
    for split in CLASSES:
        images, labels = of_split(pixels, split)
        encoded = [np.frombuffer(png(image), np.uint8) for image in images]
        (at / f"{split}_images_png.pkl").write_bytes(pickle.dumps(encoded, 2))
        content = {"label_specific": np.array(labels), "label_specific_str": np.array(NAMES)}
        (at / f"{split}_labels.pkl").write_bytes(pickle.dumps(content, 2))
    return sorted(at.iterdir())


def compressed_npz(at: Path, pixels: Pixels) -> list[Path]:
    """Write one file with an array of images and one of labels for each split."""
    values: dict[str, object] = {}
    for split in CLASSES:
        values[f"{split}_images"], labels = of_split(pixels, split)
        values[f"{split}_labels"] = np.array(labels).reshape(-1, 1)
    np.savez_compressed(at / "all.npz", class_names=np.array(NAMES), **values)  # type: ignore[arg-type]
    return [at / "all.npz"]


def npy_pairs(at: Path, pixels: Pixels) -> list[Path]:
    """Write `x_train.npy` beside `y_train.npy`, with names as labels, and channels first."""
    for split in CLASSES:
        images, labels = of_split(pixels, split)
        np.save(at / f"x_{split}.npy", np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        np.save(at / f"y_{split}.npy", np.array([NAMES[label] for label in labels]))
    return [at]


def parquet(at: Path, pixels: Pixels, *, struct: bool) -> list[Path]:
    """Write the files of a hub: two parts of each split, with the names of the classes in their metadata."""
    feature = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    for split in CLASSES:
        images, labels = of_split(pixels, split)
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
        encoded = [{"bytes": png(image), "path": None} if struct else png(image) for image in images]
        table = pa.table({"image": pa.array(encoded, kind), "label": pa.array(labels, pa.int64())}, metadata=None)
        table = table.replace_schema_metadata(metadata)
        name = {"val": "validation"}.get(split, split)
        for part, rows in enumerate((table.slice(0, 2), table.slice(2))):
            pq.write_table(rows, at / f"{name}-0000{part}-of-00002.parquet", row_group_size=2)
    return [at]


def zip_of_archives(at: Path, pixels: Pixels) -> list[Path]:
    """Write a zip that contains a zip, a tar and a compressed tar, one for each split."""
    folder = class_folders(at / "tree", pixels)
    with zipfile.ZipFile(at / "all.zip", "w", zipfile.ZIP_DEFLATED) as outer:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted((folder / "train").rglob("*.png"), reverse=True):
                archive.write(file, file.relative_to(folder / "train"))
        outer.writestr("set/train.zip", inner.getvalue())
        for split, mode in {"val": "w", "test": "w:gz"}.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode=mode) as tar:  # type: ignore[call-overload]
                tar.add(folder / split, split)
            outer.writestr(f"set/{split}.tar{'.gz' if mode == 'w:gz' else ''}", inner.getvalue())
    return [at / "all.zip"]


FORMS: dict[str, Callable[[Path, Pixels], list[Path]]] = {
    "npz with pickled labels": npz_with_pickled_labels,
    "pickled PNG files": pickled_pngs,
    "compressed npz": compressed_npz,
    "npy": npy_pairs,
    "Parquet with structs": lambda at, pixels: parquet(at, pixels, struct=True),
    "Parquet with bytes": lambda at, pixels: parquet(at, pixels, struct=False),
    "zip of archives": zip_of_archives,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_digest_of_class_folders(form: str, pixels: Pixels, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    sources = FORMS[form](tmp_path / "source", pixels)
    assert digest(sources, tmp_path) == digest([class_folders(tmp_path / "reference", pixels)], tmp_path)


@pytest.mark.parametrize("form", ["npz with pickled labels", "compressed npz", "Parquet with structs"])
def test_files_of_arrays_are_read_from_an_archive_too(form: str, pixels: Pixels, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    FORMS[form](tmp_path / "source", pixels)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in (tmp_path / "source").iterdir():
            archive.write(file, f"data/{file.name}")
    expected = digest([class_folders(tmp_path / "reference", pixels)], tmp_path)
    assert digest([tmp_path / "x.zip"], tmp_path) == expected


def test_without_pyarrow_a_parquet_file_names_it(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path, pixels, struct=True)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="PyArrow, which reads it, is not installed") as caught:
        pack([tmp_path / "test-00000-of-00002.parquet"], tmp_path)
    assert caught.value.hint == "install it: pip install 'nilr[parquet]'"


def cifar_100(at: Path, per_class: tuple[int, int] = (500, 100)) -> tuple[Path, dict[str, npt.NDArray[np.uint8]]]:
    """Write `cifar-100-python.tar.gz` as Python 2 did: rows of three planes of 32 x 32 pixels."""
    names = sorted(published("cifar-fs").split_of)
    generator = np.random.default_rng(2)
    first: dict[str, npt.NDArray[np.uint8]] = {}
    with tarfile.open(at / "cifar-100-python.tar.gz", "w:gz", compresslevel=1) as archive:

        def add(name: str, content: object) -> None:
            raw = pickle.dumps(content, 2)
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))

        add("meta", {b"fine_label_names": [name.encode() for name in names], b"coarse_label_names": [b"x"] * 20})
        for name, n in zip(("train", "test"), per_class, strict=True):
            labels = np.repeat(np.arange(100), n)
            colours = generator.integers(0, 256, (len(labels), 3), np.uint8)
            data = np.repeat(colours, 1024, axis=1)  # one colour each: compressed well
            files = [f"{i}.png".encode() for i in range(len(labels))]
            content = {b"data": data, b"fine_labels": labels.tolist(), b"coarse_labels": [0] * len(labels)}
            add(name, content | {b"filenames": files, b"batch_label": b"x"})
            first |= {f"{name}/{names[i]}": colours[labels == i] for i in range(100)}
        info = tarfile.TarInfo("cifar-100-python/file.txt~")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"text"))
    return at / "cifar-100-python.tar.gz", first


@pytest.mark.slow
def test_cifar_100_gives_cifar_fs_and_fc100_in_full(tmp_path: Path) -> None:
    archive, colours = cifar_100(tmp_path)
    with pytest.raises(DataError, match="those of CIFAR-FS and FC100") as caught:
        pack([archive], tmp_path, name=None, image_size=None)
    assert "--dataset cifar-fs or --dataset fc100" in str(caught.value.hint)
    result = pack([archive], tmp_path, name=None, image_size=None, dataset="cifar-fs")
    assert {s: (n.classes, n.images) for s, n in result.metrics.splits.items()} == {
        "train": (64, 38_400),
        "val": (16, 9_600),
        "test": (20, 12_000),
    }
    assert result.data is not None
    assert (result.data.name, result.data.image_size) == ("cifar-fs", 32)
    split = prepare_data.open_pack(tmp_path / "datasets" / "cifar-fs.h5").open_split("test")
    name = split.class_names[3]
    rows = [row for row in range(len(split.arrays["labels"])) if split.arrays["labels"][row] == 3]
    packed = split.images.read(rows)
    assert (packed == packed[:, :1, :1]).all()
    expected = np.concatenate([colours[f"train/{name}"], colours[f"test/{name}"]])
    assert sorted(packed[:, 0, 0].tolist()) == sorted(expected.tolist())


def test_the_pickles_of_a_split_keep_their_split(tmp_path: Path) -> None:
    """FC100 is often a pickle per split, with numbers for classes and without their names."""
    for split, n in {"train": 60, "val": 20, "test": 20}.items():
        data = np.random.default_rng(n).integers(0, 256, (2 * n, 8, 8, 3), np.uint8)
        content = {"data": data, "labels": [i // 2 for i in range(2 * n)]}
        (tmp_path / f"FC100_{split}.pickle").write_bytes(pickle.dumps(content, 2))
    sources = sorted(tmp_path.glob("FC100_*"))
    result = pack(sources, tmp_path, name=None, image_size=None, dataset="fc100", limit_per_class=2)
    assert result.data is not None
    assert (result.data.name, result.data.image_size) == ("fc100", 32)
    assert {split: n.classes for split, n in result.metrics.splits.items()} == {"train": 60, "val": 20, "test": 20}
    with pytest.raises(
        DataError, match="this is not FC100, which has 60/20/20 classes with 36,000/12,000/12,000 images"
    ):
        pack(sources, tmp_path, name=None, dataset="fc100")


@pytest.mark.parametrize("split", ["100/50/50", "140/30/30"])
def test_the_archive_of_cub_gives_either_split(split: str, tmp_path: Path) -> None:
    names, image = [*published("cub").split_of], png(np.zeros((8, 8, 3), np.uint8))
    with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz", compresslevel=1) as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        add("attributes.txt", b"1 has_bill_shape::curved_(up_or_down)\n")
        for name in ("README", "classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt"):
            add(f"CUB_200_2011/{name}", b"1 1\n")
        add("CUB_200_2011/parts/part_locs.txt", b"1 1 0.0 0.0 0\n")
        for number, name in enumerate(names):
            for i in range(2):
                add(f"CUB_200_2011/images/{name}/{name[4:]}_{i:04d}_{number}.jpg", image)
    result = pack(
        [tmp_path / "CUB_200_2011.tgz"], tmp_path, name=None, image_size=8, cub_split=split, limit_per_class=2
    )
    assert "/".join(str(n.classes) for n in result.metrics.splits.values()) == split
    assert result.data is not None
    assert result.data.name == ("cub" if split == "100/50/50" else "cub-140")


def test_labels_of_one_name_are_different_classes(tmp_path: Path) -> None:
    """ImageNet has two classes that are called crane."""
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 0, 1, 1, 2, 2], class_names=["crane", "owl", "crane"])
    pack([tmp_path / "x.npz"], tmp_path, split_classes="3/0/0", image_size=8)
    names = prepare_data.open_pack(tmp_path / "datasets" / "x.h5").open_split("train").class_names
    assert names == ("crane (0)", "crane (2)", "owl")


def test_tiny_imagenet_merges_its_training_and_validation_images(tmp_path: Path) -> None:
    root, tiny = tmp_path / "tiny-imagenet-200", published("tiny-imagenet")
    colour = iter(range(10**6))

    def image() -> bytes:
        number = next(colour)
        return png(np.full((8, 8, 3), (number % 256, number // 256, 7), np.uint8))

    rows = []
    for name in tiny.split_of:
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for i in range(2):
            (folder / f"{name}_{i}.JPEG").write_bytes(image())
        (folder.parent / f"{name}_boxes.txt").write_text("")
        rows.append(f"val_{len(rows)}.JPEG\t{name}\t0\t0\t7\t7\n")
    for split in ("val", "test"):
        (root / split / "images").mkdir(parents=True)
        for i in range(200):
            (root / split / "images" / f"{split}_{i}.JPEG").write_bytes(image())
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(tiny.split_of))
    result = pack([root], tmp_path, name=None, image_size=8, limit_per_class=9)
    assert {s: (n.classes, n.images) for s, n in result.metrics.splits.items()} == {
        "train": (52, 156),
        "val": (15, 45),
        "test": (39, 117),
    }
    assert result.data is not None
    assert result.data.name == "tiny-imagenet"
    assert "recognised Tiny-ImageNet" in " ".join(result.notes)
    for wrong, message in {
        "val_0.JPEG\n": "has the invalid row",
        "val_0.JPEG\t../x\n": "has the invalid row",
        "val_0.JPEG\ta\nval_0.JPEG\tb\n": "lists `val_0.JPEG` twice",
        "val_900.JPEG\ta\n": "the sources lack 1 image of",
        "\xff": "the invalid row",
    }.items():
        (root / "val" / "val_annotations.txt").write_text(wrong)
        with pytest.raises(DataError, match=message):
            pack([root], tmp_path, name=None, image_size=8, limit_per_class=9)


def test_omniglot_of_two_zips_keeps_one_channel(tmp_path: Path) -> None:
    """Its images are black strokes of one bit on white, 105 px."""
    omniglot = published("omniglot")
    sources = []
    for part in ("images_background", "images_evaluation"):
        path = tmp_path / f"{part}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number, name in enumerate(omniglot.split_of):
                if (omniglot.split_of[name] == "test") == (part == "images_evaluation"):
                    image = Image.new("1", (15, 15), 1)
                    image.putpixel((number % 15, number // 15 % 15), 0)
                    buffer = io.BytesIO()
                    image.save(buffer, "PNG")
                    archive.writestr(f"{part}/{name}/{number:04d}_01.png", buffer.getvalue())
        sources.append(path)
    result = pack(sources, tmp_path, name=None, image_size=15, limit_per_class=20)
    assert result.data is not None
    assert (result.data.name, result.data.channels) == ("omniglot", 1)
    opened = prepare_data.open_pack(tmp_path / "datasets" / "omniglot.h5")
    assert {name: n.classes for name, n in opened.counts().items()} == {"train": 1028, "val": 172, "test": 423}
    image = opened.open_split("train").images.read([0])
    assert image.shape == (1, 15, 15, 1)
    assert sorted(np.unique(image).tolist()) == [0, 255]
    turned = pack(
        sources, tmp_path, name="turned", image_size=15, limit_per_class=20, dataset="omniglot", rotations=True
    )
    assert turned.metrics.splits["train"].classes == 4112
    split = prepare_data.open_pack(tmp_path / "datasets" / "turned.h5").open_split("train")
    rows = {name: split.images.read([split.class_names.index(name)])[0] for name in split.class_names[:4]}
    upright = rows["Alphabet_of_the_Magi/character01"]
    for degrees, turns in {"@90": 1, "@180": 2, "@270": 3}.items():
        np.testing.assert_array_equal(rows[f"Alphabet_of_the_Magi/character01{degrees}"], np.rot90(upright, turns))


def test_images_by_class_without_labels_need_a_draw(tmp_path: Path) -> None:
    """Write Omniglot as one array, (characters, drawings, 28, 28)."""
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 28, 28), np.uint8)
    np.save(tmp_path / "omniglot.npy", images)
    pack([tmp_path / "omniglot.npy"], tmp_path, split_classes="4/1/1", image_size=28, channels="1")
    split = prepare_data.open_pack(tmp_path / "datasets" / "x.h5").open_split("train")
    number = int(split.class_names[0].removeprefix("class"))
    found = {image.tobytes() for image in split.images.read(range(4))}
    assert found == {image.tobytes() for image in images[number]}


def test_grey_images_become_rgb_and_rgb_becomes_grey_by_request(pixels: Pixels, tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "source", pixels)
    pack([folder], tmp_path, channels="1")
    grey = prepare_data.open_pack(tmp_path / "datasets" / "x.h5").open_split("val").images.read(range(PER_CLASS))
    luma = {np.asarray(Image.fromarray(image).convert("L")).tobytes() for image in pixels["val", "n03"]}
    assert {image.tobytes() for image in grey} == luma
