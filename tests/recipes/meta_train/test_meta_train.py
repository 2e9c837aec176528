from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import load_checkpoint
from nilr.config.base import Settings
from nilr.config.meta_train import TrainSettings
from nilr.episodes import Episode, EpisodeSampler, stream_seed
from nilr.errors import CheckpointError, DivergedError, EpisodeError, Interrupted, NilrError, StoreError, UsageError
from nilr.history import find_failure
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.registry import AUTO
from nilr.meta.inner_lr import initial_rates
from nilr.models.registry import build_learner
from nilr.recipes import meta_train
from nilr.recipes.common.packs import open_split
from nilr.recipes.models import list_models
from nilr.reporting import SilentReporter
from nilr.store import Store
from tests.meta.engine.test_engines import conv4_logits, query_loss
from tests.training_states import read_state, write_state

pytestmark = pytest.mark.usefixtures("pack", "one_thread")


class SignalAt(SilentReporter):
    """Sends this process a signal after some updates."""

    def __init__(self, updates: int, signum: int = signal.SIGINT) -> None:
        self.left, self.signum = updates, signum

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left == 0:
            signal.raise_signal(self.signum)


def train(**settings: Any) -> Path:
    """Train and return the model's directory."""
    result = meta_train.run(TrainSettings(**settings), SilentReporter())
    return _models() / str(result.config["name"])


def _models() -> Path:
    import os

    return Path(os.environ["NILR_HOME"]) / "models"


def contents(directory: Path) -> dict[str, Any]:
    """Return all that a training leaves behind, without times."""
    kept: dict[str, Any] = {"history": (directory / "history.jsonl").read_text()}
    for name in ("last", "best"):
        checkpoint = load_checkpoint(directory / f"{name}.safetensors")
        kept[name] = (checkpoint.digest, checkpoint.manifest.outer_step, checkpoint.manifest.metrics)
    tensors, values = read_state(directory / "training.safetensors")
    kept["state"] = {name: tensor.tolist() for name, tensor in tensors.items()}
    kept["progress"] = values["progress"]
    return kept


@pytest.mark.sampled(4)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_trains_and_leaves_a_model(algo: str, quick: dict[str, Any]) -> None:
    directory = train(algo=algo, **quick)
    assert directory.name == algo
    assert {path.name for path in directory.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "training.safetensors",
        "history.jsonl",
    }
    manifest = load_checkpoint(directory / "last.safetensors").manifest
    assert manifest.outer_step == 8
    row = ALGORITHMS[algo]
    assert manifest.settings["inner_steps"] == row.inner_steps
    assert manifest.settings["eval_inner_steps"] == row.eval_inner_steps


