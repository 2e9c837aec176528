"""The result of `nilr probe` on a screen."""

from nilr.claims import claim_word, learned_delta
from nilr.cli.console import Screen
from nilr.results.probe import ProbeMetrics
from nilr.results.result import Result
from nilr.sections import tables


def show(result: Result[ProbeMetrics], screen: Screen) -> None:
    """Write the models and the data, and a table for each part of the result."""
    used = [f"{model.name}@{model.checkpoint} ({model.algo}, update {model.outer_step})" for model in result.models]
    judged = result.data_b or result.data
    data = f" on the {judged.split} split of `{judged.name}`" if judged else ""
    if result.data_b and result.data:
        data += f", adapted to `{result.data.name}` in cross-task"
    if used:
        question = f"; question: {result.question}" if result.question else ""
        screen.line(f"{', '.join(used)}{data}{question}")
    for table in tables(result.metrics, screen):
        screen.table(table.header, table.rows, names=table.names)
    signs = [
        (name, protocol, claim_word(sign.claimed), screen.delta(learned_delta(model, protocol)), sign.finding)
        for name, model in result.metrics.items()
        for protocol, sign in model.signs.items()
    ]
    if signs:
        screen.table(("the paper's signs", "protocol", "paper", "measured", "finding"), signs, names=2)
