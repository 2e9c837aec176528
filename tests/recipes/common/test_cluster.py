from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nilr.config.base import ClusterSettings
from nilr.errors import Interrupted, NilrError, UsageError
from nilr.recipes.common import cluster
from nilr.recipes.common.cluster import Cluster, check_cluster
from nilr.recipes.common.processes import search_path
from nilr.recipes.common.tasks import Message, Relay, Task, execute
from nilr.signals import stopping_gracefully
from tests.recipes.listening import Listening

pytest.importorskip("submitit")

LOCAL = ClusterSettings(cluster="local", gpus=0)


def count_up(relay: Relay, state: Path, wait_for: Path) -> str:
    """Write the signals that have ended this task and the process's id to its state; end when a file exists."""
    before = state.read_text() if state.exists() else ""
    with stopping_gracefully() as stop:
        relay.begin("counting")
        relay.note(f"begins after `{before.strip()}` in {Path.cwd().name}")
        state.with_suffix(".pid").write_text(str(os.getpid()))
        while not stop and not wait_for.exists():
            time.sleep(0.02)
    if stop.signum is not None:
        state.write_text(f"{before}{signal.Signals(stop.signum).name} ")
        raise Interrupted(stop.signum)
    return before


def fail(_relay: Relay, error: Exception) -> None:
    raise error


def end_at_once(_relay: Relay) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Seen:
    """A progress that keeps the messages, and acts on them."""

    def __init__(self, act: Callable[[str], object] = lambda note: None) -> None:
        self.notes: list[str] = []
        self.ended: list[str] = []
        self._act = act

    def begin(self, name: str) -> None: ...
    def stop(self, name: str) -> None: ...
    def handle(self, name: str, message: Message | None, jobs: int) -> None:
        if message is None:
            self.ended.append(name)
        if isinstance(message, str):
            self.notes.append(message)
            self._act(message)


