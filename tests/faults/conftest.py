"""Runs commands that are killed, stopped or short of disk space, and checks the store afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from nilr.checkpoint import load_checkpoint
from nilr.data.pack import verify_pack
from nilr.errors import NilrError
from nilr.files import TEMPORARY_PREFIX
from nilr.tensorfile import digest_tensors
from nilr.training_state import load_training_state
from tests.conftest import MadeOnce

HERE = Path(__file__).parent
SCHEMAS = HERE.parents[1] / "docs" / "schemas"

TRAIN = (
    "meta-train --data toy --algo metasgd --filters 4 --n-way 3 --n-query 2 --meta-batch-size 2 --outer-steps 6 "
    "--eval-every 2 --eval-episodes 2 --save-every 1 --log-every 1"
)
PACK = "prepare-data --synthetic --image-size 16 --limit-per-class 4"
KILL, FAIL, FAIL_ON = 1, 2, 3
ANY_CHANGE, NEEDS_SPACE = 0, 1


@dataclass(frozen=True)
class Done:
    """A command that has ended; `changes` counts its calls that changed the watched directory."""

    status: int
    out: str
    err: str
    changes: int


def until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.002)


def wait_to_catch(pid: int, signum: int) -> None:
    """Wait until a process handles a signal, or has ended."""

    def catches() -> bool:
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return True
        caught = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
        return not caught or bool(int(caught[0], 16) >> (signum - 1) & 1)

    until(catches)


class Running:
    """A command that may still be running."""

    def __init__(self, ask: Callable[..., Any], pid: int, said: Path) -> None:
        self._ask, self.pid, self._said = ask, pid, said

    def signal(self, signum: int) -> None:
        if self._ask(wait=self.pid, seconds=0)["status"] is None:
            os.kill(self.pid, signum)

    def poll(self) -> int | None:
        status: int | None = self._ask(wait=self.pid, seconds=0)["status"]
        return status

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, or the command has ended."""
        until(lambda: condition() or self.poll() is not None)

    def wait_to_say(self, words: str) -> None:
        self.wait_for(lambda: words in self.err())

    def wait_to_catch(self, signum: int) -> None:
        wait_to_catch(self.pid, signum)

    def err(self) -> str:
        return self._read("err")

    def _read(self, stream: str) -> str:
        path = self._said / stream  # not there where it was killed before it opened its streams
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def wait(self, seconds: float = 240) -> Done:
        answer = self._ask(wait=self.pid, seconds=seconds)
        if answer["status"] is None:
            os.kill(self.pid, signal.SIGKILL)
            self._ask(wait=self.pid, seconds=10)
            pytest.fail(f"it still ran after {seconds} s: {self.err()}")
        return Done(answer["status"], self._read("out"), self.err(), answer["count"])


