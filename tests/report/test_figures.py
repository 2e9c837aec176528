import dataclasses
import itertools
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from matplotlib import rcParams

from nilr.report.contents import KINDS, contents
from nilr.report.figures.figure import Kind, Material
from nilr.report.figures.seeds import short_names
from nilr.report.style import LINES, NARROW, WIDE, WIDTHS, Frame, Look, picture, report_style, svg, wrapped
from tests.report.material import (
    HISTORY,
    cells,
    everything,
    full_probe,
    full_rates,
    material,
    rates_of,
    rates_result,
    result,
    used,
)

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def kind_named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def sentence(name: str, given: Material) -> str:
    drawing = kind_named(name).make(given)
    assert drawing is not None
    return drawing.sentence


def one(same: float, cross: float, **change: Any) -> dict[str, Any]:
    return result("probe", {"m": cells(0.4, same, cross)}, [used("m", "maml", 0, "r")], **change)


@pytest.mark.sampled(3)
@every_kind
def test_every_figure_is_drawn_wide_and_narrow(kind: Kind) -> None:
    drawing = kind.make(everything())
    assert drawing is not None
    assert drawing.sentence.endswith(".")
    assert all(len(row) == len(drawing.table.header) for row in drawing.table.rows)
    for width in (WIDE, NARROW):
        root = ET.fromstring(svg(drawing.draw, width))
        assert float(root.attrib["width"].removesuffix("pt")) == width


@pytest.mark.sampled(8)
@every_kind
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_labels_of_rows_do_not_overlap(kind: Kind, width: float) -> None:
    drawing = kind.make(everything())
    assert drawing is not None
    with report_style(Look()):
        figure = drawing.draw(Frame(width))
        figure.canvas.draw()
        for axes in figure.axes:
            drawn = [label for label in axes.get_yticklabels() if axes.get_visible() and label.get_text().strip()]
            boxes = sorted((label.get_window_extent() for label in drawn), key=lambda box: box.y0)
            assert all(below.y1 <= above.y0 + 2 for below, above in itertools.pairwise(boxes))


def test_a_number_is_not_broken_over_lines() -> None:
    assert wrapped("rates that start at 0.001", 22) == "rates that start at\n0.001"
    assert wrapped("uniform:0.005,0.1", 14) == "uniform:0.005,\n0.1"


@every_kind
def test_a_figure_without_its_numbers_is_left_out_and_says_what_has_them(kind: Kind) -> None:
    empty = material()
    assert kind.make(empty) is None
    assert kind in contents(empty).left_out


def test_a_figure_is_the_same_picture_every_time() -> None:
    drawing = kind_named("protocols").make(everything())
    assert drawing is not None
    for form, begins in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        made = picture(drawing.draw, form, Look())
        assert made == picture(drawing.draw, form, Look())
        assert made.startswith(begins)


def test_a_figure_for_a_paper_is_as_wide_as_a_column_with_text_of_eight_points() -> None:
    drawing = kind_named("protocols").make(everything())
    assert drawing is not None
    root = ET.fromstring(picture(drawing.draw, "svg", Look(WIDTHS["column"], paper=True)))
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(3.35 * 72)
    assert not list(root.iter("{http://www.w3.org/2000/svg}text"))  # drawn as paths: no font is needed
    made = picture(drawing.draw, "pdf", Look(WIDTHS["column"], paper=True))
    assert b"/Subtype /Type3" not in made
    assert b"STIXGeneral" in made
    with report_style(Look(paper=True)):
        assert rcParams["font.size"] == 8.0


def test_a_long_name_is_wrapped_and_never_shortened() -> None:
    name = "demo-metasgd-init-uniform-0.005-0.1-without-momentum-s0"
    for frame in (Frame(WIDE), Frame(NARROW)):
        lines = frame.label(name).split("\n")
        assert "".join(lines) == name
        assert max(map(len, lines)) <= (14 if frame.narrow else 28)


