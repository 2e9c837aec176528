"""Write the tables of the two pages of findings from the results in `reproduction/`."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from docs import findings_measures
from docs.findings_text import (
    DOCS,
    EVIDENCE,
    accuracy,
    across,
    across_levels,
    measured,
    percent,
    points,
    read,
    starred,
    table,
)
from nilr.claims import signs as find_signs
from nilr.claims.over_seeds import combine_seeds, episode_values
from nilr.config.base import ADAPTED
from nilr.config.reproduce import ReproduceSettings
from nilr.inference import at_equal_level, over_seeds
from nilr.results.probe import ProbeMetrics
from nilr.results.reproduce import OverSeeds
from nilr.results.result import Result

PAGES = (DOCS / "findings.md", DOCS / "findings-details.md")
SMALLEST_EFFECT = ReproduceSettings().smallest_effect / 100  # of interest, a fraction of accuracy
TEST_CLASSES = 20  # of Mini-ImageNet
_LAYERS = ("block1", "block2", "block3", "block4", "head")


def deltas(path: str, protocol: str, edit: str | None = None) -> list[float]:
    """Return the difference to `meta-init`, or with an edit to the learned rates, of each model of a probe."""
    models = read(path)["metrics"].values()
    if edit is None:
        return [model[protocol]["delta"]["mean"] for model in models]
    return [model["edits"][edit][protocol]["delta_to_learned"]["mean"] for model in models]


def conclusion() -> Any:  # noqa: ANN401 - JSON
    """Return the metrics of the experiment at 32 px."""
    return read("cpu/reproduce.json")["metrics"]


def primary() -> Mapping[str, Mapping[str, OverSeeds]]:
    """Return the differences to `meta-init` of the claimed runs by protocol, for new seeds and new classes."""
    found: dict[str, dict[str, OverSeeds]] = {}
    for run in ("maml", "metasgd"):
        result = Result[ProbeMetrics].model_validate(read(f"measures/signs-{run}.json"))
        values = {str(model.seed): episode_values(result, model.name, TEST_CLASSES) for model in result.models}
        found[run] = {}
        for protocol in ADAPTED:
            drawn = {seed: one.delta(protocol) for seed, one in values.items() if one}
            means = {seed: float(differences[1].mean()) for seed, differences in drawn.items() if differences}
            found[run][protocol] = combine_seeds(means, list(drawn.values()), protocol)
    return found


def signs() -> str:
    """Return the paper's four signs: for new seeds and classes, for new seeds, and on other episodes."""
    names = {"maml": "MAML", "metasgd": "Meta-SGD"}
    rows = []
    for sign in find_signs({name: name for name in names}, primary(), smallest_effect=SMALLEST_EFFECT):
        seeds, both = sign.measured, sign.measured.new_classes
        assert both is not None
        assert seeds.ci95 is not None
        again = over_seeds(deltas(f"cpu/probe-3000-{sign.run}.json", sign.protocol))
        assert again.ci95 is not None
        rows.append(
            (
                f"{names[sign.run]}, {sign.protocol}",
                "gain" if sign.claimed > 0 else "loss",
                f"**{sign.finding}**",
                points(both.mean, both.ci95),
                f"{sign.measured.p_holm:.3f}",
                points(seeds.mean, seeds.ci95),
                points(again.mean, again.ci95),
            )
        )
    header = ("", "claimed", "finding", "new seeds and classes", "p, Holm", "new seeds", "3,000 other episodes")
    return table(header, rows)


def runs() -> str:
    """Return all runs at 32 px."""
    rows = []
    for name, run in conclusion()["runs"].items():
        trained = [read(f"cpu/{model}/meta-train.json")["metrics"] for model in run["models"]]
        before = Levels(_main_probes(run)).by_protocol["meta-init"].values()
        rows.append(
            (
                f"`{name}`",
                str(len(run["models"])),
                percent(metrics["best_val_accuracy"]["mean"] for metrics in trained),
                percent(run["share_negative"].values()),
                percent(before),
                *(measured(run["to_meta_init"][protocol]) for protocol in ADAPTED),
            )
        )
    header = ("run", "seeds", "validation, %", "negative rates, %", "`meta-init`, %", *ADAPTED)
    return table(header, rows)


def _main_probes(run: Mapping[str, Any]) -> list[Any]:
    """Return the probes of a run's models with the preset's 600 episodes; those of other choices have 300."""
    paths = [path for model in run["models"] for path in sorted((EVIDENCE / "cpu" / model).glob("probe-*.json"))]
    return [probe for probe in (read(str(path)) for path in paths) if probe["config"]["n_episodes"] == 600]


