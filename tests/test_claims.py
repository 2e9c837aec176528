import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import TrainedOn
from nilr.claims import (
    CLAIMS,
    DEMONSTRATION,
    claimed_signs,
    describe_probe,
    describe_signs,
    is_claimed,
    is_generated,
    learned_delta,
    signs,
    with_signs,
)
from nilr.claims.over_seeds import Draw, EpisodeValues, adjusted, combine_seeds, design, direction
from nilr.claims.runs import MeasuredModel, correct_exploratory, mean_level, run_figures, signs_by_choice
from nilr.config.experiments import Run
from nilr.meta.algorithms import ALGORITHMS
from nilr.results.probe import EditMetrics, EditProbe, Histogram, ModelProbe, ModelRates, ProtocolMetrics, RateFigures
from nilr.results.records import DataUsed, Delta, Mean, ModelUsed
from nilr.results.reproduce import RunFigures, Sign

ACCURACY = Mean(mean=0.4, ci95=0.0001, n_episodes=1000)
RATES = RateFigures(
    count=4, mean=0.0, std=1.0, quantiles={}, share_negative=0.25, histogram=Histogram(edges=[0, 1], counts=[4])
)


def edit(same: float, cross: float, *, learned: float | None = None, before: float = 0.4) -> EditProbe:
    def figures(mean: float) -> EditMetrics:
        to_learned = None if learned is None else Delta(mean=learned, ci95=0.0001, p=1e-9)
        delta = Delta(mean=mean, ci95=0.0001, p=1e-9)
        accuracy = ACCURACY.model_copy(update={"mean": before + mean})
        return EditMetrics(accuracy=accuracy, delta=delta, delta_to_learned=to_learned)

    return EditProbe(same_task=figures(same), cross_task=figures(cross))


def measured_model(seed: int, same: float, cross: float, edited: float = 0.0, before: float = 0.4) -> MeasuredModel:
    edits = {"learned": edit(same, cross, before=before), "absolute": edit(0.0, 0.0, learned=edited)}
    rates = ModelRates(inner_steps=1, all=RATES, kinds={}, layers={}, tensors={}, left_out=[], not_moved=[])
    level = ProtocolMetrics(accuracy=ACCURACY.model_copy(update={"mean": before}))
    return MeasuredModel(seed, f"m{seed}", ModelProbe(meta_init=level, edits=edits), rates)


def judged(algorithms: dict[str, str], measured: Any, *, generated: bool = False) -> list[Sign]:
    return signs(algorithms, measured, smallest_effect=0.003, generated=generated)


def described(found: list[Sign]) -> list[str]:
    return describe_signs(found, 0.003)


def figures(run: str, models: list[MeasuredModel]) -> RunFigures:
    return run_figures(Run(run, "why", {}), {run: models})


def probe(same_task: Delta | None = None, cross_task: Delta | None = None) -> ModelProbe:
    def metrics(delta: Delta | None) -> ProtocolMetrics | None:
        return None if delta is None else ProtocolMetrics(accuracy=ACCURACY, delta=delta)

    return ModelProbe(
        meta_init=ProtocolMetrics(accuracy=ACCURACY), same_task=metrics(same_task), cross_task=metrics(cross_task)
    )


@pytest.mark.parametrize(
    ("algo", "delta", "claimed", "finding"),
    [
        ("maml", Delta(mean=0.02, ci95=0.01, p=0.01), 1, "confirmed"),
        ("maml", Delta(mean=-0.02, ci95=0.01, p=0.01), 1, "refuted"),
        ("maml", Delta(mean=0.005, ci95=0.01, p=0.4), 1, "undecided"),
        ("metasgd", Delta(mean=-0.02, ci95=0.01, p=0.01), -1, "confirmed"),
        ("metasgd", Delta(mean=0.02, ci95=0.01, p=0.01), -1, "refuted"),
        ("maml", Delta(mean=0.02, ci95=None, p=None), 1, "undecided"),
        ("maml", Delta(mean=0.0, ci95=0.0, p=None, verdict="exactly zero"), 1, "undecided"),
        ("maml", Delta(mean=-0.1, ci95=0.0, p=None, verdict="exactly constant"), 1, "refuted"),
    ],
)
def test_a_probe_confirms_or_refutes_a_sign_if_the_interval_over_episodes_excludes_zero(
    algo: str, delta: Delta, claimed: int, finding: str
) -> None:
    found = with_signs({"m": CLAIMS[algo]}, {"m": probe(same_task=delta)})["m"].signs
    assert {protocol: (sign.claimed, sign.finding) for protocol, sign in found.items()} == {
        "same-task": (claimed, finding)
    }