def test_curves_of_several_seeds_are_one_panel_pair_with_intervals_over_seeds() -> None:
    drawing = kind_named("layers").make(material(full_probe(seeds=3)))
    assert drawing is not None
    # of maml the effects after block4 are 1.8, 2.1 and 2.4: 4.303 * 0.3 / sqrt(3) = 0.75
    assert drawing.sentence.startswith("maml, 3 seeds: the largest same-task difference is +2.10 ± 0.75 points, after")
    axes = drawing.draw(Frame(WIDE)).axes
    assert [one.get_title() for one in axes] == ["maml, 3 seeds", "metasgd, 3 seeds", "", ""]
    spans = [line.get_ydata() for line in axes[2].lines if len(set(line.get_xdata())) == 1]
    assert any(list(span) == pytest.approx([2.1 - 0.745, 2.1 + 0.745], abs=1e-3) for span in spans)


def test_maps_of_a_model_stand_in_a_row_with_a_column_for_each_protocol() -> None:
    drawing = kind_named("similarity").make(material(full_probe()))
    assert drawing is not None
    titles = [axes.get_title().replace("\n", " ") for axes in drawing.draw(Frame(WIDE)).axes if axes.get_visible()]
    assert titles == ["maml, same-task", "maml, cross-task", "metasgd, same-task", "metasgd, cross-task"]


def test_histograms_share_their_horizontal_axis() -> None:
    drawing = kind_named("rates").make(material(full_rates()))
    assert drawing is not None
    assert len({axes.get_xlim() for axes in drawing.draw(Frame(WIDE)).axes}) == 1


def test_few_models_are_told_one_by_one() -> None:
    assert sentence("protocols", material(one(0.021, -0.012))) == (
        "Same-task adaptation changes accuracy by +2.10 ± 0.30 points in m. Cross-task adaptation changes accuracy by "
        "-1.20 ± 0.30 points in m."
    )


def test_many_models_are_counted_by_the_side_of_their_interval() -> None:
    values = {"up": 0.02, "up-2": 0.01, "down": -0.03, "none": 0.001}
    metrics = {name: cells(0.4, value, value) for name, value in values.items()}
    probe = result("probe", metrics, [used(name, "maml", 0, None) for name in values])
    assert sentence("protocols", material(probe)).startswith(
        "Same-task adaptation raises accuracy in 2 of 4 models, lowers it in 1, and has no clear effect in 1. "
        "The largest difference is -3.00 ± 0.30 points, in down. Cross-task"
    )


def test_a_probe_of_meta_init_alone_is_a_figure_too() -> None:
    metrics = {"m": {"meta-init": cells(0.4, 0, 0)["meta-init"]}}
    probe = material(result("probe", metrics, [used("m", "maml", 0, "r")]))
    assert sentence("protocols", probe) == "Accuracy before adaptation: m 40.0 %."
    drawing = kind_named("protocols").make(probe)
    assert drawing is not None
    svg(drawing.draw, NARROW)


def test_a_single_episode_is_drawn_without_an_interval() -> None:
    content = one(0.02, 0.01)
    for figures in content["metrics"]["m"].values():
        for part in ("accuracy", "delta"):
            if figures[part] is not None:
                figures[part] = {k: v for k, v in figures[part].items() if k not in ("low", "high")} | {"ci95": None}
    drawing = kind_named("protocols").make(material(content))
    assert drawing is not None
    assert "by +2.00 points in m" in drawing.sentence
    svg(drawing.draw, WIDE)


