"""What the commands of `nilr data` show. Except for `rm`, it is an answer, and so it goes to stdout."""

from nilr.cli.console import Cell, Screen, age
from nilr.errors import DataError
from nilr.results.data import PackCard, PackCheck, PackRow
from nilr.results.records import Overlap
from nilr.results.result import Result
from nilr.words import counted, file_size, some

MOST_PAIRS = 10
_MOST_CLASSES = 10  # names of a split; the JSON has all


def show_list(result: Result[list[PackRow]], screen: Screen) -> None:
    """Write one row per pack."""
    answer, header = screen.answer, ("name", "images", "classes", "size", "disk", "age", "problem")
    if rows := [_row(pack, answer) for pack in result.metrics]:
        answer.table(header, rows)


def _row(pack: PackRow, screen: Screen) -> tuple[Cell, ...]:
    disk = screen.either(file_size(pack.bytes), str(pack.bytes))
    if pack.images is None or pack.classes is None:
        return pack.name, None, None, None, disk, None, pack.problem
    images = sum(pack.images.values())
    classes = "/".join(str(pack.classes.get(split, 0)) for split in ("train", "val", "test"))
    size = f"{pack.image_size} px x {pack.channels}"
    made = screen.either(age(pack.created_at or ""), pack.created_at or "")
    return pack.name, screen.either(f"{images:,}", str(images)), classes, size, disk, made, None


def show_card(result: Result[PackCard], screen: Screen) -> None:
    """Write the facts about a pack, its splits and their classes."""
    card, answer = result.metrics, screen.answer
    facts = {
        "source": card.source,
        "licence": card.licence,
        "made": card.created_at,
        "images": f"{card.image_size} px, {'grey (one channel)' if card.channels == 1 else 'RGB'}",
        "resample, fit": f"{card.resample}, {card.fit}",
        "disk": answer.either(file_size(card.bytes), str(card.bytes)),
        "content digest": card.digest,
    }
    answer.table((card.name, ""), list(facts.items()))
    rows = []
    for name, split in card.splits.items():
        low, high = min(split.classes.values()), max(split.classes.values())
        per_class = str(low) if low == high else f"{low}-{high}"
        rows.append((name, str(len(split.classes)), str(split.images), per_class, split.digest))
    answer.table(("split", "classes", "images", "per class", "digest"), rows)
    for name, split in card.splits.items():
        answer.line(f"{name}: {some(list(split.classes), _MOST_CLASSES)}")


def show_checks(result: Result[list[PackCheck]], screen: Screen) -> None:
    """Write the finding for each pack; DataError if a pack is damaged."""
    checks = result.metrics
    if checks:
        screen.answer.table(("pack", "finding"), [(check.pack, check.problem or "ok") for check in checks])
    if damaged := [f"`{check.pack}`" for check in checks if check.problem]:
        raise DataError(
            f"{len(damaged)} of {counted(len(checks), 'pack')} failed the check: {some(damaged)}",
            hint="pack these images again, with `prepare-data` and --force",
        )


def show_overlap(result: Result[Overlap], screen: Screen) -> None:
    """Write the numbers of shared classes and images by split, and some of them by name."""
    overlap, answer = result.metrics, screen.answer
    rows = []
    for shared in overlap.splits:
        images = None if shared.images is None else str(shared.images)
        rows.append((shared.a, shared.b, str(len(shared.classes)), images))
    answer.table((overlap.a.name, f"{overlap.b.name} ", "shared classes", "equal images"), rows, names=2)
    for shared in overlap.splits:
        if shared.classes:
            answer.line(f"{shared.a}, {shared.b}: {some(shared.classes, _MOST_CLASSES)}")
    for one, other in overlap.pairs[:MOST_PAIRS]:
        answer.line(f"{one} = {other}")
    if (left := sum(shared.images or 0 for shared in overlap.splits) - MOST_PAIRS) > 0:
        answer.line(f"... and {counted(left, 'more equal image')}")
    if any(shared.images is None for shared in overlap.splits):
        answer.line("images of different sizes or channels cannot be equal")