def test_a_probe_of_both_algorithms_judges_all_four_signs() -> None:
    delta = Delta(mean=0.1, ci95=0.01, p=0.0)
    measured = {"maml": probe(delta, delta), "metasgd": probe(delta, delta), "boil": probe(delta, delta)}
    found = with_signs(CLAIMS | {"boil": {}}, measured)
    assert {name: [sign.finding for sign in model.signs.values()] for name, model in found.items()} == {
        "maml": ["confirmed", "refuted"],
        "metasgd": ["refuted", "confirmed"],
        "boil": [],
    }
    assert "signs" not in found["boil"].model_dump()


def test_an_algorithm_without_a_claim_is_not_judged() -> None:
    text = describe_probe({"m": {}}, {"m": probe(same_task=Delta(mean=0.1, ci95=0.01, p=0.0))})
    assert text.startswith("This probe measured none of the paper's four signs")


def test_of_a_probe_with_edits_the_learned_rates_are_judged() -> None:
    delta = learned_delta(measured_model(0, 0.02, -0.01).probe, "cross-task")
    assert delta is not None
    assert delta.mean == -0.01


def test_the_interval_is_over_seeds_alone_with_two_degrees_of_freedom_for_three() -> None:
    found = combine_seeds({"0": 0.01, "1": 0.02, "2": 0.03})
    # t(0.975, 2) = 4.302653; the standard error of 1, 2, 3 is 1 / sqrt(3)
    assert found.ci95 == pytest.approx(0.01 * 4.302653 / 3**0.5, rel=1e-6)
    assert found.mean == pytest.approx(0.02)
    assert found.spread == pytest.approx(0.01)
    assert found.verdict == "undecided"


@pytest.mark.parametrize(
    ("means", "claimed", "said"),
    [
        ((0.010, 0.011, 0.012), 1, "confirmed"),
        ((0.010, 0.011, 0.012), -1, "refuted"),
        ((-0.010, -0.011, -0.012), -1, "confirmed"),
        ((-0.010, -0.011, -0.012), 1, "refuted"),
        ((-0.010, 0.011, 0.012), 1, "undecided"),
        ((0.010, 0.010001), 1, "undecided"),
        ((0.010,), 1, "undecided"),
    ],
)
def test_a_sign_is_confirmed_or_refuted_by_three_seeds_and_never_by_fewer(
    means: tuple[float, ...], claimed: int, said: str
) -> None:
    algorithm = "maml" if claimed > 0 else "metasgd"  # opposite claims about the same task
    measured = combine_seeds({str(i): mean for i, mean in enumerate(means)})
    (sign, _) = judged({"run": algorithm}, {"run": {"same-task": measured, "cross-task": measured}})
    assert (sign.claimed, sign.finding) == (claimed, said)


def test_the_paper_s_four_signs_are_found_in_results_made_to_show_them() -> None:
    maml = [measured_model(i, 0.02 + i / 1000, -0.01 + i / 1000) for i in range(3)]
    metasgd = [measured_model(i, -0.02 + i / 1000, -0.03 + i / 1000) for i in range(3)]
    measured = {run: figures(run, models).to_meta_init for run, models in (("maml", maml), ("sgd", metasgd))}
    found = judged({"maml": "maml", "sgd": "metasgd"}, measured)
    assert [(sign.run, sign.protocol, sign.claimed, sign.finding) for sign in found] == [
        ("maml", "same-task", 1, "confirmed"),
        ("maml", "cross-task", -1, "confirmed"),
        ("sgd", "same-task", -1, "confirmed"),
        ("sgd", "cross-task", 1, "refuted"),
    ]
    # t = 0.021 * sqrt(3) / 0.001 = 36.373, p = 0.00075502 with 2 degrees of freedom; the third smallest of four p
    assert described(found)[0] == "maml same-task: claimed gain confirmed, +2.10 ± 0.25 points over 3 seeds, p 0.0023."
    assert described(found)[-1].startswith(
        "The paper's four signs: 3 confirmed, 1 refuted, 0 undecided, 0 equivalent. p is corrected for these signs"
    )