def test_three_seeds_that_agree_give_a_verdict_and_two_never_do() -> None:
    def seeds(*differences: float) -> Material:
        return material(
            *(
                result("probe", {f"m{i}": cells(0.4, d, d)}, [used(f"m{i}", "maml", i, "r")])
                for i, d in enumerate(differences)
            )
        )

    # mean 2, spread 0.1, t(0.975, 2) = 4.30: 4.30 * 0.1 / sqrt(3) = 0.25
    assert sentence("seeds", seeds(0.019, 0.02, 0.021)).startswith(
        "maml, same-task, 3 seeds: from 40.0 to 42.0 %, +2.00 ± 0.25 points, standard deviation 0.10, positive; maml,"
    )
    assert "undecided (a verdict needs at least 3 seeds)" in sentence("seeds", seeds(0.02, 0.02001))
    assert next(kind for kind in KINDS if kind.name == "seeds").make(seeds(0.02)) is None


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((("demo-maml-s0", "demo-maml-s1"), ("demo-maml-1step-s0", "demo-maml-1step-s1")), ["maml", "maml-1step"]),
        ((("maml-seed0", "maml-seed10"), ("maml-1step-seed0", "maml-1step-seed1")), ["maml", "maml-1step"]),
        ((("maml-s10", "maml-s11"), ("fast-s1", "fast-s2")), ["maml", "fast"]),
        ((("maml-first", "other"), ("maml-1step-s0", "maml-1step-s1")), ["", "maml-1step"]),
    ],
)
def test_groups_of_seeds_are_called_by_what_their_models_names_share(
    groups: tuple[tuple[str, ...], ...], said: list[str]
) -> None:
    assert short_names(groups) == said


def test_recipes_of_one_algorithm_are_told_apart_by_name_over_seeds() -> None:
    models = [("demo-maml-s0", 0, "a"), ("demo-maml-s1", 1, "a"), ("demo-maml-1step-s0", 0, "b")]
    models.append(("demo-maml-1step-s1", 1, "b"))
    probes = (result("probe", {name: cells(0.4, 0.02, 0.02)}, [used(name, "maml", i, r)]) for name, i, r in models)
    said = sentence("seeds", material(*probes))
    assert said.startswith("maml, same-task, 2 seeds")
    assert "maml-1step, same-task, 2 seeds" in said


def test_edits_are_compared_with_the_learned_rates() -> None:
    said = sentence("edits", material(full_probe()))
    # The fixture's last edit changes same-task by 0.4 points times 7, downwards; the interval is 0.3 wide.
    assert said.startswith(
        "Same-task: compared with the learned rates, accuracy changes in 14 of 14 edits (p below 0.05 after Holm's "
        "correction). The largest change is -2.80 ± 0.30 points, with 0.01 in maml."
    )


def test_the_parts_of_an_effect_are_given_by_model_and_over_seeds() -> None:
    # The fixture's effect is even but for a tenth; random signs give a tenth of it.
    assert sentence("directions", material(full_probe())).startswith(
        "maml, same-task, points: effect +2.10 ± 0.30, odd +0.21 ± 0.20, even +1.89 ± 0.20, random signs +0.21 ± 0.30, "
        "gaussian 0.00 ± 0.30. maml, cross-task, points: effect -1.20 ± 0.30,"
    )
    # effects 1.8, 2.1 and 2.4 in three seeds: 4.303 * 0.3 / sqrt(3) = 0.75
    assert sentence("directions", material(full_probe(seeds=3))).startswith(
        "maml, same-task, 3 seeds, points: effect +2.10 ± 0.75, odd +0.21 ± 0.07, even +1.89 ± 0.67, random signs "
        "+0.21 ± 0.07, gaussian exactly 0."
    )


def test_harmed_and_helped_episodes_are_compared_with_chance() -> None:
    assert sentence("harm", material(full_probe())).startswith(
        "maml, same-task: harmed 34.5 % of the episodes, -10.50 ± 4.00 points compared with chance; helped 55.5 % of "
        "the episodes, +10.50 ± 4.00 points compared with chance. maml, cross-task: harmed 51.0 % of the episodes, "
    )


def test_the_range_over_permutations_is_given_for_head_and_neighbours() -> None:
    assert sentence("permutations", material(full_probe())).startswith(
        "maml, same-task, own-head: standard deviation over permutations of the labels 2.00 points, from 38.0 % with "
        "the worst to 46.0 % with the best. maml, same-task, neighbours: standard deviation over"
    )


