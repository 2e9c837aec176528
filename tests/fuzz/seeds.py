"""Write the seeds of the corpus anew: `python -m tests.fuzz.seeds`. What fuzzing added or found is left as it is."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nilr.data.pack import PackInfo
from nilr.data.pack_writer import PackWriter
from nilr.meta.algorithms import ALGORITHMS
from nilr.tensorfile import serialize
from tests.fuzz.targets import CORPUS

MANIFEST = {
    "architecture": {"name": "conv4", "arguments": {"n_way": 2, "image_size": 16, "filters": 1}},
    "algorithm": ALGORITHMS["maml"].to_stored(),
    "settings": {"seed": 0, "preset": None},
    "data": {"name": "x", "digest": "0" * 64, "image_size": 16},
    "outer_step": 1,
    "metrics": {"accuracy": 0.5},
    "engine": "explicit",
    "parent": None,
    "saved_at": "2026-01-01T00:00:00.000000+00:00",
}
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
PARENT = {"name": "m", "digest": "0" * 64}
SEALED = {"format": "nilr/checkpoint", "format_version": 1, "nilr_version": "0", "tensors_sha256": "0" * 64}


def pickles() -> dict[str, bytes]:
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    by_class = {"image_data": images, "class_dict": {"a": [0, 1], "b": np.array([2, 3])}}
    by_label = {b"data": list(images), "labels": [0, 0, 1, 1], "catname2label": {"a": 0, b"b": 1}}
    seeds = {f"by_class_{protocol}": pickle.dumps(by_class, protocol) for protocol in range(6)}
    seeds |= {f"by_label_{protocol}": pickle.dumps(by_label, protocol) for protocol in range(6)}
    rows = np.arange(2 * 3072, dtype=np.uint16).astype(np.uint8).reshape(2, 3072)
    seeds["cifar"] = pickle.dumps({b"data": rows, b"fine_labels": [1, 0], b"filenames": [b"0.png", b"1.png"]}, 2)
    seeds["scalars"] = pickle.dumps([np.float32(1), np.array(1), 1 << 70, 0.5, None, True, "é", b"x", (), bytearray(2)])
    return seeds


def arrays() -> dict[str, bytes]:
    def npz(**values: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **values)
        return b"z" + buffer.getvalue()

    images, buffer = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3), io.BytesIO()
    np.save(buffer, images.reshape(2, 2, 4, 4, 3))
    return {
        "labels": npz(images=images, labels=np.array([0, 0, 1, 1]), class_names=np.array(["a", "b"])),
        "splits": npz(x_train=images, y_train=np.array([[0], [0], [1], [1]]), x_test=images, y_test=np.arange(4)),
        "text": npz(data=images[..., 0], targets=np.array([b"a", b"b", b"b", b"a"])),
        "by_class": b"y" + buffer.getvalue(),
    }


def parquets() -> dict[str, bytes]:
    names = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
    seeds = {}
    for name, image in {"bytes": b"\x89PNG", "struct": {"bytes": b"\x89PNG", "path": "0.png"}}.items():
        table = pa.table({"image": [image] * 4, "label": [0, 0, 1, 1]})
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), buffer, row_group_size=2)
        seeds[name] = buffer.getvalue()
    return seeds


def tables() -> dict[str, bytes]:
    box = "\t0\t0\t62\t62"
    return {
        "annotations": "".join(f"a{i}.JPEG\tn0000000{i % 2}{box}\r\n" for i in range(4)).encode().join([b"a", b""]),
        "split": b"cfilename,label\n" + b"".join(b"a%d.JPEG,n0000000%d\n" % (i, i % 2) for i in range(4)),
        "split_paths": b'cimage;class\n"x/images/a0.JPEG";a\nx\\images\\a1;b\n\na2.JPEG;b\n',
    }


def manifests() -> dict[str, bytes]:
    adapted = MANIFEST | {"parent": PARENT | {"adaptation": {"rates": "x", "adapt_part": ["head"], "inner_steps": 1}}}
    tensors = {"params/w": torch.zeros(2), "inner_lr/w": torch.ones(())}
    return {
        "file": b"f" + serialize("nilr/checkpoint", MANIFEST, tensors),
        "sealed": b"s" + json.dumps(SEALED | MANIFEST).encode(),
        "sealed_adapted": b"s" + json.dumps(SEALED | adapted).encode(),
        "header": b"h" + json.dumps({"__metadata__": {"nilr": "{}", "nilr_sha256": ""}, "params/w": ENTRY}).encode(),
        "foreign": b"f" + b"\x02\0\0\0\0\0\0\0{}",
    }


def packs() -> dict[str, bytes]:
    """One pack as it is written, and one without the checksums that HDF5 puts on its structures from 1.8 on."""
    with tempfile.TemporaryDirectory() as directory:
        path, old = Path(directory) / "x.h5", Path(directory) / "old.h5"
        layout = {"train": {"a": 2, "b": 1}, "val": {"c": 1}}
        with PackWriter.create(path, PackInfo("x", 2, "bilinear", source="folders", licence=""), layout) as pack:
            for split, classes in layout.items():
                for name, n in classes.items():
                    pack.write_class(split, name, np.full((n, 2, 2, 3), n, np.uint8), [f"{i}.png" for i in range(n)])
        with h5py.File(path) as source, h5py.File(old, "w", libver=("earliest", "v108")) as target:
            for name in source:
                source.copy(name, target)
            for name in source.attrs:
                target.attrs.create(name, source.attrs[name], dtype=source.attrs.get_id(name).dtype)
        return {"pack": path.read_bytes(), "pack_without_checksums": old.read_bytes()}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for target, seeds in {
        "pickle": pickles(),
        "array": arrays(),
        "parquet": parquets(),
        "table": tables(),
        "manifest": manifests(),
        "pack": packs(),
    }.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (CORPUS / target / f"seed_{name}").write_bytes(content)
