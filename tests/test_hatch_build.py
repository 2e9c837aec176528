"""Building the kernels: a complete library or none, and an installation in any case."""

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def build() -> ModuleType:
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_compiler_there_is_no_library_and_a_reason(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    stale = tmp_path / "_kernels.so"
    stale.write_bytes(b"of an older source")
    problem = build.compile_kernels(ROOT / build.SOURCES, stale)
    assert problem == "there is no C compiler `no-such-compiler`"
    assert not stale.exists()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_cc_is_none(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.setenv("CC", empty)
    (tmp_path / "whole.c").write_text("extern int whole;")
    assert build.compile_kernels(tmp_path, tmp_path / "_kernels.so") is None
    assert (tmp_path / "_kernels.so").exists()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_source_that_does_not_compile_leaves_nothing(build: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int f(void) { return }")
    assert build.compile_kernels(tmp_path, tmp_path / "_kernels.so")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.c"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_an_earlier_library_stays_in_place_until_the_new_one_is_compiled(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, seen, compiler = tmp_path / "_kernels.so", tmp_path / "seen", tmp_path / "compiler"
    library.write_bytes(b"of an earlier build")
    (tmp_path / "whole.c").write_text("extern int whole;")
    compiler.write_text(f'#!/bin/sh\ncp "{library}" "{seen}" && exec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert build.compile_kernels(tmp_path, library) is None
    assert seen.read_bytes() == b"of an earlier build"
    assert library.read_bytes().startswith(b"\x7fELF")


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_kernels_compile_without_a_warning(build: ModuleType, tmp_path: Path) -> None:
    build.FLAGS[:] = [*build.FLAGS, "-O0", "-Wall", "-Wextra", "-Werror"]
    assert build.compile_kernels(ROOT / build.SOURCES, tmp_path / "_kernels.so") is None
    assert (tmp_path / "_kernels.so").exists()


@pytest.mark.parametrize(("problem", "tag"), [(None, r"py3-none-(linux|macosx)_\w+"), ("there is no C compiler", None)])
def test_a_wheel_with_kernels_is_for_every_python_of_its_platform(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, problem: str | None, tag: str | None
) -> None:
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(str(ROOT))
    monkeypatch.setattr(build, "compile_kernels", lambda *_: problem)
    hook = build.KernelHook(str(ROOT), {}, builder.config, builder.metadata, "", "wheel", builder.app)
    data: dict[str, Any] = {"artifacts": []}
    hook.initialize("standard", data)
    if tag is None:
        assert data == {"artifacts": []}
    else:
        assert re.fullmatch(tag, data["tag"])
        assert data["artifacts"] == [str(build.LIBRARY)]