@pytest.mark.parametrize("algo", ["maml", "metasgd"])
def test_inductive_training_starts_from_the_loss_of_an_independent_network(algo: str, quick: dict[str, Any]) -> None:
    steps = quick | {"outer_steps": 1, "eval_every": 0, "log_every": 1, "save_every": 1}
    directory = train(algo=algo, batch_stats="inductive", **steps)
    checkpoint = load_checkpoint(directory / "last.safetensors")
    assert checkpoint.manifest.settings["batch_stats"] == "inductive"
    learner = build_learner("conv4", n_way=3, image_size=16, filters=4, seed=stream_seed(0, "weights"))
    params = {name: value.double().requires_grad_() for name, value in learner.initial_params().items()}
    rates = initial_rates(ALGORITHMS[algo], params, learner.kinds, stream_seed(0, "rates"))
    images = open_split(Store(None).find_data("mini-imagenet"), "train", torch.device("cpu")).images
    drawn = EpisodeSampler(images, 3, 1, 3, 0, "train").draw([0, 1])
    episodes = Episode(drawn.support_x.double(), drawn.support_y, drawn.query_x.double(), drawn.query_y)
    row = ALGORITHMS[algo]
    losses = [
        query_loss("conv4", params, rates, episodes[i], row.inner_steps, row=row, inductive=True).item()
        for i in range(2)
    ]
    logged = json.loads((directory / "history.jsonl").read_text().splitlines()[0])
    assert logged["query_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    logits = [conv4_logits(params, episode.query_x, episode.support_x) for episode in (episodes[0], episodes[1])]
    right = [(values.argmax(1) == episodes.query_y[0]).double().mean().item() for values in logits]
    assert logged["accuracy_before"] == pytest.approx(sum(right) / 2)
    with pytest.raises(StoreError, match="trained with --batch-stats inductive, not with apart"):
        train(resume=directory.name, batch_stats="apart")
    other = "maml" if algo != "maml" else "metasgd"
    with pytest.raises(StoreError, match=f"trained with --algo {algo}, not with {other}"):
        train(resume=directory.name, algo=other)


def test_training_lowers_the_loss(quick: dict[str, Any]) -> None:
    settings = quick | {"filters": 8, "outer_steps": 120, "outer_lr": 5e-3, "eval_every": 0, "log_every": 1}
    directory = train(algo="metasgd", inner_lr_init="0.05", **settings)
    losses = [json.loads(line)["query_loss"] for line in (directory / "history.jsonl").read_text().splitlines()]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_the_same_seed_gives_the_same_model_and_another_seed_another(quick: dict[str, Any]) -> None:
    first, again, other = (train(algo="maml", seed=seed, **quick) for seed in (1, 1, 2))
    assert (first.name, again.name, other.name) == ("maml", "maml-2", "maml-3")
    assert contents(first) == contents(again)
    assert contents(first)["last"] != contents(other)["last"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("algo", ["maml", "metasgd"])
@pytest.mark.parametrize("updates", [1, 3, 4, 7])
def test_an_interrupted_training_resumes_bit_for_bit(algo: str, updates: int, quick: dict[str, Any]) -> None:
    whole = train(algo=algo, name="whole", **quick)
    settings = TrainSettings(algo=algo, name="halved", **quick)
    with pytest.raises(Interrupted) as caught:
        meta_train.run(settings, SignalAt(updates))
    assert caught.value.hint == "resume with `nilr meta-train --resume halved`"
    assert load_checkpoint(_models() / "halved" / "last.safetensors").manifest.outer_step == updates
    resumed = train(algo=algo, name="halved", resume="auto", **quick)
    assert contents(resumed) == contents(whole)


def test_a_resumed_training_keeps_the_engine_that_auto_chose(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(AUTO, "cpu", ("explicit",))
        with pytest.raises(Interrupted):
            meta_train.run(TrainSettings(algo="metasgd", name="kept", **quick), SignalAt(1))
    train(resume="kept")
    assert load_checkpoint(_models() / "kept" / "last.safetensors").manifest.engine == "explicit"


VARIANTS: dict[str, dict[str, Any]] = {
    "lslr": {"algo": "lslr", "inner_steps": 3, "outer_lr_schedule": "cosine", "multi_step_loss": True},
    "sparse-maml": {"algo": "sparse-maml", "inner_steps": 2, "inner_lr_init": "uniform-each:-0.02,0.02"},
    "one non-negative rate": {"algo": "metasgd", "rate_grain": "scalar", "rate_constraint": "non-negative"},
    "bounded, by step": {
        "algo": "metasgd", "rate_per_step": True, "inner_steps": 2, "rate_constraint": "bounded:-0.01,0.05",
    },
}  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_training_with_any_kind_of_rates_resumes_bit_for_bit(
    variant: str, quick: dict[str, Any]
) -> None:
    settings = quick | {"outer_steps": 20, "outer_lr": 0.01} | VARIANTS[variant]
    whole = train(name="whole", **settings)
    with pytest.raises(Interrupted):
        # in the first 15 % of the run, while all losses of a multi-step loss count
        meta_train.run(TrainSettings(name="halved", **settings), SignalAt(2))
    assert contents(train(resume="halved", threads=1)) == contents(whole)


def test_a_checkpoint_has_the_rates_that_the_inner_loop_uses(quick: dict[str, Any]) -> None:
    sparse = train(**(quick | VARIANTS["sparse-maml"]))
    state, _ = read_state(sparse / "training.safetensors")
    kept = load_checkpoint(sparse / "last.safetensors").inner_lr
    learned = {name.removeprefix("inner_lr/"): value for name, value in state.items() if name.startswith("inner_lr/")}
    assert min(float(value.min()) for value in learned.values()) < 0
    assert all(torch.equal(kept[name], value.relu()) for name, value in learned.items())
    scalar = train(**(quick | VARIANTS["one non-negative rate"]))
    state, _ = read_state(scalar / "training.safetensors")
    kept = load_checkpoint(scalar / "last.safetensors").inner_lr
    assert kept.keys() == load_checkpoint(scalar / "last.safetensors").params.keys()
    assert {float(rate) for rate in kept.values()} == {float(state["inner_lr/all"])}
    lslr = load_checkpoint(train(**(quick | VARIANTS["lslr"])) / "last.safetensors").inner_lr
    assert lslr["body.block1.conv.weight"].shape == (3, 1, 1, 1, 1)
    assert lslr["head.bias"].shape == (3, 1)


@pytest.mark.parametrize(
    ("constraint", "low", "high"), [("non-negative", 0.0, 1.0), ("bounded:-0.005,0.025", -0.005, 0.025)]
)
def test_constrained_rates_stay_in_their_range_and_reach_its_bound(
    constraint: str, low: float, high: float, quick: dict[str, Any]
) -> None:
    settings = quick | {"algo": "metasgd", "inner_lr_init": "0.02", "outer_lr": 0.01, "eval_every": 0}
    free = load_checkpoint(train(**settings) / "last.safetensors").inner_lr
    assert min(float(rate.min()) for rate in free.values()) < -0.01
    directory = train(rate_constraint=constraint, **settings)
    kept = load_checkpoint(directory / "last.safetensors")
    values = torch.cat([rate.flatten() for rate in kept.inner_lr.values()])
    assert float(values.min()) == pytest.approx(low)
    assert float(values.max()) <= high + 1e-9
    assert kept.manifest.algorithm["constraint"] == kept.manifest.settings["rate_constraint"] == constraint


def test_the_history_keeps_the_share_of_negative_rates_by_layer(quick: dict[str, Any]) -> None:
    settings = quick | {"outer_lr": 0.01, "log_every": 1, "eval_every": 0}
    directory = train(algo="metasgd", inner_lr_init="0.02", **settings)
    rates = load_checkpoint(directory / "last.safetensors").inner_lr
    last = json.loads((directory / "history.jsonl").read_text().splitlines()[-1])
    by_layer = last["share_negative_by_layer"]
    assert list(by_layer) == ["block1", "block2", "block3", "block4", "head"]
    head = torch.cat([rates["head.weight"].flatten(), rates["head.bias"]])
    assert by_layer["head"] == int((head < 0).sum()) / len(head)
    assert 0 < last["share_negative"] < 1
    fixed = json.loads((train(**settings) / "history.jsonl").read_text().splitlines()[-1])
    assert (fixed["share_negative"], fixed["share_negative_by_layer"]) == (None, None)


def test_a_result_and_a_checkpoint_record_the_resolved_settings(quick: dict[str, Any]) -> None:
    result = meta_train.run(TrainSettings(algo="lslr", multi_step_loss=True, **quick), SilentReporter())
    told = {"rate_grain": "tensor", "rate_per_step": True, "rate_constraint": "free", "inner_lr_init": "0.01"}
    told |= {"outer_lr_schedule": "constant", "multi_step_loss": True, "inner_lr": None}
    assert told.items() <= result.config.items()
    manifest = load_checkpoint(_models() / "lslr" / "last.safetensors").manifest
    assert told.items() <= manifest.settings.items()
    row = {"rates": "tensor", "per_step": True, "constraint": "free", "rectified": False}
    assert row.items() <= manifest.algorithm.items()


def test_the_schedule_and_the_multi_step_loss_reach_the_outer_step(quick: dict[str, Any]) -> None:
    def learned(updates: int, **how: Any) -> dict[str, Any]:
        settings = quick | {"eval_every": 0, "outer_steps": updates} | how
        return read_state(train(algo="lslr", inner_steps=2, **settings) / "training.safetensors")[0]

    plain, cosine, weighed = (
        learned(2, **how) for how in ({}, {"outer_lr_schedule": "cosine"}, {"multi_step_loss": True})
    )
    first = learned(1)
    name = "params/head.bias"
    # halfway through the cosine, Adam's second step is of half the rate; its moments know nothing of that
    assert torch.equal(learned(1, outer_lr_schedule="cosine")[name], first[name])
    for key in plain:
        if key.startswith(("params/", "inner_lr/")):
            halved = first[key] + (plain[key] - first[key]) / 2
            torch.testing.assert_close(cosine[key], halved, rtol=0, atol=1e-6)
    assert not torch.equal(weighed[f"adam/exp_avg/{name}"], plain[f"adam/exp_avg/{name}"])


def test_a_training_state_without_newer_settings_resumes(quick: dict[str, Any]) -> None:
    whole = train(algo="metasgd", name="whole", **(quick | {"outer_steps": 12}))
    state = train(algo="metasgd", name="older", **quick) / "training.safetensors"
    tensors, values = read_state(state)
    settings: Any = values["settings"]
    for name in ("rate_grain", "rate_per_step", "rate_constraint", "outer_lr_schedule", "multi_step_loss"):
        del settings[name]
    for name, resume in (("older", "auto"), (None, "older")):
        write_state(state, tensors, values)
        asked = quick if resume == "auto" else {"threads": 1}
        algo = {"algo": "metasgd"} if resume == "auto" else {}
        resumed = train(name=name, resume=resume, **(asked | algo | {"outer_steps": 12}))
        assert contents(resumed)["last"] == contents(whole)["last"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"outer_lr_schedule": "cosine"}, "with --outer-lr-schedule, a longer training differs"),
        ({"multi_step_loss": True, "inner_steps": 2}, "with --multi-step-loss, a longer training differs"),
    ],
)
def test_a_training_with_a_schedule_cannot_be_extended(
    settings: dict[str, Any], said: str, quick: dict[str, Any]
) -> None:
    train(algo="lslr", name="x", **(quick | settings))
    with pytest.raises(StoreError, match="--outer-steps 8, not with 12") as caught:
        train(resume="x", outer_steps=12, threads=1)
    assert said in (caught.value.hint or "")


