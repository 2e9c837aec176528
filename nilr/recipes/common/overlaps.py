"""What packs share, for results and their notes."""

from collections.abc import Iterable, Mapping, Sequence

from nilr.data.overlap import SharedSplit, compare_splits
from nilr.data.pack import Pack, PackedSplit, PackInfo, open_pack
from nilr.recipes.common.loading import UNKNOWN, LoadedModel
from nilr.recipes.common.packs import OpenSplit, find_training_pack
from nilr.results.records import DataUsed, ImageRef, Overlap, PackName, SharedWith
from nilr.store import Store
from nilr.words import counted, some

MOST_PAIRS = 100
_MOST_NAMED = 5


def compare_packs(a: Pack, b: Pack) -> Overlap:
    """Return what every split of a pack shares with every split of another one."""
    return _record(a.info, b.info, compare_splits(_splits(a), _splits(b)))


def find_overlaps(
    store: Store, models: Mapping[str, LoadedModel], judged: Sequence[OpenSplit], data: str | None = None
) -> tuple[list[Overlap], list[str]]:
    """Compare the evaluated splits with the other packs that the models were trained on, and with the pack `data`.

    Returns:
        What each of these packs shares with the splits, which are of one pack; and notes on it.
    """
    used, notes = judged[0].used, []
    others: dict[str, Pack] = {}
    for name, model in models.items():
        trained = model.checkpoint.manifest.data
        if trained.digest in (UNKNOWN, used.digest, *others):
            continue
        if path := find_training_pack(store, trained.name, trained.digest):
            others[trained.digest] = open_pack(path)
        else:
            notes.append(
                f"It is unknown what `{used.name}` shares with `{trained.name}`, which model `{name}` was trained on: "
                "that pack is not in the store."
            )
    if data is not None:
        pack = open_pack(store.find_data(data))
        others.setdefault(pack.info.digest, pack)
    others.pop(used.digest, None)
    splits = list({split.packed.name: split.packed for split in judged}.values())
    overlaps = [_record(used, pack.info, compare_splits(splits, _splits(pack))) for pack in others.values()]
    return overlaps, [*map(describe_overlap, overlaps), *notes]


def describe_overlap(overlap: Overlap) -> str:
    """Name the first classes and images that two packs share."""
    splits = " and ".join(dict.fromkeys(shared.a for shared in overlap.splits))
    a, b = f"`{overlap.a.name}` ({splits})", f"`{overlap.b.name}`"
    classes = [f"{name} ({shared.b})" for shared in overlap.splits for name in shared.classes]
    images = sum(shared.images or 0 for shared in overlap.splits)
    if not classes and not images:
        return f"{a} and {b} have no class and no image in common."
    found = [f"{counted(len(classes), 'class')}: {some(classes, _MOST_NAMED)}"] if classes else []
    if images:
        pairs = [f"{one} = {other}" for one, other in overlap.pairs]
        shown = pairs[:_MOST_NAMED] + [""] * (images > _MOST_NAMED)
        found.append(f"{counted(images, 'equal image')}: {some(shown, _MOST_NAMED)}")
    return f"{a} and {b} have in common {'; '.join(found)}."


def _splits(pack: Pack) -> list[PackedSplit]:
    return [pack.open_split(name, verify=False) for name in pack.splits]


def _record(a: DataUsed | PackInfo, b: PackInfo, found: Iterable[SharedSplit]) -> Overlap:
    found = list(found)
    comparable = (a.image_size, a.channels) == (b.image_size, b.channels)
    pairs = [(ImageRef.of(one), ImageRef.of(other)) for shared in found for one, other in shared.images]
    return Overlap(
        a=PackName(name=a.name, digest=a.digest),
        b=PackName(name=b.name, digest=b.digest),
        splits=[
            SharedWith(a=s.a, b=s.b, classes=list(s.classes), images=len(s.images) if comparable else None)
            for s in found
        ],
        pairs=pairs[:MOST_PAIRS],
    )
