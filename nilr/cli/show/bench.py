"""What the result of `nilr bench` looks like on a screen."""

from collections.abc import Iterator

from nilr.cli.console import Cell, Screen, duration
from nilr.results.bench import BenchMetrics, Timing
from nilr.results.result import Result
from nilr.words import number

_MEGA, _GIGA = 1e6, 1e9


def show(result: Result[BenchMetrics], screen: Screen) -> None:
    """Write the engines by task, the attainable rate, and the presets."""
    metrics = result.metrics
    header = ("algorithm", "task", "engine", "seconds", "of all rounds", "episodes/s", "share", "peak MB")
    screen.table(header, _engine_rows(metrics, screen), names=3)
    rates = ", ".join(f"{number(c.flop_per_second / _GIGA)} ({c.convolution})" for c in metrics.convolutions)
    screen.line(f"plain convolutions, GFLOP/s: {rates}")
    screen.table(
        ("preset", "engine", "updates", "s/update", "validations", "s each", "in all", "peak MB"),
        [
            (
                name,
                preset.engine,
                str(preset.outer_steps),
                number(preset.seconds_per_update),
                str(preset.validations),
                number(preset.seconds_per_validation),
                duration(preset.seconds),
                f"{preset.peak_memory_bytes / _MEGA:.0f}",
            )
            for name, preset in metrics.presets.items()
        ],
    )


def _engine_rows(metrics: BenchMetrics, screen: Screen) -> Iterator[tuple[Cell, ...]]:
    for algo, engines in metrics.engines.items():
        for task in ("update", "evaluation"):
            for name, engine in engines.items():
                yield (algo, *_timing_cells(task, name, getattr(engine, task), screen))
                if task == "update" and engine.update_uncaptured is not None:
                    yield (algo, *_timing_cells(task, f"{name}, uncaptured", engine.update_uncaptured, screen))


def _timing_cells(task: str, engine: str, timing: Timing, screen: Screen) -> tuple[Cell, ...]:
    return (
        f"{task} {timing.episodes}x{timing.inner_steps}",
        engine,
        number(timing.seconds),
        f"{number(timing.seconds_fastest, 3)}-{number(timing.seconds_slowest, 3)}",
        number(timing.episodes_per_second),
        screen.share(timing.share_of_attainable),
        f"{timing.peak_memory_bytes / _MEGA:.0f}",
    )