def test_sigterm_saves_as_sigint_does(quick: dict[str, Any]) -> None:
    with pytest.raises(Interrupted) as caught:
        meta_train.run(TrainSettings(name="x", **quick), SignalAt(3, signal.SIGTERM))
    assert caught.value.signum == signal.SIGTERM
    assert load_checkpoint(_models() / "x" / "last.safetensors").manifest.outer_step == 3


class Listing(SilentReporter):
    """Lists the models after each update."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int | None, int | None]] = []

    def advance(self, n: int = 1) -> None:
        self.rows += [(row.status, row.outer_step, row.outer_steps) for row in list_models(Settings(), self)]


def test_a_training_is_listed_as_running_with_its_progress(quick: dict[str, Any]) -> None:
    listing = Listing()
    settings = quick | {"outer_steps": 3, "log_every": 1, "eval_every": 0}
    meta_train.run(TrainSettings(name="x", **settings), listing)
    assert listing.rows == [("running", 1, 3), ("running", 2, 3), ("running", 3, 3)]
    listing.rows.clear()
    meta_train.run(TrainSettings(resume="x", outer_steps=5, threads=1), listing)
    assert listing.rows == [("running", 4, 5), ("running", 5, 5)]


def test_resume_by_name_takes_the_settings_from_the_training(quick: dict[str, Any]) -> None:
    whole = train(algo="metasgd", name="whole", **quick)
    with pytest.raises(Interrupted):
        meta_train.run(TrainSettings(algo="metasgd", name="halved", **quick), SignalAt(3))
    assert contents(train(resume="halved", threads=1)) == contents(whole)


def test_resume_by_name_takes_the_pack_from_the_training_too(pack: Path, quick: dict[str, Any]) -> None:
    pack.rename(pack.with_name("other.h5"))
    data = str(pack.with_name("other.h5"))
    train(name="x", data=data, **quick)
    pack.with_name("other.h5").rename(pack)
    assert load_checkpoint(train(resume="x", outer_steps=9, threads=1) / "last.safetensors").manifest.outer_step == 9


def test_the_hint_of_an_interruption_names_a_pack_and_a_home_given_by_path(
    pack: Path, home: Path, quick: dict[str, Any]
) -> None:
    with pytest.raises(Interrupted) as caught:
        meta_train.run(TrainSettings(name="x", data=str(pack), home=home, **quick), SignalAt(1))
    assert caught.value.hint == f"resume with `nilr meta-train --resume x --data {pack} --home {home}`"


def test_resume_by_name_refuses_another_name(quick: dict[str, Any]) -> None:
    train(name="x", **quick)
    with pytest.raises(UsageError, match="names the model `x`, and --name another one: `y`"):
        train(resume="x", name="y", **quick)


def test_a_training_killed_before_its_first_save_starts_again(quick: dict[str, Any]) -> None:
    whole = train(name="whole", **quick)
    killed = _models() / "killed"
    killed.mkdir()
    (killed / "history.jsonl").write_text((whole / "history.jsonl").read_text()[:300])
    assert contents(train(name="killed", resume="auto", **quick)) == contents(whole)


@pytest.mark.parametrize("older", ["missing", "of an earlier update"])
def test_a_kill_between_saving_the_state_and_the_checkpoint_is_repaired(older: str, quick: dict[str, Any]) -> None:
    whole = train(name="whole", **quick)
    killed = train(name="killed", **(quick | {"outer_steps": 4}))
    last = (killed / "last.safetensors").read_bytes()
    train(name="killed", resume="auto", **quick)
    (killed / "last.safetensors").unlink() if older == "missing" else (killed / "last.safetensors").write_bytes(last)
    assert contents(train(name="killed", resume="auto", **quick)) == contents(whole)


def test_more_outer_steps_extend_a_finished_training(quick: dict[str, Any]) -> None:
    train(algo="maml", name="x", **quick)
    longer = train(algo="maml", name="x", resume="auto", **(quick | {"outer_steps": 12}))
    whole = train(algo="maml", name="whole", **(quick | {"outer_steps": 12}))
    assert contents(longer) == contents(whole)


def test_resuming_a_complete_training_changes_nothing(quick: dict[str, Any]) -> None:
    directory = train(name="x", **quick)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    train(name="x", resume="auto", **quick)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_resume_auto_starts_a_new_training_if_there_is_none(quick: dict[str, Any]) -> None:
    assert train(name="new", resume="auto", **quick).name == "new"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outer_lr": 0.01}, "--outer-lr 0.001, not with 0.01"),
        ({"algo": "fomaml"}, "--algo maml, not with fomaml"),
        ({"outer_steps": 4}, "--outer-steps 8, not with 4"),
        ({"seed": 9}, "--seed 0, not with 9"),
        ({"n_shot": 2}, "--n-shot 1, not with 2"),
        ({"outer_lr_schedule": "cosine"}, "--outer-lr-schedule constant, not with cosine"),
    ],
)
def test_resuming_with_a_changed_setting_is_an_error_that_names_it(
    change: dict[str, Any], said: str, quick: dict[str, Any]
) -> None:
    directory = train(algo="maml", name="x", **quick)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(StoreError) as caught:
        train(**({"algo": "maml", "name": "x", "resume": "auto"} | quick | change))
    assert said in caught.value.message
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_an_existing_model_is_replaced_only_with_force(quick: dict[str, Any]) -> None:
    first = contents(train(name="x", **quick))
    with pytest.raises(StoreError, match="model `x` exists"):
        train(name="x", seed=1, **quick)
    assert contents(_models() / "x") == first
    assert contents(train(name="x", seed=1, force=True, **quick)) != first


def test_best_is_the_checkpoint_of_the_highest_validation_and_stays(quick: dict[str, Any]) -> None:
    directory = train(algo="maml", **(quick | {"outer_steps": 20, "eval_every": 2}))
    lines = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    validations = {line["outer_step"]: line["val_accuracy"]["mean"] for line in lines if "val_accuracy" in line}
    assert list(validations) == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    highest = max(validations.values())
    first_highest = min(step for step, mean in validations.items() if mean == highest)
    best = load_checkpoint(directory / "best.safetensors")
    assert best.manifest.outer_step == first_highest
    state, _ = read_state(directory / "training.safetensors")
    same = all(torch.equal(best.params[name], state[f"params/{name}"]) for name in best.params)
    assert same == (first_highest == 20)


def test_without_validation_there_is_no_best(quick: dict[str, Any]) -> None:
    directory = train(**(quick | {"eval_every": 0}))
    assert not (directory / "best.safetensors").exists()
    assert (directory / "last.safetensors").exists()


def test_learned_rates_are_saved_and_have_moved_and_fixed_ones_have_not(quick: dict[str, Any]) -> None:
    learned = load_checkpoint(train(algo="metasgd", inner_lr_init="0.05", **quick) / "last.safetensors").inner_lr
    fixed = load_checkpoint(train(algo="maml", **quick) / "last.safetensors").inner_lr
    assert set(learned) > set(fixed)
    for rate in learned.values():
        assert (rate - 0.05).abs().max() > 1e-3
    assert {float(rate) for rate in fixed.values()} == {float(torch.tensor(0.05))}


def poison(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Let the queries of training episodes of these numbers be NaN."""
    draw = EpisodeSampler.draw

    def poisoned(self: EpisodeSampler, indices: range) -> Episode:
        batch = draw(self, indices)
        for number in numbers:
            if self.stream == "train" and number in indices:
                batch.query_x[list(indices).index(number)] = float("nan")
        return batch

    monkeypatch.setattr(EpisodeSampler, "draw", poisoned)


