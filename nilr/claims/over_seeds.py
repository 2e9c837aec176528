"""What several trainings of one recipe show together, for new seeds and for new classes.

The primary inference on a difference covers new seeds and new classes (`nilr.inference.crossed`). Where a result lacks
the values of the episodes, it covers new seeds on the same classes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from nilr.inference import LEAST_SEEDS, holm, is_equivalent, over_seeds
from nilr.inference.crossed import Components, Crossed, crossed_inference
from nilr.probes.conditions import META_INIT
from nilr.probes.edits import LEARNED
from nilr.probes.tasks import TaskB, episode_classes
from nilr.results.reproduce import EqualLevel, NewClasses, OverSeeds, Sign
from nilr.results.result import Result

LEVEL = 0.05  # of all tests

T = TypeVar("T")


@dataclass(frozen=True)
class Draw:
    """What a probe's episodes are drawn from; the same draw gives the same episodes."""

    n_episodes: int
    n_classes: int  # of the split
    n_way: int
    seed: int
    split: str
    task_b: TaskB | None  # None: episodes A are of another pack
    data: str  # digest of the evaluated pack

    def classes(self, protocol: str) -> list[Tensor] | None:
        """Return the classes (E, N) of each role of the episodes under a protocol; None if they are unknown."""
        if protocol != "cross-task" or self.task_b == "same-classes":  # A and B have the same classes: one role
            return [_classes(self)[0]]
        return None if self.task_b is None else list(_classes(self))


@functools.lru_cache(maxsize=64)
def _classes(draw: Draw) -> tuple[Tensor, Tensor]:
    drawn = dataclasses.asdict(draw) | {"task_b": draw.task_b or "any"}
    del drawn["data"]
    return episode_classes(**drawn)


Drawn = tuple[Draw, Tensor] | None
"""Float64 values (E,) of episodes, and what these are drawn from; None if unknown."""


@dataclass(frozen=True)
class EpisodeValues:
    """The accuracies of one model in every episode of a probe."""

    draw: Draw
    per_episode: Mapping[str, Any]  # in the layout of the result

    def level(self, protocol: str, edit: str = LEARNED) -> Drawn:
        """Return the accuracy under a protocol, with edited rates."""
        found = self.per_episode
        if protocol != META_INIT.protocol:
            found = found.get("edits", {}).get(edit, found if edit == LEARNED else {})
        values = found.get(protocol)
        if not isinstance(values, list) or None in values or len(values) != self.draw.n_episodes:
            return None
        return self.draw, torch.tensor(values, dtype=torch.float64)

    def delta(self, protocol: str, edit: str = LEARNED) -> Drawn:
        """Return the difference to the meta-initialisation, or of edited rates to the learned ones."""
        before = self.level(META_INIT.protocol) if edit == LEARNED else self.level(protocol)
        return minus(self.level(protocol, edit), before)


def minus(values: Drawn, others: Drawn) -> Drawn:
    """Return the paired differences; None if the episodes are not the same."""
    if values is None or others is None or values[0] != others[0]:
        return None
    return values[0], values[1] - others[1]


def episode_values(result: Result[Any], name: str, n_classes: int | None = None) -> EpisodeValues | None:
    """Return the values of a model in a probe's result; None if the result lacks them.

    `n_classes` is the number of classes of the evaluated split, for results that do not record it.
    """
    data, config = result.data_b or result.data, result.config
    n_classes = data.n_classes or n_classes if data else None
    n_way, seed, split = (config.get(key) for key in ("n_way", "seed", "split"))
    per_episode = result.per_episode.get(name)
    if data is None or n_classes is None or not isinstance(per_episode, dict):
        return None
    if not (isinstance(n_way, int) and isinstance(seed, int) and isinstance(split, str)):
        return None
    task_b: Any = None if result.data_b else config.get("task_b")
    n_episodes = len(per_episode.get(META_INIT.protocol, ()))
    return EpisodeValues(Draw(n_episodes, n_classes, n_way, seed, split, task_b, data.digest), per_episode)


def combine_seeds(means: Mapping[str, float], episodes: Sequence[Drawn] = (), protocol: str = "") -> OverSeeds:
    """Return the inference on a difference from its mean in each seed.

    With the differences in the episodes of each seed, in the same order, it includes the inference for new classes.
    """
    inference: dict[str, Any] = dataclasses.asdict(over_seeds(list(means.values())))
    crossed = _cross(episodes, protocol) if len(episodes) == len(means) else None
    new_classes = None if crossed is None else NewClasses.model_validate(dataclasses.asdict(crossed))
    return OverSeeds(n_seeds=inference.pop("n"), seeds=dict(means), new_classes=new_classes, **inference)


