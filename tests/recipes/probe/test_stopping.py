import math

import pytest
import torch
from torch import Tensor

from nilr.config.evaluation import ProbeSettings
from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.readings import NeighbourAccuracy
from nilr.recipes.probe.plan import ProbePlan
from nilr.recipes.probe.stopping import LEAST_EPISODES, correct, deltas_in, first_look, next_look, precision_note
from nilr.results.probe import EpisodeShare, HarmProbe, ModelProbe, ProtocolMetrics, Row
from nilr.results.records import Delta, Mean
from nilr.sections import edits
from nilr.sections.values import Values, paired_delta

ACCURACY = NeighbourAccuracy("nearest", "cosine")
BEFORE, SAME_TASK = (Quantity(condition, ACCURACY) for condition in (META_INIT, Condition("same-task")))


def probe(*p_values: float | None, ci95: float = 0.01) -> ModelProbe:
    def figures(p: float | None) -> ProtocolMetrics:
        delta = Delta(mean=0.02, ci95=ci95 if p is not None else 0.0, p=p, d=0.3 if p is not None else None)
        return ProtocolMetrics(accuracy=Mean(mean=0.5, ci95=0.01, n_episodes=100), delta=delta)

    meta_init = ProtocolMetrics(accuracy=Mean(mean=0.5, ci95=0.01, n_episodes=100))
    return ModelProbe(meta_init=meta_init, same_task=figures(p_values[0]), cross_task=figures(p_values[1]))


def probed(before: Tensor, after: Tensor) -> ModelProbe:
    plan = ProbePlan({"meta-init": BEFORE, "same-task": SAME_TASK}, {})
    return plan.summarise(Values({BEFORE: before, SAME_TASK: after}))


def test_every_p_of_the_protocols_is_adjusted_for_those_of_all_models() -> None:
    metrics = correct({"a": probe(0.01, 0.04), "b": probe(0.03, 0.005)})
    assert [delta.p_holm for delta in deltas_in(metrics)] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_each_section_is_a_family_of_tests_of_its_own() -> None:
    model = probe(0.01, 0.04)
    rows = {f"block{i}": Row(same_task=probe(0.002 * i, 0.5).same_task) for i in (1, 2, 3)}
    found = correct({"a": model.model_copy(update={"layers": rows})})["a"]
    assert (found.same_task.delta.p_holm, found.cross_task.delta.p_holm) == pytest.approx((0.02, 0.04))
    assert [row.same_task.delta.p_holm for row in found.layers.values()] == pytest.approx([0.006, 0.008, 0.008])


def test_intervals_of_the_excess_of_harm_count_in_the_precision() -> None:
    def share(ci95: float) -> EpisodeShare:
        means = [Mean(mean=0.1, ci95=width, n_episodes=100) for width in (0.001, 0.001, ci95)]
        return EpisodeShare(share=means[0], chance=means[1], excess=means[2])

    figures = {"turned_right": share(0).share, "turned_wrong": share(0).share}
    harm = HarmProbe(**figures, harmed=share(0.02), helped=share(0.08), unchanged=share(0.01))
    metrics = {"a": probe(0.1, 0.2).model_copy(update={"harm": {"same-task": harm}})}
    assert next_look(ProbeSettings(until_ci=0.04, n_episodes=100), metrics, 100) == 408
    note = precision_note(metrics, until_ci=0.04)
    # spread 0.08 * sqrt(100) / t(0.975, 99) = 0.4032; for 4 points: n >= (1.966 * 0.4032 / 0.04)^2 = 393
    assert note is not None
    assert "every paired interval is ± 8.00 points or narrower; ± 4 needs about 393 episodes" in note


def test_a_difference_in_two_places_of_a_section_counts_as_one_test() -> None:
    edited = Quantity(Condition("same-task", "negated"), ACCURACY)
    values = {
        BEFORE: torch.tensor([0.4, 0.5, 0.6, 0.5]).double(),
        edited: torch.tensor([0.3, 0.5, 0.5, 0.3]).double(),
        SAME_TASK: torch.tensor([0.5, 0.5, 0.7, 0.5]).double(),
    }
    entries = {"negated": {"same-task": edited}, "learned": {"same-task": SAME_TASK}}
    plan = ProbePlan({"meta-init": BEFORE, "same-task": edited}, {edits.SECTION: entries})
    model = correct({"a": plan.summarise(Values(values))})["a"]
    # three differences: negated and learned to meta-init, and negated to learned
    learned, negated = (model.edits[name].same_task for name in ("learned", "negated"))
    p = sorted([learned.delta.p, negated.delta.p, negated.delta_to_learned.p])
    assert min(learned.delta.p_holm, negated.delta.p_holm, negated.delta_to_learned.p_holm) == pytest.approx(3 * p[0])
    assert model.same_task.delta.p_holm == model.same_task.delta.p == negated.delta.p