def test_a_loss_that_is_not_finite_stops_with_step_and_episode_and_keeps_the_state_before_it(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 11)
    with pytest.raises(DivergedError, match=r"nan at outer step 5, episode 11") as caught:
        train(name="x", **(quick | {"save_every": 2}))
    assert "--on-nan skip" in (caught.value.hint or "")
    assert load_checkpoint(_models() / "x" / "last.safetensors").manifest.outer_step == 5
    assert "nan at outer step 5, episode 11" in (find_failure(_models() / "x") or "")


def test_with_on_nan_skip_an_update_that_is_not_finite_is_skipped_and_counted(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = train(name="shorter", **(quick | {"outer_steps": 5, "eval_every": 0}))
    poison(monkeypatch, 11)
    skipping = TrainSettings(name="x", on_nan="skip", **(quick | {"outer_steps": 6, "eval_every": 0}))
    assert meta_train.run(skipping, SilentReporter()).metrics.skipped_updates == 1
    # the sixth update is the one left out: nothing differs from a training of five
    sixth = load_checkpoint(_models() / "x" / "last.safetensors")
    assert sixth.manifest.outer_step == 6
    assert sixth.digest == load_checkpoint(shorter / "last.safetensors").digest
    history = [json.loads(line) for line in (_models() / "x" / "history.jsonl").read_text().splitlines()]
    assert "nan at outer step 5, episode 11" in history[-1]["skipped"]


def test_a_training_stopped_by_nan_resumes_without_that_update(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 11)
    whole = contents(train(name="whole", on_nan="skip", **quick))
    with pytest.raises(DivergedError):
        train(name="x", **quick)
    resumed = contents(train(name="x", resume="auto", on_nan="skip", **quick))
    assert resumed["state"] == whole["state"]
    assert resumed["progress"] == whole["progress"]


def test_at_most_ten_updates_in_a_row_are_skipped(quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, *range(4, 100))
    with pytest.raises(DivergedError, match="outer step 12, episode 24, after 10 skipped updates in a row"):
        train(name="x", on_nan="skip", **(quick | {"outer_steps": 40, "eval_every": 0}))
    assert load_checkpoint(_models() / "x" / "last.safetensors").manifest.outer_step == 12


def test_a_failed_start_leaves_no_model_behind(quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, 0)
    with pytest.raises(DivergedError):
        train(name="x", **quick)
    assert not (_models() / "x").exists()


def cases() -> Iterator[Any]:
    yield pytest.param({"n_way": 13}, EpisodeError, ("13", "12"), id="too few classes")
    yield pytest.param({"n_shot": 6}, EpisodeError, ("9", "8"), id="too few images")
    yield pytest.param({"n_way": 9}, EpisodeError, ("9", "8", "val"), id="too few validation classes")
    yield pytest.param({"algo": "mamal"}, UsageError, ("mamal",), id="unknown algorithm")
    yield pytest.param({"arch": "vgg"}, UsageError, ("vgg",), id="unknown architecture")
    yield pytest.param({"preset": "x"}, UsageError, ("x",), id="unknown preset")
    yield pytest.param({"engine": "x"}, UsageError, ("x",), id="unknown engine")
    yield pytest.param({"device": "tpu"}, UsageError, ("tpu",), id="unknown device")
    yield pytest.param({"data": "nowhere"}, StoreError, ("nowhere",), id="unknown data")
    yield pytest.param({"resume": "nowhere"}, StoreError, ("nowhere",), id="unknown training")
    yield pytest.param({"resume": "auto"}, UsageError, ("--name",), id="auto without a name")
    yield pytest.param({"algo": "metasgd", "inner_lr": 0.1}, UsageError, ("metasgd",), id="fixed rate for learned")
    yield pytest.param({"algo": "maml", "inner_lr_init": "0.1"}, UsageError, ("maml",), id="learned rate for fixed")
    yield pytest.param({"algo": "metasgd", "inner_lr_init": "x"}, UsageError, ("x",), id="no rate")
    yield pytest.param({"algo": "metasgd", "rate_constraint": "x"}, UsageError, ("`x`",), id="no constraint")
    yield pytest.param(
        {"rate_constraint": "free"}, UsageError, ("maml", "--rate-constraint"), id="constraint for fixed"
    )
    yield pytest.param({"rate_grain": "scalar"}, UsageError, ("maml", "--rate-grain"), id="grain for fixed")
    yield pytest.param({"rate_per_step": True}, UsageError, ("maml", "--rate-per-step"), id="per step for fixed")
    yield pytest.param({"algo": "metasgd", "multi_step_loss": True}, UsageError, ("metasgd",), id="one of many steps")


@pytest.mark.parametrize(("change", "error", "said"), list(cases()))
def test_a_wrong_setting_is_refused_with_a_hint_and_leaves_nothing(
    change: dict[str, Any], error: type[NilrError], said: tuple[str, ...], quick: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        train(**(quick | change))
    assert all(word in caught.value.message for word in said)
    assert caught.value.hint
    assert not _models().exists() or not list(_models().iterdir())


def test_a_broken_training_state_is_refused_and_kept(quick: dict[str, Any]) -> None:
    state = train(name="x", **quick) / "training.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(CheckpointError):
        train(name="x", resume="auto", **(quick | {"outer_steps": 10}))
    assert (state.parent / "last.safetensors").exists()


@pytest.mark.parametrize("preset", ["finn-1shot", "finn-5shot", "li-metasgd", "quick"])
def test_flags_override_a_preset_and_a_preset_overrides_defaults(preset: str) -> None:
    from nilr.config.meta_train import PRESETS
    from nilr.recipes.common.settings import resolve

    settings, row = resolve(TrainSettings(preset=preset, outer_steps=7))
    assert settings.outer_steps == 7
    for name, value in PRESETS[preset].items():
        if name != "outer_steps":
            assert getattr(settings, name) == value
    assert row.name == PRESETS[preset].get("algo", "maml")


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("progress", None),
        ("progress", []),
        ("progress", {"outer_step": "8"}),
        ("progress", {"outer_step": -1}),
        ("progress", {"outer_step": 10**300}),
        ("progress", {"surprise": 1}),
        ("progress", {"best": {"mean": "high"}}),
        ("progress", {"last_val": {"mean": 0.5}}),
        ("progress", {"logged": {"query_loss": "low"}}),
        ("progress", {"skipped": True}),
        ("data", ["a"]),
        ("data_digest", None),
        ("data_digest", 5),
        ("settings", []),
        ("settings", {"n_way": "three"}),
    ],
)
def test_a_training_state_with_invalid_values_is_an_error(name: str, value: Any, quick: dict[str, Any]) -> None:
    directory = train(name="x", **quick | {"outer_steps": 1, "eval_every": 0})
    state = directory / "training.safetensors"
    tensors, values = read_state(state)
    write_state(state, tensors, values | {name: value})
    with pytest.raises(CheckpointError, match="is not a valid training state"):
        train(resume="x", threads=1)