def test_sharp_intervals_over_episodes_decide_nothing_with_two_seeds() -> None:
    measured = figures("maml", [measured_model(i, 0.02, -0.02) for i in range(2)]).to_meta_init
    found = judged({"maml": "maml"}, {"maml": measured})
    assert {sign.finding for sign in found} == {"undecided"}
    assert "Fewer than 3 seeds decide nothing." in described(found)[-1]


def test_the_signs_under_another_choice_are_read_from_its_probes_alone() -> None:
    def chosen(seed: int, sign: int) -> MeasuredModel:
        usual = measured_model(seed, 0.02 + seed / 1000, -0.02 - seed / 1000)
        other = measured_model(seed, sign * (0.03 + seed / 1000), 0.0).probe
        return dataclasses.replace(usual, choices={"euclidean": other})

    models = {"maml": [chosen(i, -1) for i in range(3)], "control": [measured_model(i, 1.0, 1.0) for i in range(3)]}
    found = signs_by_choice({"maml": "maml"}, models)
    assert list(found) == ["euclidean"]
    assert [(sign.run, sign.protocol, sign.finding) for sign in found["euclidean"]] == [
        ("maml", "same-task", "exploratory"),
        ("maml", "cross-task", "exploratory"),
    ]
    assert found["euclidean"][0].measured.seeds == pytest.approx({"0": -0.03, "1": -0.031, "2": -0.032})


def test_edits_are_compared_with_the_learned_rates_seed_by_seed() -> None:
    found = figures("run", [measured_model(i, 0.0, 0.0, edited=0.01 * i) for i in range(3)])
    assert list(found.edits_to_learned) == ["absolute"]
    assert found.edits_to_learned["absolute"]["cross-task"].seeds == {"0": 0.0, "1": 0.01, "2": 0.02}
    assert found.share_negative == {"0": 0.25, "1": 0.25, "2": 0.25}
    assert not found.to_counterpart


def test_a_run_is_compared_with_its_counterpart_seed_by_seed() -> None:
    # Each varies widely over its seeds, and together: only the paired difference is sharp, 1 point and 0 points.
    known = {"sgd": [measured_model(i, 0.05 * i, -0.05 * i) for i in range(3)]}
    known["nonneg"] = [measured_model(i, 0.05 * i + 0.01 + i / 10000, -0.05 * i) for i in range(3)]
    found = run_figures(Run("nonneg", "why", {}, counterpart="sgd"), known)
    assert found.counterpart == "sgd"
    assert found.to_counterpart["same-task"].seeds == pytest.approx({"0": 0.01, "1": 0.0101, "2": 0.0102})
    assert found.to_counterpart["same-task"].verdict == "positive"
    assert found.to_counterpart["cross-task"].mean == pytest.approx(0)
    assert found.to_meta_init["same-task"].verdict == "undecided"


def test_a_run_of_fewer_seeds_is_compared_with_those_of_its_counterpart_alone() -> None:
    known = {"sgd": [measured_model(i, 0.1 * i, 0.0) for i in range(3)], "start": [measured_model(1, 0.15, 0.0)]}
    found = run_figures(Run("start", "why", {}, counterpart="sgd"), known)
    assert found.to_counterpart["same-task"].seeds == pytest.approx({"1": 0.05})


def test_a_run_that_gains_more_from_a_lower_start_is_shown_with_its_levels_and_at_equal_level() -> None:
    # by hand: every model gains 0.2 - 0.5 * start on the same task; `low` starts 0.02 lower, so it gains 0.01 more
    starts = {"low": (0.36, 0.37, 0.38), "sgd": (0.38, 0.39, 0.40)}
    known = {
        run: [measured_model(i, 0.2 - 0.5 * start, 0.0, before=start) for i, start in enumerate(of_run)]
        for run, of_run in starts.items()
    }
    found = run_figures(Run("low", "why", {}, counterpart="sgd"), known)
    assert found.accuracy["same-task"] == pytest.approx({"0": 0.38, "1": 0.385, "2": 0.39})
    assert mean_level(found, "meta-init") == pytest.approx(0.37)
    assert found.accuracy_to_counterpart["meta-init"].mean == pytest.approx(-0.02)
    assert found.accuracy_to_counterpart["same-task"].mean == pytest.approx(-0.01)
    assert found.to_counterpart["same-task"].mean == pytest.approx(0.01)
    equal = found.at_equal_level["same-task"]
    assert equal is not None
    assert (equal.mean, equal.slope) == pytest.approx((0.0, -0.5), abs=1e-9)
    few = run_figures(Run("low", "why", {}, counterpart="sgd"), {run: models[:2] for run, models in known.items()})
    assert few.at_equal_level == {"same-task": None, "cross-task": None}


