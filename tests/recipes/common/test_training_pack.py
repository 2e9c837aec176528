"""Which pack models are evaluated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nilr.config.evaluation import AdaptSettings, ProbeSettings, RatesSettings
from nilr.config.meta_train import TrainSettings
from nilr.config.packs import PrepareDataSettings
from nilr.data.pack import PackInfo, open_pack
from nilr.data.pack_writer import PackWriter
from nilr.errors import DataError
from nilr.recipes import adapt, meta_train, prepare_data, probe, rates
from nilr.reporting import SilentReporter
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")
HERE, THERE = "mini-imagenet", "synthetic"
REPORTER = SilentReporter()


@pytest.fixture
def models(quick: dict[str, Any]) -> tuple[str, str]:
    """Train `a` on `mini-imagenet` and `b` on `synthetic`."""
    prepare_data.run(PrepareDataSettings(synthetic=True, image_size=16, limit_per_class=8), REPORTER)
    for name, data in (("a", HERE), ("b", THERE)):
        train_model(algo="metasgd", name=name, data=data, **quick)
    return "a", "b"


def run_probe(*models: str, **settings: Any) -> Any:
    return probe.run(ProbeSettings(models=models, n_episodes=3, threads=1, **settings), REPORTER)


def test_models_of_different_packs_need_the_pack_to_be_named(models: tuple[str, str]) -> None:
    for order in (models, models[::-1]):
        with pytest.raises(DataError) as caught:
            run_probe(*order)
        assert caught.value.message.startswith("the models were trained on different packs: ")
        assert f"`a` on `{HERE}` (digest " in caught.value.message
        assert f"`b` on `{THERE}` (digest " in caught.value.message
        assert "--data" in str(caught.value.hint)


@pytest.mark.parametrize(("data", "stranger"), [(HERE, "b"), (THERE, "a")])
def test_a_named_pack_is_used_for_all_and_a_note_names_each_model_of_another(
    models: tuple[str, str], data: str, stranger: str
) -> None:
    together, swapped = run_probe(*models, data=data), run_probe(*models[::-1], data=data)
    assert together.per_episode == {name: swapped.per_episode[name] for name in models}
    other = THERE if data == HERE else HERE
    note = f"Model `{stranger}` was trained on the pack `{other}`, and is evaluated on `{data}`."
    assert [text for text in together.notes if "was trained on the pack" in text] == [note]
    looked = rates.run(RatesSettings(models=models, data=data, n_episodes=2, threads=1), REPORTER)
    assert note in looked.notes
    adapted = adapt.run(AdaptSettings(model=stranger, data=data, threads=1), REPORTER)
    assert note in adapted.notes


def test_rates_of_models_of_different_packs_take_no_gradients(models: tuple[str, str]) -> None:
    result = rates.run(RatesSettings(models=models, n_episodes=2, threads=1), REPORTER)
    assert result.data is None
    assert "the models were trained on different packs" in result.notes[0]


def test_a_pack_is_found_by_its_content_under_another_name(
    models: tuple[str, str], pack: Path, quick: dict[str, Any]
) -> None:
    before = run_probe("a")
    pack.rename(pack.with_name("renamed.h5"))
    after = run_probe("a")
    assert after.per_episode == before.per_episode
    resumed = meta_train.run(TrainSettings(resume="a", outer_steps=10, threads=1), SilentReporter())
    assert resumed.metrics.outer_step == 10


def test_a_pack_of_the_same_name_with_other_images_is_an_error(models: tuple[str, str], pack: Path) -> None:
    synthetic = pack.with_name(f"{THERE}.h5")
    pack.unlink()
    synthetic.rename(pack)
    with pytest.raises(DataError, match="has other images"):
        run_probe("a")
    assert run_probe("b").per_episode


def test_no_model_is_evaluated_on_a_class_that_it_was_trained_on(pack: Path, quick: dict[str, Any]) -> None:
    """Another split of the same images, as `prepare-data --split-classes` draws it."""
    train_model(algo="maml", name="a", data=HERE, **quick)
    seen, new = (open_pack(pack).open_split(split) for split in ("train", "val"))

    def write(name: str, classes: dict[str, Any]) -> None:
        info = PackInfo(name, 16, "bilinear", source="generated in a test", licence="none")
        with PackWriter.create(pack.with_stem(name), info, {"test": dict.fromkeys(classes, 8)}) as writer:
            for label, images in classes.items():
                writer.write_class("test", label, images, [f"{label}-{i}.png" for i in range(8)])

    unseen = {f"val{i:02d}": new.images.read(range(8 * i, 8 * i + 8)) for i in range(6)}
    write("unseen", unseen)
    write("other-images", unseen | {"train03": unseen["val00"]})
    write("leaking", unseen | {"train03": seen.images.read(range(24, 32))})
    for name in ("unseen", "other-images"):
        assert run_probe("a", data=name).data.name == name
    for flags in ({"data": "leaking"}, {"data_b": "leaking"}):
        with pytest.raises(
            DataError, match=r"`a` was trained on 1 class of the split `test` of `leaking`, .* `train03`"
        ):
            run_probe("a", **flags)