class Levels:
    """The accuracies of each seed of a run, by protocol, from results of `nilr probe`."""

    def __init__(self, probes: Iterable[Any]) -> None:
        found = [(model["seed"], probe["metrics"][model["name"]]) for probe in probes for model in probe["models"]]
        self.by_protocol: dict[str, dict[int, float]] = {
            protocol: {seed: metrics[protocol]["accuracy"]["mean"] for seed, metrics in found}
            for protocol in ("meta-init", *ADAPTED)
        }

    def minus(self, other: Levels, protocol: str) -> list[float]:
        """Return by how much the accuracy is higher than another run's, seed by seed."""
        return [value - other.by_protocol[protocol][seed] for seed, value in self.by_protocol[protocol].items()]

    def gains(self, protocol: str) -> dict[int, float]:
        """Return the difference to the level before adaptation of each seed."""
        return {seed: value - self.by_protocol["meta-init"][seed] for seed, value in self.by_protocol[protocol].items()}

    def compared(self, other: Levels) -> list[str]:
        """Return the difference of levels before, and by protocol of levels after, gains, and gains at equal level."""
        before = self.minus(other, "meta-init")
        seeds, cells = list(self.by_protocol["meta-init"]), [across(before)]
        for protocol in ADAPTED:
            after = self.minus(other, protocol)
            gain = [a - b for a, b in zip(after, before, strict=True)]
            runs = ([(run.by_protocol["meta-init"][s], run.gains(protocol)[s]) for s in seeds] for run in (self, other))
            adjusted = at_equal_level(*runs)
            cells += [across(after), across(gain), points(adjusted.mean, adjusted.ci95) if adjusted else ""]
        return cells


def choices() -> str:
    """Return the claimed runs' differences under each other choice of the probe."""
    columns = [(run, protocol) for run in ("maml", "metasgd") for protocol in ADAPTED]
    rows = {}
    for name, found in conclusion()["choices"].items():
        cells = {(sign["run"], sign["protocol"]): sign["measured"] for sign in found}
        if all(column in cells for column in columns):  # other initial rates have a row in `runs`
            rows[name] = [cells[column] for column in columns]
    header = ("choice", "MAML same-task", "MAML cross-task", "Meta-SGD same-task", "Meta-SGD cross-task")
    return table(header, starred(rows))


def edits() -> str:
    """Return the effect of each edit of the rates."""
    found = conclusion()["runs"]["metasgd"]["edits_to_learned"]
    return table(
        ("edit", *ADAPTED),
        starred({f"`{edit}`": [of[protocol] for protocol in ADAPTED] for edit, of in found.items()}),
    )


def counterparts() -> str:
    """Return the differences of each run to its counterpart, on the preset's episodes and on 3,000 others."""
    found = conclusion()["runs"]
    levels = {name: Levels(_main_probes(run)) for name, run in found.items()}
    rows = [
        (f"`{name}` - `{run['counterpart']}`", *levels[name].compared(levels[run["counterpart"]]))
        for name, run in found.items()
        if run["counterpart"]
    ]
    constrained, free = (Levels([read(f"cpu/probe-3000-{run}.json")]) for run in ("metasgd-nonneg", "metasgd"))
    rows.append(("`metasgd-nonneg` - `metasgd`, 3,000 episodes", *constrained.compared(free)))
    columns = (f"{protocol}: {what}" for protocol in ADAPTED for what in ("after", "gain", "at equal level"))
    return table(("runs", "before", *columns), rows)


def inductive() -> str:
    """Return the differences to `meta-init` of all runs, with the queries' batch statistics and with the support's."""
    rows = []
    for name, run in conclusion()["runs"].items():
        path = f"inductive/probe-{name}.json"
        cells = ((measured(run["to_meta_init"][protocol]), across(deltas(path, protocol))) for protocol in ADAPTED)
        rows.append((f"`{name}`", *(cell for pair in cells for cell in pair)))
    columns = (f"{protocol}, `{how}`" for protocol in ADAPTED for how in ("apart", "inductive"))
    return table(("run", *columns), rows)


def trained() -> str:
    """Return the accuracies of models trained in both ways, by how they are evaluated."""
    judged = {
        "`apart`": "apart-all",
        "`apart`, a class at a time": "apart-class",
        "`together`": "together-all",
        "`together`, a class at a time": "together-class",
        "`inductive`": "inductive-all",
    }
    rows = []
    for algo, (title, how) in itertools.product(("maml", "metasgd"), judged.items()):
        cells = []
        for run in ("apart", "inductive"):
            models = read(f"inductive/{algo}-trained-{run}-judged-{how}.json")["metrics"].values()
            found = [model["own_head"]["learned"]["same-task"]["accuracy"]["mean"] for model in models]
            cells += [across_levels(found), across_levels([model["same-task"]["accuracy"]["mean"] for model in models])]
        rows.append((f"`{algo}`, {title}", *cells))
    columns = (f"trained `{run}`: {reading}" for run in ("apart", "inductive") for reading in ("head", "neighbour"))
    return table(("evaluated", *columns), rows)