REAL = DataUsed(name="mini-imagenet", digest="m", image_size=84)


def used(algo: str, **change: Any) -> ModelUsed:
    return ModelUsed(name="x", checkpoint="best", digest="d", outer_step=1, algo=algo, trained_on="m", **change)


@pytest.mark.parametrize(
    ("algo", "constraint", "claimed"),
    [
        ("maml", "free", True),
        ("metasgd", "free", True),
        ("metasgd", "bounded:-0.1,0.1", True),
        ("metasgd", "non-negative", False),
        ("metasgd", "bounded:0,0.1", False),
        ("metasgd", "fixed-signs", False),
        ("anil", "free", False),
    ],
)
def test_the_paper_s_signs_are_about_maml_and_metasgd_whose_rates_may_be_negative(
    algo: str, constraint: str, claimed: bool
) -> None:
    assert is_claimed(dataclasses.replace(ALGORITHMS[algo], constraint=constraint)) is claimed


@pytest.mark.parametrize(
    ("rate", "claimed"), [("0.01", True), ("1e-05", True), ("0.0", False), ("-0.05", False), ("tensor-mean", False)]
)
def test_the_paper_s_maml_has_one_positive_rate(rate: str, claimed: bool) -> None:
    assert is_claimed(dataclasses.replace(ALGORITHMS["maml"], inner_lr_init=rate)) is claimed


def test_no_sign_is_claimed_of_controls_adapted_models_parts_and_generated_images() -> None:
    assert claimed_signs(used("maml", claimed=True), REAL, {"adapt_part": ["all"]}) == CLAIMS["maml"]
    assert claimed_signs(used("metasgd"), REAL, {}) == CLAIMS["metasgd"]  # of an earlier version
    assert claimed_signs(used("metasgd", claimed=False), REAL, {}) == {}
    assert claimed_signs(used("maml", parent="y"), REAL, {}) == {}
    assert claimed_signs(used("maml"), REAL, {"adapt_part": ["body"]}) == {}
    assert claimed_signs(used("maml"), REAL.model_copy(update={"generated": True}), {}) == {}
    # the name decides only in results of earlier versions, which do not say whether images are generated
    named = REAL.model_copy(update={"name": "synthetic"})
    assert claimed_signs(used("maml"), named.model_copy(update={"generated": None}), {}) == {}
    assert claimed_signs(used("maml"), named.model_copy(update={"generated": False}), {}) == CLAIMS["maml"]


@pytest.mark.parametrize(("name", "generated", "found"), [("synthetic", None, True), ("x", None, False)])
def test_the_pack_that_a_model_was_trained_on_says_whether_its_images_are_generated(
    name: str, generated: bool | None, found: bool
) -> None:
    trained_on = TrainedOn(name=name, digest="d", image_size=8, generated=generated)
    assert is_generated(trained_on) is found
    assert is_generated(trained_on.model_copy(update={"generated": True})) is True
    assert is_generated(trained_on.model_copy(update={"generated": False})) is False


def test_on_generated_images_a_clear_difference_is_a_demonstration() -> None:
    delta = Delta(mean=0.02, ci95=0.001, p=1e-9)
    assert (
        describe_probe({"m": {}}, {"m": probe(delta, delta)}, REAL.model_copy(update={"generated": True}))
        == DEMONSTRATION
    )
    measured = figures("maml", [measured_model(i, 0.02 + i / 1000, -0.02) for i in range(3)]).to_meta_init
    found = judged({"maml": "maml"}, {"maml": measured}, generated=True)
    assert {sign.finding for sign in found} == {"demonstration"}
    assert described(found)[0] == ("maml same-task: claimed gain, a demonstration, +2.10 ± 0.25 points over 3 seeds.")
    assert described(found)[-1] == DEMONSTRATION
    assert not any(word in " ".join(described(found)) for word in ("confirmed", "refuted"))


