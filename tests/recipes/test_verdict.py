import pytest

from nilr.recipes.verdict import verdict
from nilr.results.probing import ModelProbe, ProtocolMetrics
from nilr.results.records import Delta, Mean


def figures(delta: Delta | None) -> ProtocolMetrics:
    return ProtocolMetrics(accuracy=Mean(mean=0.5, ci95=0.01, n_episodes=9), delta=delta)


def probe(same_task: Delta | None = None, cross_task: Delta | None = None) -> ModelProbe:
    return ModelProbe(
        meta_init=figures(None),
        same_task=figures(same_task) if same_task else None,
        cross_task=figures(cross_task) if cross_task else None,
    )


@pytest.mark.parametrize(
    ("algo", "delta", "said"),
    [
        ("maml", Delta(mean=0.02, ci95=0.01, p=0.01), "m same-task + shown (+2.00 ± 1.00 points)"),
        ("maml", Delta(mean=-0.02, ci95=0.01, p=0.01), "m same-task + contradicted (-2.00 ± 1.00 points)"),
        (
            "maml",
            Delta(mean=0.005, ci95=0.01, p=0.4),
            "m same-task + within the interval of zero (+0.50 ± 1.00 points)",
        ),
        ("metasgd", Delta(mean=-0.02, ci95=0.01, p=0.01), "m same-task - shown (-2.00 ± 1.00 points)"),
        ("metasgd", Delta(mean=0.02, ci95=0.01, p=0.01), "m same-task - contradicted (+2.00 ± 1.00 points)"),
        ("maml", Delta(mean=0.02, ci95=None, p=None), "m same-task + undecided (+2.00 points, one episode)"),
        (
            "maml",
            Delta(mean=0.0, ci95=0.0, p=None, verdict="exactly zero"),
            "m same-task + not shown (+0.00 points, exactly zero)",
        ),
    ],
)
def test_each_finding_has_its_words(algo: str, delta: Delta, said: str) -> None:
    assert said in verdict({"m": algo}, {"m": probe(same_task=delta)})


def test_all_four_signs_are_named() -> None:
    delta = Delta(mean=0.1, ci95=0.01, p=0.0)
    text = verdict({"a": "maml", "b": "metasgd"}, {"a": probe(delta, delta), "b": probe(delta, delta)})
    signs = ["a same-task + shown", "a cross-task - contradicted", "b same-task - contradicted", "b cross-task + shown"]
    assert all(sign in text for sign in signs)


def test_a_row_of_which_the_paper_says_nothing_is_not_judged() -> None:
    text = verdict({"m": "anil"}, {"m": probe(same_task=Delta(mean=0.1, ci95=0.01, p=0.0))})
    assert text.endswith("none was measured here.")
