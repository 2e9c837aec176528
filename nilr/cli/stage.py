"""What is shown of a stage of work: count, pace, the time left, and the newest values."""

import math
from collections.abc import Callable

from nilr.cli.console import duration, metric_name, share
from nilr.reporting import Pace
from nilr.words import number

_FRACTIONS = ("accuracy", "share", "validation")
# The time left is shown once the estimate has been steady for this long, to within this share of it.
_STEADY_SECONDS, _STEADY_SHARE = 5.0, 0.2
# It is withdrawn if it differs from the estimate by this factor and these seconds; it approaches a smaller one slowly.
_WITHDRAW_FACTOR, _WITHDRAW_SECONDS, _APPROACH_SECONDS = 1.5, 10.0, 20.0

Clock = Callable[[], float]


class Countdown:
    """The time left as it is shown: it follows the estimate without jumping, and is withdrawn if it was far from it."""

    def __init__(self, now: float) -> None:
        self._now = self._steady_since = now
        self._end: float | None = None  # as estimated
        self._steady_end: float | None = None  # as estimated when it became steady
        self._shown: float | None = None

    def expect(self, now: float, seconds: float) -> None:
        """Take a new estimate."""
        self._end = now + seconds
        self.left(now)

    def left(self, now: float) -> float | None:
        """Return the seconds left; None if no estimate is reliable."""
        elapsed, self._now = now - self._now, now
        if self._end is None:
            return None
        estimate = max(0.0, self._end - now)
        if self._shown is None:
            if self._steady_end is None:
                self._steady_end = self._end
            elif abs(self._end - self._steady_end) > _STEADY_SHARE * estimate:
                self._steady_end, self._steady_since = self._end, now
            if now - self._steady_since >= _STEADY_SECONDS and estimate:
                self._shown = estimate
        else:
            # At this speed both reach zero at the same time; an estimate that has become smaller is approached.
            speed = min(1.0, self._shown / estimate) if estimate else 1.0
            self._shown -= speed * elapsed
            self._shown -= max(0.0, self._shown - estimate) * (1 - math.exp(-elapsed / _APPROACH_SECONDS))
            low, high = sorted((self._shown, estimate))
            if self._shown < 1 or high > _WITHDRAW_FACTOR * low + _WITHDRAW_SECONDS:
                self._shown, self._steady_end, self._steady_since = None, self._end, now
        return self._shown


class Stage:
    """What is shown of a stage: title, count, pace, times and the newest values."""

    def __init__(self, title: str, total: int | None, done: int, unit: str, clock: Clock) -> None:
        self.title, self.done, self._first = title, done, done
        self._total, self._unit, self._clock = total, unit, clock
        self._start = self._last = clock()
        self._pace, self._countdown = Pace(), Countdown(self._start)
        self._share: float | None = None
        self._expected = False  # whether the recipe estimates the time left
        self._metrics: dict[str, float] = {}

    @property
    def share(self) -> float | None:
        """The share of the work that is done; None if the total is unknown."""
        return self.done / self._total if self._share is None and self._total else self._share

    def advance(self, n: int) -> None:
        """Count completed units."""
        now = self._clock()
        self._pace.add(n, now - self._last)
        self.done, self._last = self.done + n, now
        if self._total is not None and not self._expected:
            self._countdown.expect(now, self._pace.seconds(self._total - self.done))

    def expect(self, seconds: float | None, share: float | None) -> None:
        """Take the recipe's own estimate of the time left."""
        self._expected, self._share = True, share
        if seconds is not None:
            self._countdown.expect(self._clock(), seconds)

    def update(self, values: dict[str, float | None]) -> None:
        """Keep the newest values."""
        merged = {**self._metrics, **values}
        self._metrics = {name: value for name, value in merged.items() if value is not None}

    def counts(self) -> list[str]:
        """Return the count and the share of the work."""
        share = [] if self._share is None else [f"{100 * self._share:.0f} %"]
        return [*_count(self.done, self._total, self._unit), *share]

    def times(self, *, ended: bool) -> list[str]:
        """Return the pace, and the time passed and left."""
        elapsed, completed, texts = self._clock() - self._start, self.done - self._first, []
        if self._share is None and completed and elapsed > 0:
            rate = completed / elapsed if ended else 1 / (self._pace.seconds(1) or elapsed)
            texts.append(f"{number(rate, 3)} {self._unit}/s")
        if ended:
            return [*texts, f"in {duration(elapsed)}"] if completed and elapsed > 0 else texts
        left = self._countdown.left(self._clock())
        if elapsed >= 1:
            texts.append(f"{duration(elapsed)} elapsed")
        return texts if left is None else [*texts, f"{duration(left)} left"]

    def values(self) -> list[str]:
        """Return the newest values."""
        return [_value(name, value) for name, value in self._metrics.items()]


def _value(name: str, value: float) -> str:
    if name.endswith(" share"):  # of something that is being done
        return f"{name.removesuffix(' share')} {100 * value:.0f} %"
    return f"{metric_name(name)} {share(value) if any(part in name for part in _FRACTIONS) else number(value)}"


def _count(done: int, total: int | None, unit: str) -> list[str]:
    if total is None and done == 0:
        return []  # not counted
    shown, last = (f"{done}", done) if total is None else (f"{done}/{total}", total)
    return [f"{shown} {unit.removesuffix('s') if last == 1 else unit}"]