def test_one_episode_and_one_seed_have_no_interval_to_speak_of() -> None:
    once = Mean(mean=0.4, ci95=None, n_episodes=1)
    delta = ProtocolMetrics(accuracy=once, delta=Delta(mean=0.02, ci95=None, p=None))
    text = describe_probe(
        CLAIMS, {"maml": ModelProbe(meta_init=ProtocolMetrics(accuracy=once), same_task=delta)} | {"metasgd": probe()}
    )
    assert text == "Findings on the paper's signs need more than one episode."
    measured = figures("maml", [measured_model(0, 0.02, -0.02)]).to_meta_init
    last = described(judged({"maml": "maml"}, {"maml": measured}))[-1]
    assert last == (
        "The paper's four signs: 0 confirmed, 0 refuted, 2 undecided, 0 equivalent. Fewer than 3 seeds decide nothing."
    )


def test_a_control_beside_a_claimed_model_is_named_as_one() -> None:
    delta = Delta(mean=0.02, ci95=0.001, p=1e-9)
    text = describe_probe({"maml": CLAIMS["maml"], "nonneg": {}}, {"maml": probe(delta), "nonneg": probe(delta)})
    assert text == (
        "Findings on the paper's signs are over episodes, for these models and classes only. "
        "The paper claims no sign of nonneg."
    )


EVIDENCE = Path(__file__).parents[1] / "docs" / "reproduction" / "cpu"


def test_the_four_signs_on_3000_episodes_are_corrected_and_tested_for_equivalence_as_in_a_separate_computation() -> (
    None
):
    measured = {}
    for run in ("maml", "metasgd"):
        models = json.loads((EVIDENCE / f"probe-3000-{run}.json").read_text())["metrics"]
        measured[run] = {
            protocol: combine_seeds({name: model[protocol]["delta"]["mean"] for name, model in models.items()})
            for protocol in ("same-task", "cross-task")
        }
    found = judged({"maml": "maml", "metasgd": "metasgd"}, measured)
    shown = []
    for sign in found:
        of_seeds = sign.measured
        assert of_seeds.p_holm is not None
        assert of_seeds.ci90 is not None
        low, high = (100 * (of_seeds.mean + side * of_seeds.ci90) for side in (-1, 1))
        shown.append((sign.run, sign.protocol, round(of_seeds.p_holm, 4), round(low, 2), round(high, 2), sign.finding))
    # p and 90 % intervals as recomputed by hand from the same files, in the issue that asked for them
    assert shown == [
        ("maml", "same-task", 0.0099, -0.36, -0.18, "refuted"),
        ("maml", "cross-task", 0.0003, -0.37, -0.29, "confirmed"),
        ("metasgd", "same-task", 0.0204, 0.13, 0.37, "refuted"),
        ("metasgd", "cross-task", 0.0512, 0.02, 0.17, "equivalent"),
    ]
    strict = signs({"maml": "maml", "metasgd": "metasgd"}, measured, smallest_effect=0.001)
    assert [sign.finding for sign in strict] == ["refuted", "confirmed", "refuted", "undecided"]


def test_four_signs_need_smaller_p_than_one() -> None:
    # p = 0.0296 each: below 0.05, but not four times
    measured = combine_seeds({"0": 0.01, "1": 0.02, "2": 0.03, "3": 0.02, "4": 0.0})
    both = {"same-task": measured, "cross-task": measured}
    assert measured.verdict == "positive"
    assert {sign.finding for sign in judged({"a": "maml", "b": "metasgd"}, {"a": both, "b": both})} == {"undecided"}


def test_tables_are_corrected_apart_and_a_repeated_nesting_keeps_its_form() -> None:
    measured = combine_seeds({"0": 0.010, "1": 0.011, "2": 0.012})
    p = 1 - 363**0.5 / 365**0.5  # of t = 363**0.5 with 2 degrees of freedom
    alone = combine_seeds({"0": 0.010})
    table = {"a": {"x": measured, "y": None}, "b": [measured, alone]}
    found = adjusted(table)
    assert found["a"]["x"].p_holm == pytest.approx(2 * p)
    assert (found["a"]["y"], found["b"][1].p_holm) == (None, None)
    assert [direction(of_seeds) for of_seeds in found["b"]] == [1, 0]


