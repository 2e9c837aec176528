"""Bodies from an import path: what is imported, with which arguments, and one clear error for each failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nilr.errors import ModuleError, NilrError, UsageError
from nilr.models.import_path import build_imported, check_allowed
from nilr.models.registry import build_learner, parameter_shapes

SOURCE = """
import torch
from torch import nn

NUMBER = 3
MADE = nn.Linear(2, 2)
CALLS = []

def make(image_size, channels):
    CALLS.append((image_size, channels))
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, 5))

def plain():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())

def keywords(**options):
    assert not options
    return plain()

class Body(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 2, 3), nn.Flatten())

def wrong():
    return 7

def fails(image_size):
    raise LookupError("no weights here")

def leaves():
    raise SystemExit(4)

def dropout():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 5))

def random():
    torch.rand(3)
    return plain()
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "own_bodies"
    directory.mkdir()
    (directory / "__init__.py").touch()
    (directory / "good.py").write_text(SOURCE)
    (directory / "broken.py").write_text("def make(:")
    (directory / "script.py").write_text("import sys\nsys.exit(3)")
    (directory / "needs.py").write_text("import a_package_that_is_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_bodies"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(("function", "feature_dim"), [("plain", 72), ("make", 5), ("keywords", 72), ("Body", 72)])
def test_a_function_is_called_with_the_arguments_that_it_has(function: str, feature_dim: int) -> None:
    assert build_imported(f"own_bodies.good:{function}", image_size=8)[1] == feature_dim
    if function == "make":
        assert sys.modules["own_bodies.good"].CALLS == [(8, 3)]


def test_the_seed_decides_the_weights_and_torch_keeps_its_random_state() -> None:
    def weights(seed: int) -> torch.Tensor:
        learner = build_learner("own_bodies.good:random", n_way=2, image_size=8, seed=seed)
        return learner.initial_params()["body.0.weight"]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    before = torch.get_rng_state()
    build_imported("own_bodies.good:random", image_size=8)
    assert torch.equal(torch.get_rng_state(), before)


def test_shapes_are_those_of_the_learner() -> None:
    shapes = parameter_shapes("own_bodies.good:make", n_way=3, image_size=8)
    learner = build_learner("own_bodies.good:make", n_way=3, image_size=8)
    assert shapes == {name: value.shape for name, value in learner.named_parameters()}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_bodies.good", "unknown architecture `own_bodies.good`"),
        ("own_bodies.good:", "`own_bodies.good:` is not an import path"),
        ("own bodies:make", "`own bodies:make` is not an import path"),
        (":make", "`:make` is not an import path"),
        ("not_there:make", "`not_there:make` cannot be imported: there is no module `not_there`"),
        ("own_bodies.absent:make", "there is no module `own_bodies.absent`"),
        ("own_bodies.broken:make", "importing `own_bodies.broken` fails: SyntaxError"),
        ("own_bodies.script:make", "importing `own_bodies.script` fails: SystemExit: 3"),
        ("own_bodies.needs:make", "importing `own_bodies.needs` fails: ModuleNotFoundError"),
        ("own_bodies.good:absent", "`own_bodies.good` has no `absent`"),
        ("own_bodies.good:NUMBER", "`own_bodies.good:NUMBER` is a `int`, not a function"),
        ("own_bodies.good:MADE", "`own_bodies.good:MADE` is a `Linear`, not a function"),
        ("own_bodies.good:wrong", "`own_bodies.good:wrong` returns a `int`, not a torch.nn.Module"),
        ("own_bodies.good:fails", "`own_bodies.good:fails` fails when it is called: LookupError: no weights here"),
        ("own_bodies.good:leaves", "`own_bodies.good:leaves` fails when it is called: SystemExit: 4"),
        ("own_bodies.good:dropout", "`own_bodies.good:dropout`: the module `Sequential` has dropout that is on"),
    ],
)
def test_an_import_path_that_fails_is_one_clear_error(path: str, message: str) -> None:
    with pytest.raises(NilrError) as caught:
        build_learner(path, n_way=2, image_size=8)
    assert message in caught.value.message
    assert caught.value.hint
    assert isinstance(caught.value, ModuleError | UsageError)


def test_a_missing_module_has_a_hint_on_the_working_directory() -> None:
    with pytest.raises(ModuleError) as caught:
        build_learner("not_there:make", n_way=2, image_size=8)
    assert "PYTHONPATH=." in (caught.value.hint or "")


def test_a_path_in_a_file_is_allowed_only_if_the_user_gave_it() -> None:
    check_allowed("conv4", [], "model `m`")
    check_allowed("a.b:make", ["x:y", "a.b:make"], "model `m`")
    with pytest.raises(ModuleError, match=r"model `m` has the body `a.b:make`") as caught:
        check_allowed("a.b:make", ["a.b:other"], "model `m`")
    assert "--arch a.b:make" in (caught.value.hint or "")
    with pytest.raises(ModuleError) as caught:
        check_allowed("$(reboot):make", [], "model `m`")
    assert "$(" not in (caught.value.hint or "")