def test_a_training_state_with_a_missing_value_is_an_error(quick: dict[str, Any]) -> None:
    directory = train(name="x", **quick | {"outer_steps": 1, "eval_every": 0})
    state = directory / "training.safetensors"
    tensors, values = read_state(state)
    for name in ("progress", "data_digest", "settings"):
        write_state(state, tensors, {n: v for n, v in values.items() if n != name})
        with pytest.raises(CheckpointError, match=f"`{name}`: field required"):
            train(resume="x", threads=1)


@pytest.mark.parametrize(
    ("moment", "change"),
    [
        ("step", lambda old: old - 2),
        ("step", lambda old: old.long()),
        ("step", lambda old: old.repeat(3)),
        ("exp_avg_sq", lambda old: old - 1),
        ("exp_avg", lambda old: old * float("nan")),
        ("exp_avg", lambda old: old.long()),
    ],
)
def test_a_training_state_with_invalid_adam_moments_is_an_error(
    moment: str, change: Any, quick: dict[str, Any]
) -> None:
    directory = train(name="x", **quick | {"outer_steps": 1, "eval_every": 0})
    state = directory / "training.safetensors"
    tensors, values = read_state(state)
    hostile = {n: change(t) if n.startswith(f"adam/{moment}/") else t for n, t in tensors.items()}
    write_state(state, hostile, values)
    with pytest.raises(CheckpointError):
        train(resume="x", outer_steps=2, threads=1)