def test_edits_and_comparisons_are_corrected_within_their_tables_and_claimed_runs_have_the_p_of_the_family() -> None:
    sgd = [measured_model(i, 0.02 + i / 1000, -0.02 + i / 1000, edited=0.01 + i / 1000) for i in range(3)]
    known = {"sgd": sgd, "nonneg": [measured_model(i, 0.04 + i / 500, -0.02) for i in range(3)]}
    runs = {"sgd": run_figures(Run("sgd", "why", {}), known)}
    runs["nonneg"] = run_figures(Run("nonneg", "why", {}, counterpart="sgd"), known)
    found = judged({"sgd": "metasgd"}, {"sgd": runs["sgd"].to_meta_init})
    corrected = correct_exploratory(runs, found)
    assert corrected["sgd"].to_meta_init["same-task"] == found[0].measured
    edits = corrected["sgd"].edits_to_learned["absolute"]["same-task"], corrected["nonneg"].edits_to_learned["absolute"]
    assert edits[0].p is not None
    assert edits[0].p_holm == pytest.approx(2 * edits[0].p)  # the other two of the table are zero: no tests
    assert edits[1]["same-task"].p_holm is None
    assert corrected["nonneg"].to_counterpart["same-task"].p_holm is not None


def episodes(model: int, gain: float, *, seed: int = 0) -> EpisodeValues:
    """Return 400 episodes in which a model gains in proportion to the number of a class."""
    draw = Draw(400, 20, 5, seed, "test", "disjoint", "d")
    classes = draw.classes("same-task")
    assert classes is not None
    after = 0.5 + gain * (classes[0].double().mean(1) - 9.5) / 9.5 + 0.001 * model
    before = [0.4] * 400
    return EpisodeValues(draw, {"meta-init": before, "same-task": after.tolist(), "cross-task": after.tolist()})


def test_tasks_with_the_same_classes_have_one_role_that_the_episodes_identify() -> None:
    values = torch.rand(3, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = Draw(400, 20, 5, 0, "test", "same-classes", "d")
    found = combine_seeds({"0": 0.1, "1": 0.2, "2": 0.3}, [(draw, seed) for seed in values], "cross-task")
    assert found.new_classes is not None
    assert found.new_classes.n_classes == 20


def test_a_gain_that_differs_between_classes_is_certain_for_these_classes_and_not_for_others() -> None:
    drawn = [episodes(model, 0.2).delta("same-task") for model in range(3)]
    means = {str(i): values[1].mean().item() for i, values in enumerate(drawn) if values}
    found = combine_seeds(means, drawn, "same-task")
    assert found.new_classes is not None
    assert found.ci95 is not None
    assert found.ci95 < 0.003
    # the standard deviation of the classes is 0.2 * 5.916 / 9.5 = 0.1246; over 20 classes 0.0279
    assert found.new_classes.error == pytest.approx(0.0279, rel=0.05)
    assert found.new_classes.components.classes == pytest.approx(0.1246**2, rel=0.01)
    shrunk = design([found])
    assert shrunk["classes"] == pytest.approx(1 - 0.5**0.5, abs=0.01)
    assert shrunk["episodes"] == pytest.approx(0, abs=0.01)
    (sign, _) = judged({"m": "maml"}, {"m": {"same-task": found, "cross-task": found}})
    assert " points over 3 seeds and 20 classes, p " in described([sign])[0]
    assert "new seeds and new classes" in described([sign])[-1]


def test_seeds_that_were_probed_on_different_episodes_have_no_inference_for_new_classes() -> None:
    drawn = [episodes(model, 0.1, seed=model).delta("same-task") for model in range(3)]
    assert combine_seeds({"0": 0.1, "1": 0.1, "2": 0.2}, drawn, "same-task").new_classes is None
    assert combine_seeds({"0": 0.1, "1": 0.1, "2": 0.2}, [None, *drawn[1:]], "same-task").new_classes is None