def test_the_rates_are_summed_over_layers_by_their_number() -> None:
    layers = {"block1": rates_of(300, [0.0, 0.2], [300], 0.0), "head": rates_of(100, [-0.1, 0.1], [100], 0.5)}
    assert sentence("rates", material(rates_result("sgd", layers))) == (
        "Negative rates: 12.5 % in sgd (50.0 % in head, the largest share)."
    )


def test_a_bin_around_zero_is_cut_there() -> None:
    layers = {"head": rates_of(100, [-0.1, 0.1], [100], 0.5)}
    drawing = next(kind for kind in KINDS if kind.name == "rates").make(material(rates_result("sgd", layers)))
    assert drawing is not None
    patches = drawing.draw(Frame(WIDE)).axes[0].patches
    spans = sorted((patch.get_path().get_extents().x0, patch.get_path().get_extents().x1) for patch in patches)
    assert spans == [(-0.1, 0.0), (0.0, 0.1)]


@pytest.mark.parametrize(("rate", "title"), [(0.05, "head: fixed at 0.05"), (-0.2, "head: fixed at -0.2")])
def test_a_fixed_rate_is_one_mark_at_its_value(rate: float, title: str) -> None:
    one = {**rates_of(100, [0.0, 2 * rate] if rate > 0 else [2 * rate, 0.0], [100], 0.0), "mean": rate, "std": 1e-10}
    drawing = next(kind for kind in KINDS if kind.name == "rates").make(material(rates_result("maml", {"head": one})))
    assert drawing is not None
    axes = drawing.draw(Frame(WIDE)).axes[0]
    assert not axes.patches
    marks = [line for line in axes.lines if line.get_marker() not in (None, "None", "")]
    assert [list(line.get_xdata()) for line in marks] == [[rate]]
    assert axes.get_title() == f"maml\n{title}"


def test_the_history_says_where_the_share_ends_and_which_layer_leads() -> None:
    # The fixture's share grows by 3 % every 100 updates from 0 to 900; the head's by 5 %.
    assert sentence("share-negative", material(histories=(HISTORY,))) == (
        "In metasgd, 27.0 % of the rates are negative after 900 updates (0.0 % after 0). The layer with the largest "
        "share is head (45.0 %)."
    )
    other = dataclasses.replace(HISTORY, label="other", share_negative=[0.1] * 10, by_layer={})
    said = sentence("share-negative", material(histories=(HISTORY, other)))
    assert said.startswith("At the end of training, between 10.0 % (other) and 27.0 % (metasgd)")


def test_a_training_is_told_by_its_best_validation_and_its_last_loss() -> None:
    assert sentence("training", material(histories=(HISTORY,))) == (
        "In metasgd, validation accuracy is highest after 500 updates (38.0 %). The query loss ends at 1.10."
    )
    many = tuple(dataclasses.replace(HISTORY, label=f"m{i}", recipe="r") for i in range(4))
    drawing = kind_named("training").make(material(histories=many))
    assert drawing is not None
    assert "of 4 models is between 38.0 % and 38.0 %, after 500 to 500 updates" in drawing.sentence
    _, validation = drawing.draw(Frame(WIDE)).axes
    assert [line.get_ydata()[0] for line in validation.lines if line.get_linestyle() != "-"][-1] == 20  # chance, 5-way


def test_layers_are_drawn_of_models_with_negative_rates_and_no_legend_lies_over_a_line() -> None:
    never = dataclasses.replace(HISTORY, label="never", share_negative=[0.0] * 10, by_layer={"head": [0.0] * 10})
    drawing = next(k for k in KINDS if k.name == "share-negative").make(material(histories=(HISTORY, never)))
    assert drawing is not None
    figure = drawing.draw(Frame(WIDE))
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["all rates", "metasgd"]
    for axes in panels:
        below = axes.get_legend().get_window_extent().y0
        assert all(line.get_window_extent().y1 < below for line in axes.get_lines())