class Nilr:
    """The real command line, forked from a process that has imported it (see fork_server.py).

    Args:
        shim: a library to load first.
        said: where what the commands say is kept.
    """

    def __init__(self, shim: Path, said: Path) -> None:
        self._said, self._n = said, 0
        self.environment = {"PATH": os.environ["PATH"], "NILR_THREADS": "1", "NILR_WORKERS": "1", "LC_ALL": "C.UTF-8"}
        numbers = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **numbers, "LD_PRELOAD": str(shim)},
        )

    def start(self, line: str, work: Path, *, arm: dict[str, Any] | None = None, **env: str) -> Running:
        """Start a command in the directory `work`, on the store `work/home`; `arm` says what goes wrong."""
        self._n += 1
        said = self._said / str(self._n)
        said.mkdir(parents=True)
        plan = {"directory": str(work), "chosen": -1, "action": 0, "error": 0, "which": ANY_CHANGE, **(arm or {})}
        pid = self._ask(
            args=line.split(),
            env={**self.environment, "NILR_HOME": str(work / "home"), **env},
            cwd=str(work),
            out=str(said / "out"),
            err=str(said / "err"),
            arm=plan,
        )["pid"]
        return Running(self._ask, pid, said)

    def __call__(self, line: str, work: Path, *, status: int | None = 0, **more: Any) -> Done:
        """Run a command to its end, and check its status."""
        done = self.start(line, work, **more).wait()
        assert status in (None, done.status), f"{line}: {done.status}: {done.err}"
        return done

    def close(self) -> None:
        self._server.communicate(timeout=30)

    def _ask(self, **request: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


@pytest.fixture(scope="session")
def nilr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nilr]:
    """Return the command line, or skip where no shim can be made."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("faults are injected by a preloaded library: needs Linux and a C compiler (cc)")
    directory = tmp_path_factory.mktemp("faults")
    shim = directory / "shim.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", shim, HERE / "shim.c", "-ldl"], check=True)
    nilr = Nilr(shim, directory / "said")
    yield nilr
    nilr.close()


def draw_images(directory: Path, *, splits: dict[str, int]) -> None:
    """Write classes of 6 noisy images of 16 px, and one invalid image."""
    rng = np.random.default_rng(0)
    for split, classes in splits.items():
        for i in range(classes):
            folder = directory / split / f"class{split}{i}"
            folder.mkdir(parents=True)
            for j in range(6):
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{j}.png")
    (folder / "broken.png").write_bytes(b"no image")


@pytest.fixture(scope="session")
def prepared(nilr: Nilr, made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a store that has the pack `toy` and the models `base` and `old`.

    Beside the store stand images to pack, and `copy`, a model without its training state.
    """

    def make(work: Path) -> None:
        work.mkdir()
        nilr(f"{PACK} --name toy", work)
        nilr(f"{TRAIN} --name base", work)
        nilr(f"{TRAIN} --seed 1 --name old", work)
        models = work / "home" / "models"
        shutil.copytree(models / "base", work / "copy", ignore=shutil.ignore_patterns("training.safetensors"))
        draw_images(work / "sources", splits={"train": 4, "val": 4, "test": 6})

    return fresh(made_once("prepared", make), tmp_path_factory.mktemp("own") / "prepared")


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    """Return a directory with a copy of the prepared store, for one test."""
    return fresh(prepared, tmp_path / "work")


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Count what was done, for the summary at the end of `make faults`."""
    return lambda what, n: request.node.user_properties.append((what, n))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for what, n in report.user_properties:
            counts[what] += n
    for what, n in sorted(counts.items()):
        terminalreporter.write_line(f"{what}: {n}")


def fresh(prepared: Path, work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(prepared, work)
    return work


def temporary_files(work: Path) -> list[Path]:
    return sorted(work.rglob(f"{TEMPORARY_PREFIX}*")) + sorted(work.rglob(".removed-*"))


def check_store(home: Path) -> None:
    """Check that every file under a final name is valid, and that there are no other files."""
    left = temporary_files(home)
    for file in sorted(path for path in home.rglob("*") if path.is_file()):
        if file.parent.name == "locks" or any(path == file or path in file.parents for path in left):
            continue
        try:
            _check_file(file)
        except (NilrError, ValueError, LookupError, jsonschema.ValidationError) as error:
            pytest.fail(f"{file.relative_to(home)}: {error}")


def _check_file(file: Path) -> None:
    if file.suffix == ".h5":
        verify_pack(file)
    elif file.name == "training.safetensors":
        load_training_state(file)
    elif file.suffix == ".safetensors":
        load_checkpoint(file)
    elif file.name == "history.jsonl":
        *lines, _cut = file.read_text(encoding="utf-8").split("\n")
        assert all(isinstance(json.loads(line), dict) for line in lines)
    elif file.suffix == ".json":
        result = json.loads(file.read_text(encoding="utf-8"))
        schema = SCHEMAS / f"{result['schema'].removeprefix('nilr/').replace('/', '-')}.json"
        jsonschema.validate(result, json.loads(schema.read_text(encoding="utf-8")))
    else:
        raise ValueError("what is this?")


def model_bits(directory: Path) -> dict[str, Any]:
    """Return the contents of a model's files, except the time at which they were written."""
    bits: dict[str, Any] = {}
    for file in sorted(directory.iterdir()):
        if file.name == "training.safetensors":
            tensors, values = load_training_state(file)
            bits[file.name] = (digest_tensors(tensors), values)
        elif file.suffix == ".safetensors":
            bits[file.name] = load_checkpoint(file).manifest.model_dump(exclude={"saved_at"})
        else:
            bits[file.name] = file.read_text(encoding="utf-8")
    return bits