def first_order() -> str:
    """Return Meta-SGD with and without second derivatives, three seeds each."""
    metasgd = [EVIDENCE / f"cpu/cpu-metasgd-s{seed}" for seed in range(3)]
    return _trainings(
        {
            "metasgd": (metasgd, _main_probes({"models": [folder.name for folder in metasgd]})),
            "fometasgd": _run("first-order", "fometasgd", 3),
        }
    )


def conv4_64() -> str:
    """Return Conv4 with 64 filters."""
    return _trainings({"metasgd": _run("conv4-64", "metasgd", 3)})


def _run(folder: str, run: str, n_seeds: int) -> tuple[list[Path], list[Any]]:
    """Return the folders of a run's trainings, and its probes."""
    return [EVIDENCE / f"{folder}/{run}-s{seed}" for seed in range(n_seeds)], [read(f"{folder}/probe-{run}.json")]


def _trainings(runs: Mapping[str, tuple[list[Path], list[Any]]]) -> str:
    """Return how runs trained, with the negative rates of each layer at the end, and how they were probed."""
    rows = []
    for run, (seeds, probes) in runs.items():
        trained = [read(str(folder / "meta-train.json"))["metrics"] for folder in seeds]
        lines = [(folder / "history.jsonl").read_text().splitlines() for folder in seeds]
        logged = [[line for line in map(json.loads, history) if "share_negative" in line][-1] for history in lines]
        levels = Levels(probes)
        rows.append(
            (
                f"`{run}`",
                percent(metrics["best_val_accuracy"]["mean"] for metrics in trained),
                *(percent(line["share_negative_by_layer"][layer] for line in logged) for layer in _LAYERS),
                percent(levels.by_protocol["meta-init"].values()),
                *(across(list(levels.gains(protocol).values())) for protocol in ADAPTED),
            )
        )
    return table(("run", "validation, %", *(f"`{layer}`" for layer in _LAYERS), "`meta-init`, %", *ADAPTED), rows)


def px84() -> str:
    """Return the results at 84 px."""
    probes = {"`maml`": "maml", "`maml`, evaluated 5-shot": "maml-5shot", "`metasgd`": "metasgd"}
    rows = []
    for name, probe in probes.items():
        path = f"px84/probe-{probe}.json"
        before = [model["meta-init"]["accuracy"]["mean"] for model in read(path)["metrics"].values()]
        rows.append((name, percent(before), *(across(deltas(path, protocol)) for protocol in ADAPTED)))
    path = "px84/probe-metasgd.json"
    for edit in read(path)["config"]["rates"][1:]:
        cells = (across(deltas(path, protocol, edit)) for protocol in ADAPTED)
        rows.append((f"`metasgd`, `{edit}` - `learned`", "", *cells))
    return table(("", "`meta-init`, %", *ADAPTED), rows)


def calibration() -> str:
    """Return the accuracies beside those of learn2learn."""
    ours = {
        name: model
        for path in ("nilr-probe", "nilr-probe-metasgd-s2", "nilr-probe-metasgd-s3")
        for name, model in read(f"calibration/{path}.json")["metrics"].items()
    }
    rows = []
    for algo, title, seeds in (("maml", "MAML", range(2)), ("metasgd", "Meta-SGD", range(4))):
        for seed in seeds:
            model, peer = ours[f"calibration-{algo}-s{seed}"], read(f"calibration/learn2learn-{algo}-s{seed}.json")
            head = model["own_head"]["learned"]["same-task"]["accuracy"]
            cells = (head, peer["head"], model["meta-init"]["accuracy"], peer["meta_init"])
            rows.append((f"{title}, seed {seed}", *map(accuracy, cells)))
    header = ("", "head, nilr", "head, learn2learn", "`meta-init`, nilr", "`meta-init`, learn2learn")
    return table(header, rows)


def exact() -> str:
    """Return the distance to learn2learn on identical episodes."""
    updates = ("1", "10", "50", "100", "200")
    rows = []
    for algo, title in (("maml", "MAML"), ("metasgd", "Meta-SGD")):
        distance = read(f"calibration/exact-{algo}.json")["relative_distance"]
        rows.append((title, *(f"{distance[update]:.1e}" for update in updates)))
    return table(("updates", *updates), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "signs": signs,
    "runs": runs,
    "edits": edits,
    "counterparts": counterparts,
    "first order": first_order,
    "conv4 64": conv4_64,
    "choices": choices,
    "inductive": inductive,
    "trained": trained,
    "px84": px84,
    "calibration": calibration,
    "exact": exact,
    **findings_measures.TABLES,
}


def filled(page: str) -> str:
    """Return the page with each table between `<!-- table: NAME -->` and `<!-- end -->` made from the results."""
    return re.sub(
        r"(<!-- table: ([a-z0-9 ]+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