def test_more_models_than_lines_can_be_told_apart_have_no_legend() -> None:
    many = tuple(dataclasses.replace(HISTORY, label=f"m{i}", by_layer={}) for i in range(len(LINES) + 1))
    drawing = next(k for k in KINDS if k.name == "share-negative").make(material(histories=many))
    assert drawing is not None
    axes = drawing.draw(Frame(WIDE)).axes[0]
    assert (axes.get_legend(), axes.get_title()) == (None, f"all rates, {len(many)} models")
    assert [row[0] for row in drawing.table.rows] == [history.label for history in many]


def test_a_long_history_is_drawn_with_as_many_points_as_a_line_can_show_and_ends_where_it_ends() -> None:
    shares = [i / 12_000 for i in range(6_001)]
    long = dataclasses.replace(HISTORY, steps=range(0, 60_010, 10), share_negative=shares, by_layer={"head": shares})
    drawing = next(k for k in KINDS if k.name == "share-negative").make(material(histories=(long,)))
    assert drawing is not None
    for axes in drawing.draw(Frame(WIDE)).axes:
        (line,) = axes.get_lines()
        steps, drawn = line.get_xdata(), line.get_ydata()
        assert 100 < len(steps) <= 250
        assert list(drawn) == pytest.approx([100 * step / 120_000 for step in steps])
        assert (steps[-1], drawn[-1]) == (60_000, 50.0)


def test_curves_say_where_adaptation_moves_most_and_steps_come_in_order() -> None:
    content = full_probe()
    steps = content["metrics"]["maml"]["steps"]
    content["metrics"]["maml"]["steps"] = {k: steps[k] for k in sorted(steps)}
    drawing = next(kind for kind in KINDS if kind.name == "steps").make(material(content))
    assert drawing is not None
    assert [row[1] for row in drawing.table.rows[:33:3]] == [str(k) for k in range(11)]
    assert "maml: the largest same-task difference is +2.09 ± 0.30 points, after step 10;" in drawing.sentence


def test_a_single_step_has_no_halves() -> None:
    content = full_probe()
    content["metrics"]["maml"]["steps"] = {k: content["metrics"]["maml"]["steps"][k] for k in ("0", "1")}
    drawing = next(kind for kind in KINDS if kind.name == "steps").make(material(content))
    assert drawing is not None
    assert all(tick == round(tick) for tick in drawing.draw(Frame(WIDE)).axes[0].get_xticks())


def test_a_map_says_where_the_features_change_most() -> None:
    assert sentence("similarity", material(full_probe())).startswith(
        "cka of maml (same-task) is lowest in block4 (0.83), cka of maml (cross-task) is lowest in block4 (0.77)"
    )


def test_a_measure_that_is_undefined_everywhere_is_left_blank() -> None:
    content = full_probe()
    same_task = content["metrics"]["maml"]["similarity"]["same-task"]
    for measures in same_task.values():
        measures["cka"] = None
    same_task["block2"]["svcca"] = None
    content["metrics"]["metasgd"]["similarity"] = {"same-task": {"block1": {"cka": None}}}
    drawing = next(kind for kind in KINDS if kind.name == "similarity").make(material(content))
    assert drawing is not None
    assert drawing.sentence.startswith("svcca of maml (same-task) is lowest in block4")
    assert "metasgd" not in drawing.sentence
    svg(drawing.draw, NARROW)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x^2$", "_hidden", "<b>&\"'", "a" * 300, "模型", r"\frac{1}{2}", "%s {0} \\g<1>"])
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    content = full_probe()
    content["metrics"] = {name: content["metrics"]["maml"], "other": content["metrics"]["metasgd"]}
    given = dataclasses.replace(
        material(content, full_rates(name)), histories=(dataclasses.replace(HISTORY, label=name),)
    )
    for _, drawing in contents(given).figures:
        text = "".join(ET.fromstring(svg(drawing.draw, NARROW)).itertext())
        assert name[:5].strip() in text