def _cross(episodes: Sequence[Drawn], protocol: str) -> Crossed | None:
    known = [drawn for drawn in episodes if drawn is not None]
    if len(known) < max(len(episodes), LEAST_SEEDS) or any(draw != known[0][0] for draw, _ in known):
        return None
    draw = known[0][0]
    classes = draw.classes(protocol)
    return crossed_inference(torch.stack([values for _, values in known]), classes, draw.n_classes) if classes else None


def primary(measured: OverSeeds | EqualLevel) -> OverSeeds | NewClasses | EqualLevel:
    """Return the inference that decides: for new seeds and new classes if it is known, else for new seeds."""
    return measured.new_classes or measured if isinstance(measured, OverSeeds) else measured


def adjusted(table: T) -> T:
    """Return a table of differences, nested to any depth, with p adjusted for the number of its tests."""
    found: list[OverSeeds | EqualLevel] = []
    _map_measured(table, lambda measured: found.append(measured) or measured)  # type: ignore[func-returns-value]
    tests = [p for measured in found if (p := _p(measured)) is not None]
    corrected = iter(holm(tests))
    return _map_measured(  # type: ignore[no-any-return]
        table,
        lambda measured: measured.model_copy(update={"p_holm": None if _p(measured) is None else next(corrected)}),
    )


def _map_measured(part: Any, change: Any) -> Any:  # noqa: ANN401 - any part of a table
    if isinstance(part, OverSeeds | EqualLevel):
        return change(part)
    if isinstance(part, Sign):
        return part.model_copy(update={"measured": change(part.measured)})
    if isinstance(part, Mapping):
        return {name: _map_measured(value, change) for name, value in part.items()}
    return [_map_measured(value, change) for value in part] if isinstance(part, list) else part


def _p(measured: OverSeeds | EqualLevel) -> float | None:
    """Return the p of the primary inference; 0 for the same difference in all seeds and episodes, unless it is 0."""
    decides = primary(measured)
    return 0.0 if decides.p is None and decides.ci95 == 0 and decides.mean != 0 else decides.p


def direction(measured: OverSeeds | EqualLevel) -> int:
    """Return the sign of a difference of at least three seeds whose adjusted p is below 0.05, else 0."""
    few = isinstance(measured, OverSeeds) and measured.n_seeds < LEAST_SEEDS
    if few or measured.p_holm is None or measured.p_holm >= LEVEL:
        return 0
    return 1 if measured.mean > 0 else -1


def mark(measured: OverSeeds | EqualLevel) -> str:
    """Return a star if the adjusted p of a difference is below 0.05."""
    return "*" if direction(measured) else ""


def is_negligible(measured: OverSeeds, smallest_effect: float) -> bool:
    """Return whether an effect of at least `smallest_effect`, a fraction, is excluded."""
    ci90 = (measured.new_classes or measured).ci90
    return measured.n_seeds >= LEAST_SEEDS and ci90 is not None and is_equivalent(measured.mean, ci90, smallest_effect)


def design(measured: Sequence[OverSeeds]) -> dict[str, float]:
    """Return the share by which the standard error shrinks, on average, with more seeds, classes or episodes.

    Returns:
        The shares with one more seed, twice the classes and twice the episodes; empty if they are unknown.
    """
    shares = [
        Components(**found.components.model_dump()).narrowing(n_seeds, found.n_classes, found.n_episodes)
        for n_seeds, found in ((m.n_seeds, m.new_classes) for m in measured)
        if found is not None
    ]
    return {name: sum(share[name] for share in shares) / len(shares) for name in shares[0]} if shares else {}


def describe_design(found: Mapping[str, float]) -> list[str]:
    """Return a note on what narrows the intervals of the four signs; none if that is unknown."""
    if not found:
        return []
    percent = {name: f"{100 * share:.0f} %" for name, share in found.items()}
    return [
        "The standard error of the four signs would shrink, on average, by "
        f"{percent['episodes']} with twice the episodes, by {percent['seeds']} with one more seed, and by "
        f"{percent['classes']} with twice the classes."
    ]