def test_a_difference_without_a_test_is_not_corrected() -> None:
    metrics = correct({"a": probe(0.01, None)})
    assert [delta.p_holm for delta in deltas_in(metrics)] == [0.01, None]


def test_without_until_ci_the_probe_stops_after_n_episodes() -> None:
    settings = ProbeSettings(n_episodes=7)
    assert first_look(settings) == 7
    assert next_look(settings, {"a": probe(0.01, 0.02, ci95=0.5)}, 7) is None


def test_until_ci_needs_as_many_episodes_as_the_widest_interval() -> None:
    settings = ProbeSettings(until_ci=0.005, n_episodes=100)
    assert next_look(settings, {"a": probe(0.1, 0.2, ci95=0.01), "b": probe(0.1, 0.2, ci95=0.002)}, 100) == 408
    assert next_look(settings, {"a": probe(0.1, 0.2, ci95=0.005)}, 100) is None


def test_max_episodes_ends_the_probe() -> None:
    settings = ProbeSettings(until_ci=0.0001, n_episodes=100, max_episodes=300)
    assert next_look(settings, {"a": probe(0.1, 0.2)}, 100) == 300
    assert next_look(settings, {"a": probe(0.1, 0.2)}, 300) is None


def test_the_probe_does_not_stop_on_very_few_episodes() -> None:
    assert first_look(ProbeSettings(until_ci=0.01, n_episodes=1)) == LEAST_EPISODES


def test_stopping_by_width_preserves_the_coverage() -> None:
    """True null, first look at 50: over 2,000 stopped runs the interval must cover 95 % to its own error, less 1 %."""
    generator, repetitions, covered = torch.Generator().manual_seed(11), 2_000, 0
    settings, sizes = ProbeSettings(until_ci=0.015, n_episodes=50), set()
    for _ in range(repetitions):
        stream = ((torch.rand(2, 800, 30, generator=generator) < 0.5).double().mean(-1)).double()
        done = first_look(settings)
        while True:
            before, after = stream[:, :done]
            metrics = {"m": probed(before, after)}
            more = next_look(settings, metrics, done)
            if more is None:
                break
            done = more
        delta = deltas_in(metrics)[0]
        covered += abs(delta.mean) <= (delta.ci95 or 0)
        sizes.add(done)
    assert len(sizes) > 50
    assert max(sizes) < 800
    share = covered / repetitions
    assert 0.94 - 3.5 * math.sqrt(0.95 * 0.05 / repetitions) < share < 0.95 + 3.5 * math.sqrt(0.95 * 0.05 / repetitions)


def test_the_note_gives_the_precision_and_the_episodes_needed_for_more() -> None:
    values = torch.tensor([0.0, 0.1] * 50, dtype=torch.float64)
    reference = torch.zeros(100, dtype=torch.float64)
    note = precision_note({"m": probed(reference, values)}, until_ci=0.005)
    # spread 0.05025, t(0.975, 99) = 1.984: 0.997 points; for 0.5: n >= (1.966 * 0.05025 / 0.005)^2 = 391
    assert note is not None
    assert (
        "Over 100 episodes, every paired interval is ± 1.00 points or narrower; ± 0.5 needs about 391 episodes" in note
    )


def test_the_note_announces_no_certainty_and_no_interval_of_zero() -> None:
    values = torch.tensor([0.0, 1e-5] * 50, dtype=torch.float64)
    note = precision_note({"m": probed(torch.zeros(100, dtype=torch.float64), values)}, until_ci=None)
    assert note is not None
    # a hundred times as narrow as above, and more: 0.0001 points
    assert "is ± 0.0001 points or narrower" in note
    assert note.endswith("found with a probability of more than 99 %.")


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5]])
def test_there_is_no_note_without_an_interval(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    metrics = {"m": probed(tensor, tensor)}
    assert precision_note(metrics, until_ci=None) is None


def test_a_bootstrap_delta_carries_its_bounds() -> None:
    values = torch.empty(80, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
    delta = paired_delta(values, torch.zeros(80, dtype=torch.float64), interval="bootstrap", seed=1)
    assert delta.low is not None
    assert delta.high is not None
    assert delta.ci95 == pytest.approx((delta.high - delta.low) / 2)
    assert delta.high - delta.mean > delta.mean - delta.low