def run(tasks: list[Task], folder: Path, seen: Seen, settings: ClusterSettings = LOCAL) -> dict[str, Any]:
    return execute(tasks, Cluster(settings, folder, slots=2), seen, Listening())


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a directory with modules that must not be imported."""
    here = tmp_path / "hostile"
    for name in ("random.py", "torch.py", "submitit.py", "json.py", "nilr/__init__.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("import pathlib\npathlib.Path(__file__).with_suffix('.executed').touch()\n")
    monkeypatch.chdir(here)
    yield here
    assert not list(here.rglob("*.executed"))


def test_a_preempted_job_saves_its_state_and_the_same_job_continues(tmp_path: Path, hostile: Path) -> None:
    state, go = tmp_path / "state", tmp_path / "go"
    signals = [signal.SIGUSR1, signal.SIGTERM]

    def preempt(_note: str) -> None:
        if signals:
            os.kill(int(state.with_suffix(".pid").read_text()), signals.pop(0))
        else:
            go.touch()

    # the first note may be read before the id is written
    state.with_suffix(".pid").write_text("0")
    seen = Seen(lambda note: (time.sleep(0.2), preempt(note)))
    folder = tmp_path / "jobs"
    assert run([Task("a", count_up, (state, go))], folder, seen) == {"a": "SIGTERM SIGTERM "}
    assert seen.notes == [f"begins after `{before}` in hostile" for before in ("", "SIGTERM", "SIGTERM SIGTERM")]
    assert seen.ended == ["a"]
    assert not folder.exists()


def test_a_cancelled_job_saves_its_state_and_does_not_continue(tmp_path: Path) -> None:
    state, folder = tmp_path / "state", tmp_path / "jobs"

    def interrupt(_note: str) -> None:
        raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        run([Task("a", count_up, (state, tmp_path / "never"))], folder, Seen(interrupt))
    assert state.read_text() == "SIGTERM "
    time.sleep(0.3)
    assert not alive(int(state.with_suffix(".pid").read_text()))


def test_the_error_of_a_job_is_raised_and_a_killed_job_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import submitit

    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)
    with pytest.raises(UsageError) as raised:
        run([Task("a", fail, (UsageError("wrong", hint="right"),))], tmp_path / "a", Seen())
    assert (raised.value.message, raised.value.hint) == ("wrong", "right")
    with pytest.raises(NilrError, match=r"job \d+ for `b` ended without a result \(finished\)") as killed:
        run([Task("b", end_at_once, ())], tmp_path / "b", Seen())
    assert Path((killed.value.hint or "").removeprefix("read its log: ")).is_file()


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"partition": "gpu"}, UsageError, "--partition describes jobs of a cluster"),
        ({"cluster": "slurm"}, NilrError, "--cluster slurm needs the commands `sbatch` and `srun`"),
    ],
)
def test_a_cluster_that_is_not_there_is_an_error(
    settings: dict[str, Any], kind: type[NilrError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(kind, match=message):
        check_cluster(ClusterSettings(**settings))


def test_without_submitit_the_error_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NilrError, match="submitit, which is not installed") as error:
        check_cluster(LOCAL)
    assert error.value.hint == "install it: pip install 'nilr[slurm]'"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:01", 91), ("12:00:00", 720), ("2-00", 2880), ("1-2:30", 1590), ("1-0:0:1", 1441), (15, 15)],
)
def test_a_time_limit_has_slurms_formats(text: object, minutes: int) -> None:
    assert ClusterSettings(time=text).time == minutes  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "0", "-5", "1:2:3:4", "1-2:3:4:5", "2h", "400-0", "1.5"])
def test_another_time_limit_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="give minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS"):
        ClusterSettings(time=text)  # type: ignore[arg-type]


SBATCH = """#!/bin/sh
cp "$1" {work}/script
grep -q -- --partition=closed "$1" && echo "sbatch: error: invalid partition specified: closed" >&2 && exit 1
echo "Submitted batch job 7"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put commands into the path that stand for Slurm, and keep the script that sbatch gets."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (
        ("squeue", "#!/bin/sh\necho 7_1\n"),
        ("sacct", "#!/bin/sh\n"),
        ("sbatch", SBATCH),
        ("srun", "#!/bin/sh\n"),
        ("scancel", "#!/bin/sh\necho $1 >> {work}/cancelled\n"),
    ):
        (commands / name).write_text(text.format(work=tmp_path))
        (commands / name).chmod((commands / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return tmp_path


def test_tasks_are_a_job_array_of_slurm_with_the_settings(slurm: Path) -> None:
    settings = ClusterSettings(cluster="slurm", partition="gpu", time="1-0", memory=2.5, device="cuda", threads=3)
    check_cluster(settings)
    tasks = [Task(name, fail, (ValueError(),)) for name in "abc"]
    executor = Cluster(settings, slurm / "jobs", slots=2)
    executor.submit(tasks)
    executor.__exit__(Interrupted)
    script = (slurm / "script").read_text()
    flags = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2] for line in script.splitlines() if "#SBATCH" in line
    )
    wanted = {"array": "0-2%2", "partition": "gpu", "time": "1440", "mem": "2560MB", "cpus-per-task": "3"}
    wanted |= {"gpus-per-node": "1", "requeue": "", "signal": "USR2@90", "open-mode": "append"}
    assert {name: flags.get(name) for name in wanted} == wanted
    assert f"env PYTHONSAFEPATH=1 PYTHONPATH={':'.join(search_path())} {sys.executable} -u -m submitit" in script
    assert (slurm / "cancelled").read_text().split() == ["7_0", "7_1", "7_2"]


def test_jobs_that_slurm_refuses_are_one_error(slurm: Path) -> None:
    settings = ClusterSettings(cluster="slurm", partition="closed")
    with pytest.raises(NilrError, match="the cluster refuses the jobs: sbatch: error: invalid partition") as error:
        run([Task("a", fail, (ValueError(),))], slurm / "jobs", Seen(), settings)
    assert "--partition" in (error.value.hint or "")
    assert shutil.which("sbatch") == str(slurm / "bin" / "sbatch")


def test_a_job_that_is_no_longer_in_the_queue_has_ended(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_SECONDS_BETWEEN_QUERIES", 0.0)
    monkeypatch.setitem(cluster._SECONDS_BETWEEN_CHECKS, "slurm", 0.0)
    tasks = [Task(name, fail, (ValueError(),)) for name in "ab"]
    with pytest.raises(NilrError, match=r"^job 7_0 for `a` ended without a result \(unknown\)"):
        run(tasks, slurm / "jobs", Seen(), ClusterSettings(cluster="slurm"))
    assert (slurm / "cancelled").read_text().split() == ["7_1"]
