"""A running training on a screen, drawn again and again on a terminal."""

from nilr.cli.console import Screen, duration
from nilr.recipes.watch import Watch, Watched
from nilr.report.sparkline import sparkline
from nilr.words import number


def show(watch: Watch, screen: Screen) -> None:
    """Draw the state of the trainings until they end; a pipe gets a block of lines for each state."""
    answer = screen.answer
    for states in watch.states():
        answer.clear()
        for state in states:
            for line in _lines(state, answer.width):
                answer.line(line, wrap=False)
            if state.problem is not None:
                answer.line(f"  {state.problem}", indent=2)


def _lines(state: Watched, columns: int) -> list[str]:
    curve = max(10, min(60, columns - 34))
    total = "" if state.outer_steps is None else f"/{state.outer_steps:,}"
    share = "" if not state.outer_steps else f" ({100 * state.outer_step / state.outer_steps:.0f} %)"
    rate = None if state.ended else state.updates_per_second
    times = [f"{number(rate, 3)} updates/s"] if rate else []
    times += [] if state.elapsed_seconds is None else [f"{duration(state.elapsed_seconds)} elapsed"]
    times += [] if state.seconds_left is None else [f"{duration(state.seconds_left)} left"]
    lines = [
        f"{state.name}: {state.status}, {state.outer_step:,}{total} updates{share}",
        *([f"  {', '.join(times)}"] if times else []),
    ]
    for label, values, percent in (
        ("loss", state.query_loss, False),
        ("query accuracy", state.accuracy, True),
        ("validation", state.validation, True),
    ):
        if values:
            recent = values[-10:] if label != "validation" else values[-1:]
            mean = sum(recent) / len(recent)
            text = f"{100 * mean:.1f} %" if percent else number(mean, 3)
            lines.append(f"  {label:<15}{sparkline(values, curve)} {text}")
    if state.last_validation is not None and state.best_validation is not None:
        ci = state.last_validation.ci95
        width = "" if ci is None else f" ± {100 * ci:.1f}"
        lines.append(
            f"  val {100 * state.last_validation.mean:.1f}{width} % at {state.last_validated_at:,}, "
            f"best {100 * state.best_validation:.1f} % at {state.best_at:,}"
        )
    if state.share_negative is not None:
        lines.append(f"  negative rates: {100 * state.share_negative:.1f} %")
        cells = [f"{name} {100 * value:.1f}" for name, value in state.share_negative_by_layer.items()]
        while cells:
            row = cells.pop(0)
            while cells and len(row) + len(cells[0]) + 6 <= columns:
                row += f"  {cells.pop(0)}"
            lines.append(f"    {row}")
    if state.skipped:
        lines.append(f"  skipped updates: {state.skipped}")
    return lines
