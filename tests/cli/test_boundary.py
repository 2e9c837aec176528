from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nilr.cli.boundary import run
from nilr.errors import DataError, Interrupted, UnknownNameError

HINT = "hint: no result was stored; to start again, repeat the command\n"


def raising(error: BaseException) -> Any:
    def recipe(*_: object) -> None:
        raise error

    return recipe


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DataError("`x.h5` is no pack", hint="pack it"), 1, "error: `x.h5` is no pack\nhint: pack it\n"),
        (DataError("no hint here"), 1, "error: no hint here\n"),
        (UnknownNameError("algorithm", "x", ["maml"]), 2, "error: unknown algorithm `x`\nhint: known: maml\n"),
        (Interrupted(signal.SIGTERM, hint="go on"), 143, "error: interrupted by SIGTERM\nhint: go on\n"),
        (Interrupted(signal.SIGINT), 130, f"error: interrupted by SIGINT\n{HINT}"),
        (KeyboardInterrupt(), 130, "error: interrupted by SIGINT\n"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
            ),
            1,
            "error: out of memory\nhint: close other programs, or use smaller images, episodes or batches\n",
        ),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            1,
            "error: out of memory\nhint: close other programs, or use smaller images, episodes or batches\n",
        ),
        (DataError("x" * 5000), 1, f"error: {'x' * 4000}... and 1,000 more characters\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "error: cannot write to standard output: no space left on device\nhint: redirect the output elsewhere\n",
        ),
        (
            MemoryError(),
            1,
            "error: out of memory\nhint: close other programs, or use smaller images, episodes or batches\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            1,
            "error: cannot use `/data/x`: no space left on device\n"
            "hint: free some space, or choose another place with --home\n",
        ),
        (
            KeyError("surprise"),
            1,
            "error: internal: KeyError: 'surprise'\n"
            "hint: this is a bug in nilr; run the command again with --debug for the traceback\n",
        ),
    ],
)
def test_every_error_is_one_line_a_hint_and_a_status(
    install: Any, home: Path, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    install("probe", raising(error))
    assert run(["-q", "probe"]) == status
    assert capsys.readouterr() == ("", said)


class Raw(io.RawIOBase):
    """A file that records each write of the process."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: Any, /) -> int:
        self.writes.append(bytes(content))
        return len(content)


def test_error_and_hint_are_one_write(install: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("probe", raising(DataError("broken", hint="mend it")))
    raw = Raw()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True))
    run(["-q", "probe"])
    assert raw.writes == [b"error: broken\nhint: mend it\n"]


@pytest.mark.parametrize("args", [["--debug", "probe"], ["probe", "--debug"]])
def test_a_traceback_is_shown_under_debug(
    install: Any, home: Path, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    install("probe", raising(DataError("broken")))
    assert run(args) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert said.endswith("error: broken\n")


def test_markup_and_control_characters_in_a_path_are_shown_as_text(
    install: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("probe", raising(DataError("`/x/[red]a[/red]\x1b[31m\n\udcff.png` is no image")))
    run(["-q", "probe"])
    assert capsys.readouterr().err == "error: `/x/[red]a[/red]\\x1b[31m\\n\\udcff.png` is no image\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["prob"],
            "error: no such command `prob`. Did you mean `probe`?\n"
            "hint: known: prepare-data, meta-train, watch, adapt, probe, rates, calibrate, bench, reproduce, demo, "
            "report, help, data, results, models\n",
        ),
        (
            ["models", "lss"],
            "error: no such command `lss`. Did you mean `ls`?\n"
            "hint: known: ls, show, compare, path, verify, rm, import, export, push, pull\n",
        ),
        (
            ["probe", "--n-wya", "3"],
            "error: no such option: --n-wya\nhint: did you mean `--n-way`? see `nilr probe --help`\n",
        ),
        (
            ["meta-train", "--outer-stepz", "3"],
            "error: no such option: --outer-stepz\nhint: did you mean `--outer-steps`? see `nilr meta-train --help`\n",
        ),
        (["--frobnicate"], "error: no such option: --frobnicate\nhint: see `nilr --help`\n"),
        (["probe", "--n-way"], "error: option `--n-way` needs a value\nhint: see `nilr probe --help`\n"),
        (
            ["meta-train", "--resume", "--name", "X"],
            "error: option `--resume` needs a value, and `--name` is an option\nhint: see `nilr meta-train --help`\n",
        ),
        (
            ["meta-train", "--name", "--outer-stepz=3"],
            "error: option `--name` needs a value, and `--outer-stepz=3` is an option\n"
            "hint: see `nilr meta-train --help`\n",
        ),
        (
            ["models", "rm", "x", "--home", "-y"],
            "error: option `--home` needs a value, and `-y` is an option\nhint: see `nilr models rm --help`\n",
        ),
        (
            ["--home", "--quiet", "models", "ls"],
            "error: option `--home` needs a value, and `--quiet` is an option\nhint: see `nilr --help`\n",
        ),
        (
            ["probe", "--protocol", "transfer"],
            "error: `--protocol` cannot be `transfer`: 'transfer' is not one of "
            "'meta-init', 'same-task', 'cross-task', 'all'\nhint: see `nilr probe --help`\n",
        ),
        (
            ["probe", "--n-way", "1"],
            "error: `--n-way` cannot be `1`: input should be greater than or equal to 2\n"
            "hint: see `nilr probe --help`\n",
        ),
        (
            ["probe", "--n-way", "five"],
            "error: `--n-way` cannot be `five`: input should be a valid integer, unable to parse string as an integer\n"
            "hint: see `nilr probe --help`\n",
        ),
        (
            ["meta-train", "--outer-lr", "nan"],
            "error: `--outer-lr` cannot be `nan`: input should be a finite number\n"
            "hint: see `nilr meta-train --help`\n",
        ),
        (
            ["adapt", "one", "two", "three"],
            "error: got unexpected extra arguments (two three)\nhint: see `nilr adapt --help`\n",
        ),
        (
            ["adapt", "one", "two"],
            "error: got unexpected extra argument (two)\nhint: see `nilr adapt --help`\n",
        ),
    ],
)
def test_a_wrong_command_line_says_what_and_lists_what_is_known(
    home: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    assert run(args) == 2
    assert capsys.readouterr() == ("", said)


def test_a_wrong_environment_variable_is_named(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NILR_N_WAY", "1")
    assert run(["probe"]) == 2
    assert capsys.readouterr().err.startswith("error: `NILR_N_WAY` cannot be `1`: ")


def test_no_arguments_show_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "prepare-data" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == "nilr 0.1.0\n"


def test_help_imports_neither_torch_nor_h5py() -> None:
    code = (
        "import sys; from nilr.cli.boundary import run; from nilr.commands import COMMANDS\n"
        "lines = [['--help'], ['--version'], *([*command.name.split(), '--help'] for command in COMMANDS)]\n"
        "assert [run(line) for line in lines] == [0] * len(lines)\n"
        "print({'torch', 'h5py', 'scipy', 'PIL', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


def test_listing_models_does_not_import_torch(home: Path) -> None:
    code = "import sys; from nilr.cli.boundary import run; sys.exit(run(['models', 'ls']) or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_help_into_a_closed_pipe_is_silent() -> None:
    nilr = subprocess.Popen(
        [sys.executable, "-m", "nilr", "probe", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert nilr.stdout is not None
    nilr.stdout.close()
    _, said = nilr.communicate(timeout=240)
    assert (said, nilr.returncode) == (b"", 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_error(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        nilr = subprocess.run(
            [sys.executable, "-m", "nilr", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    said = "error: cannot write to standard output: no space left on device\nhint: redirect the output elsewhere\n"
    assert (nilr.stderr, nilr.returncode) == (said, 1)


def test_sigterm_runs_the_cleanup_of_a_command_and_ends_with_143(tmp_path: Path) -> None:
    code = (
        "import sys, time, types\n"
        "from nilr.cli.boundary import run\n"
        "def recipe(settings, reporter):\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "sys.modules['nilr.recipes.probe'] = types.SimpleNamespace(run=recipe)\n"
        "sys.exit(run(['probe']))"
    )
    nilr = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert nilr.stdout is not None
    assert nilr.stdout.readline() == "ready\n"
    nilr.terminate()
    out, err = nilr.communicate(timeout=240)
    assert (out, err, nilr.returncode) == ("cleaned up\n", f"error: interrupted by SIGTERM\n{HINT}", 143)
