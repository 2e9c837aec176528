"""`nilr data`: list, show, verify, remove and compare packs. Listing reads only headers and does not import torch."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import JsonValue

from nilr import __version__
from nilr.config.packs import (
    ComparePacksSettings,
    ListPacksSettings,
    RemovePacksSettings,
    ShowPackSettings,
    VerifyPacksSettings,
)
from nilr.data.pack import Pack, open_pack, verify_pack
from nilr.data.pictures import Panel, class_panel, draw_panels
from nilr.errors import NilrError, StoreError, UsageError
from nilr.files import check_output, write_output
from nilr.recipes.common.outcome import Outcome
from nilr.reporting import Reporter
from nilr.results.data import PackCard, PackCheck, PackRow, SplitCard
from nilr.results.records import Overlap
from nilr.results.result import Result
from nilr.store import Store, newest_manifest
from nilr.words import some

_ENVIRONMENT: dict[str, JsonValue] = {"nilr": __version__}


def list_packs(settings: ListPacksSettings, reporter: Reporter) -> Result[list[PackRow]]:
    """Return all packs of the store, in name order; an unreadable pack is a row like any other."""
    outcome, store = Outcome(settings), Store(settings.home)
    if not store.packs():
        reporter.note(f"there is no pack in the store yet: {store.how_to_pack()}")
    rows = [row for path in store.packs() if (row := _row(path)) is not None]
    return outcome.result(rows, config={}, environment=_ENVIRONMENT)


def show_pack(settings: ShowPackSettings, reporter: Reporter) -> Result[PackCard]:
    """Return what a pack contains, and draw a contact sheet and an episode.

    Raises:
        StoreError: there is no such pack, or a picture cannot be written.
        DataError: the pack is damaged, or has no such split.
        EpisodeError: it has too few classes or images for the given size of the episode.
    """
    from nilr.recipes.common.packs import newest_pack

    outcome, store = Outcome(settings), Store(settings.home)
    path = newest_pack(store) if settings.pack is None else store.find_data(settings.pack)
    files = _picture_files(settings.out or Path(), path.stem)
    pack = open_pack(path)
    splits = {name: pack.open_split(name, verify=False) for name in pack.splits}
    pictures = {"classes": draw_panels([class_panel(split, settings.seed) for split in splits.values()], path.stem)}
    if episode := _draw_episode(pack, settings, path.stem):
        pictures["episode"] = episode
    else:
        reporter.note("no episode is drawn: it needs two classes of two images; select another split with --split")
    for what, picture in pictures.items():
        content = io.BytesIO()
        picture.save(content, "PNG")
        write_output(files[what], content.getvalue())
    reporter.note(f"pictures: {', '.join(str(files[what]) for what in pictures)}")
    card = PackCard(
        **{name: getattr(pack.info, name) for name in PackCard.model_fields.keys() & vars(pack.info).keys()},
        bytes=path.stat().st_size,
        splits={
            name: SplitCard(
                digest=split.digest,
                images=sum(split.class_sizes),
                classes=dict(zip(split.class_names, split.class_sizes, strict=True)),
            )
            for name, split in splits.items()
        },
        pictures=[files[what].name for what in pictures],
    )
    return outcome.result(card, config=_config(settings, pack=path.stem), environment=_ENVIRONMENT)


def verify_packs(settings: VerifyPacksSettings, reporter: Reporter) -> Result[list[PackCheck]]:
    """Read packs, all packs by default, check every digest, and return the problem of each."""
    outcome, store = Outcome(settings), Store(settings.home)
    paths = [store.find_data(ref) for ref in settings.packs] or store.packs()
    if not paths:
        raise StoreError(f"there is no pack in `{store.home}`", hint=store.how_to_pack())
    checks = [PackCheck(pack=path.stem, problem=_problem(path, reporter)) for path in dict.fromkeys(paths)]
    return outcome.result(checks, config={"packs": [path.stem for path in paths]}, environment=_ENVIRONMENT)


def remove_packs(settings: RemovePacksSettings, reporter: Reporter) -> Sequence[str]:
    """Remove packs, all or none, and return their names."""
    store, names = Store(settings.home), list(dict.fromkeys(settings.packs))
    if not names:
        raise UsageError("no pack is named", hint=f"name one or more; `{store.command('data', 'ls')}` lists them")
    digests = {_digest(store.require_pack(name)) for name in names}
    for name in names:
        store.remove_pack(name)
    manifests = {model: newest_manifest(store.model_dir(model)) for model in store.model_names()}
    if trained := [model for model, found in manifests.items() if found and found.data.digest in digests]:
        reporter.note(f"models trained on these images: {some(trained)}; to evaluate them, pack the images again")
    return names


def compare(settings: ComparePacksSettings, reporter: Reporter) -> Result[Overlap]:
    """Return the classes and images that two packs share, by split."""
    from nilr.recipes.common.overlaps import compare_packs

    outcome, store = Outcome(settings), Store(settings.home)
    if settings.a is None or settings.b is None:
        raise UsageError("a comparison needs two packs", hint=f"`{store.command('data', 'compare', 'A', 'B')}`")
    a, b = (open_pack(store.find_data(ref)) for ref in (settings.a, settings.b))
    reporter.stage("comparing")
    config = _config(settings, a=Path(settings.a).name, b=Path(settings.b).name)
    return outcome.result(compare_packs(a, b), config=config, environment=_ENVIRONMENT)


def _config(settings: Any, **names: str) -> dict[str, Any]:  # noqa: ANN401 - settings of any of these commands
    return {**settings.model_dump(mode="json", exclude={"home", "out"}), **names}


def _row(path: Path) -> PackRow | None:
    """Return the row of a pack; None if it has been removed meanwhile."""
    try:
        n_bytes = path.stat().st_size
        pack = open_pack(path)
    except NilrError as error:
        return PackRow(name=path.stem, bytes=n_bytes, problem=error.message) if path.exists() else None
    except OSError:
        return None
    counts = pack.counts()
    info = {name: getattr(pack.info, name) for name in ("image_size", "channels", "created_at", "digest")}
    return PackRow(
        name=path.stem,
        bytes=n_bytes,
        classes={split: count.classes for split, count in counts.items()},
        images={split: count.images for split, count in counts.items()},
        **info,
    )


def _problem(path: Path, reporter: Reporter) -> str | None:
    try:
        n_images = sum(count.images for count in open_pack(path).counts().values())
        reporter.stage(f"checking `{path.stem}`", n_images, unit="images")
        verify_pack(path, reporter.advance)
    except NilrError as error:
        return error.message
    return None


def _digest(path: Path) -> str | None:
    with contextlib.suppress(NilrError):
        return open_pack(path).info.digest
    return None


def _picture_files(out: Path, name: str) -> dict[str, Path]:
    """Return the files of the pictures in the folder `out`, or of which the first is the file `out`."""
    if out.suffix == ".png" and not out.is_dir():
        files = {"classes": out, "episode": out.with_name(f"{out.stem}-episode.png")}
        for file in files.values():
            check_output(file, "--out")
        return files
    check_output(out, "--out", folder=True)
    return {what: out / f"{name}-{what}.png" for what in ("classes", "episode")}


def _draw_episode(pack: Pack, settings: ShowPackSettings, name: str) -> Image | None:
    """Draw the first episode that a training with this seed draws; None if even a small one is impossible.

    A size that the user did not give is reduced to what the split has.
    """
    import torch

    from nilr.episodes import EpisodeSampler, PackedImages

    explicit = settings.explicit()
    split = pack.open_split(settings.split if "split" in explicit else pack.splits[0], verify=False)
    smallest = min(split.class_sizes)
    n_way = settings.n_way if "n_way" in explicit else min(settings.n_way, len(split.class_sizes))
    n_query = settings.n_query if "n_query" in explicit else min(settings.n_query, smallest - settings.n_shot)
    if min(n_way - 1, n_query) < 1 and not {"n_way", "n_shot", "n_query"} & explicit.keys():
        return None
    packed = PackedImages(torch.empty(0), split.class_sizes, split.class_names)
    sampler = EpisodeSampler(packed, n_way, settings.n_shot, max(n_query, 1), settings.seed, split.name)
    classes, images = (chosen[0].tolist() for chosen in sampler.choose([0]))
    names, rows = [split.class_names[i] for i in classes], [split.images.read(of_class) for of_class in images]
    n_shot = settings.n_shot
    panels = [
        Panel(f"support: {n_way}-way {n_shot}-shot", [(n, r[:n_shot]) for n, r in zip(names, rows, strict=True)]),
        Panel("query", [("", r[n_shot:]) for r in rows]),
    ]
    return draw_panels(panels, f"{name}, {split.name}: first episode of --seed {settings.seed}")
