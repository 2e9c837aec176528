"""State dicts that are refused with one clear error, or converted with a note."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nilr.checkpoint import load_checkpoint
from nilr.config.base import Settings
from nilr.config.models import ImportSettings
from nilr.errors import NilrError
from nilr.recipes.models import importing, list_models
from nilr.reporting import SilentReporter
from tests.portable.networks import CNN4
from tests.portable.test_formats import FILTERS, N_WAY, SIZE, State, agrees, bring, four_blocks, images, logits

FORM = "learn2learn"
Change = Callable[[State], Any]


def changed(**values: Any) -> Change:
    def change(state: State) -> State:
        names = {"conv": "features.1.conv.weight", "scale": "features.2.normalize.weight", "head": "classifier.weight"}
        return state | {names[name]: value(state[names[name]]) for name, value in values.items()}

    return change


def without(name: str) -> Change:
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_rates(n: int, *, flat: bool = False) -> Change:
    def change(state: State) -> State:
        order = [value for name, value in state.items() if "running" not in name and "num_batches" not in name]
        rates = [torch.zeros(3) if flat else torch.zeros_like(value) for value in order[:n]]
        return {f"module.{name}": v for name, v in state.items()} | {f"lrs.{i}": rate for i, rate in enumerate(rates)}

    return change


def tied(state: State) -> State:
    return state | {"features.2.conv.weight": state["features.1.conv.weight"]}


BAD: dict[str, tuple[Change, str]] = {
    "a missing convolution": (without("features.3.conv.weight"), "has no network that nilr recognises"),
    "a missing scale": (without("features.2.normalize.weight"), "tensor `features.2.normalize.weight` is missing"),
    "an extra tensor": (
        lambda s: s | {"attention.weight": torch.ones(2)},
        "1 tensor of the file without a part .*attention.weight",
    ),
    "a fifth block": (lambda s: s | {"features.4.conv.weight": torch.ones(2)}, "1 tensor of the file without a part"),
    "a transposed convolution": (changed(conv=lambda v: v[:, :2]), r"\(5, 2, 3, 3\), expected \(5, 5, 3, 3\)"),
    "a scale of another shape": (changed(scale=lambda _: torch.ones(4)), r"normalize.weight` has the shape \(4\)"),
    "a head of another width": (changed(head=lambda v: v[:, :3]), "takes 3 features, and with conv4 images of 32 px"),
    "a head of one class": (
        lambda s: s | {"classifier.weight": s["classifier.weight"][:1], "classifier.bias": s["classifier.bias"][:1]},
        "the head has 1 class, expected at least 2",
    ),
    "a head without weight": (without("classifier.weight"), "do not fit each other"),
    "grey images": (lambda s: s | {"features.0.conv.weight": torch.ones(5, 1, 3, 3)}, "begin with a convolution of 3"),
    "no filters": (lambda s: s | {"features.0.conv.weight": torch.ones(0, 3, 3, 3)}, "begin with a convolution of 3"),
    "NaN": (changed(conv=lambda v: v * torch.nan), "features.1.conv.weight` has numbers that are not finite"),
    "infinity in half precision": (changed(conv=lambda v: (v * 1e6).half()), "not finite"),
    "infinity in float32": (
        changed(conv=lambda v: v.double() * 1e300),
        "features.1.conv.weight` has numbers that are not finite in float32",
    ),
    "scales of no step": (changed(scale=lambda v: v.expand(0, *v.shape)), "has the shape .0, "),
    "integers": (changed(conv=lambda v: v.int()), "has numbers of type int32"),
    "booleans": (changed(scale=lambda v: v > 0), "has numbers of type bool"),
    "complex numbers": (changed(conv=lambda v: v.to(torch.complex64)), "has numbers of type complex64"),
    "a sparse tensor": (changed(head=lambda v: v.to_sparse()), "is not a dense tensor"),
    "a quantised tensor": (
        changed(head=lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)), "is not a dense tensor|cannot read",
    ),
    "an expanded tensor": (changed(conv=lambda _: torch.zeros(1).expand(5, 5, 3, 3)), "more than the file has"),
    "one tensor used twice": (tied, "are one tensor, which the network uses twice"),
    "too few rates": (with_rates(5), "has 5 rates `lrs` for 18 parameters"),
    "rates of another shape": (with_rates(18, flat=True), r"`lrs.0` has the shape \(3\), expected \(5, 3"),
    "no tensors": (lambda _: {"epoch": 3, "model": None}, "contains no state dict, but: epoch, model"),
    "two models": (lambda s: {"model": s, "state_dict": s}, "contains several state dicts, but: model, state_dict"),
    "a list": (lambda s: list(s.values()), "contains an object of type list"),
    "one tensor": (lambda _: torch.ones(3), "contains an object of type Tensor"),
    "mappings without end": (lambda s: {"model": {"model": {"model": {"model": {"model": s}}}}}, "mappings in mapp"),
    "a whole module": (lambda _: CNN4(3, 5, 32), "Python objects .*, which would run code"),
    "a function": (lambda _: {"model": print}, "Python objects .*print.*would run code"),
    "another body": (lambda s: s | {"features.1.0.conv.weight": s["classifier.bias"]}, "OmniglotCNN has strided"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of torch, about deprecated kinds of tensors
@pytest.mark.parametrize("what", BAD)
def test_a_bad_state_dict_is_one_clear_error(what: str, home: Path) -> None:
    spoil, words = BAD[what]
    rates = {"inner_lr": None} if "rates" in what else {}
    with pytest.raises(NilrError, match=words) as caught:
        bring(home, spoil(four_blocks(FORM)), **rates)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    assert "m.pt" in caught.value.message
    assert list_models(Settings(home=home), SilentReporter()) == []


FLAGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no inner rate": ({"inner_lr": None}, "has no inner rates", "--inner-lr"),
    "no steps": ({"inner_steps": None}, "how many inner steps", "--inner-steps"),
    "no image size": ({"image_size": None}, "20 features fit images of 32 to 47 px", "--image-size"),
    "another image size": ({"image_size": 84}, "images of 84 px give 125", "--image-size"),
    "tiny images": ({"image_size": 8}, "images of at least 16 px|of no size", ""),
    "another number of classes": ({"n_way": 4}, "--n-way is 4, and the file has a head for 3", ""),
    "an unknown format": ({"format": "caffe"}, "unknown format `caffe`", "learn2learn"),
    "another format": ({"format": "feat"}, "unknown format", ""),
    "names of another format": ({"format": "closer-look"}, "has no network of the format `closer-look`", "known"),
    "two means": ({"input_mean": "1,2"}, "--input-mean is `1,2`", "one number or three"),
    "a deviation of 0": ({"input_std": "0"}, "--input-std is `0`", "above 0"),
    "a mean of words": ({"input_mean": "a"}, "--input-mean is `a`", "one number"),
}


@pytest.mark.parametrize("what", FLAGS)
def test_a_missing_or_wrong_flag_is_named(what: str, home: Path) -> None:
    flags, words, hint = FLAGS[what]
    with pytest.raises(NilrError, match=words) as caught:
        bring(home, four_blocks(FORM), **flags)
    assert hint in (caught.value.hint or "")


def test_wrappers_and_values_beside_are_named(home: Path) -> None:
    state = four_blocks(FORM)
    beside = {"epoch": 3, "best": np.float64(0.5), "opt": argparse.Namespace(lr=1), "optimizer": {"state": {}}}
    model, notes = bring(home, {"model": state} | beside)
    assert "The state dict is the entry `model`, beside epoch, best, opt, optimizer." in notes
    assert agrees(model, logits(FORM, state, images()), images())
    _, notes = bring(home, state | {"version": 2}, name="with-version")
    assert "Ignored, because they are not tensors: version." in notes


def test_files_of_old_versions_of_torch_are_read(home: Path) -> None:
    path = home.parent / "old.tar"
    torch.save({"epoch": 1, "state": four_blocks("closer-look")}, path, _use_new_zipfile_serialization=False)
    settings = ImportSettings(sources=(path,), image_size=SIZE, inner_lr=0.1, inner_steps=2)
    assert importing.run(settings, SilentReporter()).metrics["old"].format == "closer-look"


def test_left_over_tensors_can_be_left_out_by_name(home: Path) -> None:
    state = four_blocks(FORM)
    _, notes = bring(
        home, state | {"attention.q": torch.ones(2), "attention.k": torch.ones(2)}, ignore=("attention.*",)
    )
    assert "Ignored by --ignore: attention.q, attention.k." in notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_with_a_note(dtype: torch.dtype, home: Path) -> None:
    state = {name: v.to(dtype) if v.is_floating_point() else v for name, v in four_blocks(FORM).items()}
    model, notes = bring(home, state)
    assert {value.dtype for value in (*model.params.values(), *model.inner_lr.values())} == {torch.float32}
    assert agrees(model, logits(FORM, state, images()), images())
    words = "Converted from float64 to float32." if dtype == torch.float64 else "Converted from half precision"
    assert any(note.startswith(words) for note in notes)


def test_parameters_of_a_module_and_of_a_gpu_are_plain_tensors(home: Path) -> None:
    torch.manual_seed(0)
    net = CNN4(N_WAY, FILTERS, SIZE)
    model, _ = bring(home, dict(net.named_parameters()))
    with torch.no_grad():
        assert torch.allclose(model.learner.logits(model.params, images()), net(images()), atol=1e-5)


def test_a_body_without_a_head_gets_one_of_zeros(home: Path) -> None:
    state = {name: value for name, value in four_blocks("plain").items() if not name.startswith("classifier")}
    with pytest.raises(NilrError, match=r"has no head \(`classifier.weight`\)"):
        bring(home, state)
    model, notes = bring(home, state, n_way=4)
    assert not model.params["head.weight"].any()
    assert model.params["head.weight"].shape == (4, 20)
    assert "The head of 4 classes is new, of zeros: the file has none." in notes
    model, notes = bring(home, without("classifier.bias")(four_blocks("plain")), name="no-bias")
    assert not model.params["head.bias"].any()
    assert any("has no bias in the file" in note for note in notes)


def test_a_second_import_of_a_file_changes_nothing(home: Path) -> None:
    bring(home, four_blocks(FORM))
    path = home / "models" / "m" / "last.safetensors"
    before = path.read_bytes()
    settings = ImportSettings(sources=(home.parent / "m.pt",), image_size=SIZE, inner_lr=0.1, inner_steps=2)
    assert not importing.run(settings, SilentReporter()).metrics["m"].imported
    assert path.read_bytes() == before
    assert load_checkpoint(path).manifest.data.digest == "unknown"


def test_flags_of_state_dicts_are_refused_for_nilr_s_own_models(home: Path) -> None:
    bring(home, four_blocks(FORM))
    settings = ImportSettings(sources=(home / "models" / "m",), name="n", inner_lr=0.5)
    with pytest.raises(NilrError, match="--inner-lr is for state dicts of other libraries"):
        importing.run(settings, SilentReporter())
