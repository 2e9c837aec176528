"""Images -> one HDF5 file, checked on the way in, or generated; and a pack that is there, checked again."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final

from nilr.config import MINI_IMAGENET, SYNTHETIC, PrepareDataSettings
from nilr.data.digests import image_digests
from nilr.data.packed import Pack, PackInfo, PackWriter, open_pack, verify_pack
from nilr.data.sources.layouts import Plan, plan_pack
from nilr.data.sources.opening import list_sources
from nilr.data.sources.streaming import decode_classes
from nilr.data.sources.tables import read_table_folder
from nilr.data.splits import RAVI_SPLIT_OF, parse_split_classes
from nilr.errors import DataError, StoreError, UsageError
from nilr.recipes.outcome import Outcome
from nilr.reporting import Reporter
from nilr.results import DataUsed, ImageRef, PrepareDataMetrics, Result, SplitCounts
from nilr.runtime import environment
from nilr.store import Store

IMAGENET_LICENCE: Final = "ImageNet's terms: non-commercial research and education; do not redistribute"
OTHER_LICENCE: Final = "that of the source"

Pair = tuple[ImageRef, ImageRef]


@dataclass
class _Packed:
    """What packing told."""

    info: PackInfo
    pairs: list[Pair]
    seconds: float
    warnings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def run(settings: PrepareDataSettings, reporter: Reporter) -> Result[PrepareDataMetrics]:
    """Pack images, generate and pack some, or check a pack.

    Raises:
        UsageError: settings that contradict each other, or nothing to pack.
        DataError: a source cannot be used, images cannot be read, or a pack is not as it was written.
        StoreError: there is a pack of that name, another process writes it, or the place cannot be written.
    """
    outcome = Outcome("prepare-data")
    _check(settings)
    store = Store(settings.home)
    if settings.verify is not None:
        pack, packed = _verify(store.find_data(str(settings.verify)), reporter)
    else:
        name = settings.name or (SYNTHETIC if settings.synthetic else MINI_IMAGENET)
        path = store.dataset_path(name)
        with store.lock(name, kind="dataset"):
            if path.exists() and not settings.force:
                raise StoreError(
                    f"there is a pack `{name}` already: `{path}`", hint="--force replaces it, --name packs another"
                )
            packed = (_pack_synthetic if settings.synthetic else _pack_sources)(path, name, settings, reporter)
            pack = open_pack(path)
    return outcome.result(
        _metrics(pack, packed, reporter),
        config={
            **settings.model_dump(mode="json", exclude={"home"}),
            "name": packed.info.name,
            "sources": [source.name for source in settings.sources],
            "split_files": settings.split_files.name if settings.split_files else None,
            "verify": settings.verify.name if settings.verify else None,
        },
        data=DataUsed(name=packed.info.name, digest=packed.info.digest, image_size=packed.info.image_size),
        environment=environment(),
    )


def _check(settings: PrepareDataSettings) -> None:
    ways = [bool(settings.sources), settings.synthetic, settings.verify is not None]
    if sum(ways) != 1:
        what = "there is nothing to pack" if not any(ways) else "SOURCE, --synthetic and --verify exclude one another"
        raise UsageError(
            what, hint="give folders, archives or pickles of images, or --synthetic to generate some, or --verify PACK"
        )
    if settings.split_files and settings.split_classes:
        raise UsageError(
            "--split-files and --split-classes exclude one another",
            hint="the one reads which classes are train, val and test, the other draws it",
        )
    if settings.split_classes:
        parse_split_classes(settings.split_classes)


def _pack_sources(path: Path, name: str, settings: PrepareDataSettings, reporter: Reporter) -> _Packed:
    reporter.stage("listing the sources")
    table = read_table_folder(settings.split_files) if settings.split_files else None
    only = frozenset(RAVI_SPLIT_OF) if name == MINI_IMAGENET else None
    if table is not None:
        only = frozenset(label for classes in table.values() for label in classes)
    plan = plan_pack(list_sources(settings.sources, only=only), settings, name, table)
    for note in plan.warnings + plan.notes:
        reporter.note(note)
    return _pack_plan(path, name, plan, settings, reporter)


def _pack_plan(path: Path, name: str, plan: Plan, settings: PrepareDataSettings, reporter: Reporter) -> _Packed:
    counts = plan.counts()
    reporter.stage("packing", sum(sum(classes.values()) for classes in counts.values()), unit="images")
    broken: dict[str, str] = {}
    began = time.monotonic()
    with warnings.catch_warnings():
        # What Pillow warns of is either harmless or an error here.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with PackWriter(
            path,
            name=name,
            image_size=settings.image_size,
            resample=settings.resample,
            source=plan.kind,
            licence=IMAGENET_LICENCE if _is_imagenet(counts.values()) else OTHER_LICENCE,
            layout=counts,
        ) as writer:
            for decoded in decode_classes(
                plan.splits,
                image_size=settings.image_size,
                resample=settings.resample,
                workers=settings.workers,
                advance=reporter.advance,
            ):
                for image, reason in decoded.broken.items():
                    reporter.note(f"`{image}` {reason}")
                broken.update(decoded.broken)
                writer.write_class(decoded.split, decoded.name, decoded.images, decoded.filenames)
            if broken and not settings.skip_broken:
                raise _unreadable(broken)
    packed = _Packed(writer.info, _pairs(writer.duplicate_pairs()), time.monotonic() - began, list(plan.warnings))
    if broken:
        packed.skipped = sorted(broken)
        packed.warnings.append(f"{len(broken):,} images that cannot be read are left out")
        reporter.note(packed.warnings[-1])
    return packed


def _pack_synthetic(path: Path, name: str, settings: PrepareDataSettings, reporter: Reporter) -> _Packed:
    raise NotImplementedError


def _verify(path: Path, reporter: Reporter) -> tuple[Pack, _Packed]:
    reporter.stage("checking every digest")
    began = time.monotonic()
    info = verify_pack(path)
    pack = open_pack(path)
    return pack, _Packed(info, _stored_pairs(pack), time.monotonic() - began)


def _metrics(pack: Pack, packed: _Packed, reporter: Reporter) -> PrepareDataMetrics:
    counts = pack.counts()
    if packed.pairs:
        across = sum(a.split != b.split for a, b in packed.pairs)
        reporter.note(
            f"{len(packed.pairs):,} pairs of images have exactly the same pixels, {across:,} of them across splits"
        )
    return PrepareDataMetrics(
        splits={split: SplitCounts(classes=n.classes, images=n.images) for split, n in counts.items()},
        duplicate_pairs=packed.pairs,
        skipped=packed.skipped,
        warnings=packed.warnings,
        images_per_second=sum(n.images for n in counts.values()) / packed.seconds,
    )


def _unreadable(broken: dict[str, str]) -> DataError:
    image, reason = next(iter(broken.items()))
    some = "1 image cannot" if len(broken) == 1 else f"{len(broken):,} images cannot"
    first = "" if len(broken) == 1 else "the first: "
    return DataError(
        f"{some} be used; {first}`{image}` {reason}", hint="nothing was packed; --skip-broken leaves such images out"
    )


def _is_imagenet(splits: Iterable[Iterable[str]]) -> bool:
    return any(name in RAVI_SPLIT_OF for classes in splits for name in classes)


def _pairs(pairs: Iterable[tuple[tuple[str, str, str], tuple[str, str, str]]]) -> list[Pair]:
    return [(_reference(*a), _reference(*b)) for a, b in pairs]


def _reference(split: str, class_name: str, filename: str) -> ImageRef:
    return ImageRef(split=split, class_name=class_name, filename=filename)


def _stored_pairs(pack: Pack) -> list[Pair]:
    """Return the pairs of equal images of a pack, as its writer does."""
    same: dict[bytes, list[tuple[str, str, str]]] = defaultdict(list)
    for name in pack.splits:
        split = pack.open_split(name, verify=False)
        classes: Sequence[str] = [
            c for c, n in zip(split.class_names, split.class_sizes, strict=True) for _ in range(n)
        ]
        for digest, class_name, filename in zip(image_digests(split.images), classes, split.filenames(), strict=True):
            same[digest].append((name, class_name, filename))
    return _pairs(sorted(pair for refs in same.values() for pair in combinations(sorted(refs), 2)))
