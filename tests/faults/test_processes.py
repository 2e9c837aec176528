"""Processes as torchrun starts them: the same bits as of one, one error, and no process that waits for ever."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests.faults.conftest import TRAIN, Done, Nilr, Running, fresh
from tests.faults.scenarios import SCENARIOS, check_untouched, model, run_whole

Count = Callable[[str, int], None]

TRAINED = "meta-train --data toy --algo metasgd --filters 4 --n-way 3 --n-query 2 --meta-batch-size 3 --eval-every 8 "
TRAINED += "--eval-episodes 3 --log-every 1 --save-every 2 --name m --resume auto --outer-steps"
LONG = 16


class Job:
    """The processes of one command, started as torchrun starts them, with the store that its agent has."""

    def __init__(self, nilr: Nilr, line: str, work: Path, n: int) -> None:
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.ranks: list[Running] = []
        for rank in range(n):
            env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self._store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
            env |= {"TORCHELASTIC_RUN_ID": "none"}
            self.ranks.append(nilr.start(line, work, **{name: str(value) for name, value in env.items()}))

    def wait(self, seconds: float = 60) -> list[Done]:
        """Wait until all have ended; as torchrun does, send SIGTERM to the rest when one has failed."""
        ended: dict[int, int | None] = {}
        deadline = time.monotonic() + seconds
        while len(ended) < len(self.ranks) and time.monotonic() < deadline:
            ended |= {i: s for i, running in enumerate(self.ranks) if (s := running.poll()) is not None}
            if any(ended.values()):
                for i in set(range(len(self.ranks))) - set(ended):
                    self.ranks[i].signal(signal.SIGTERM)
                break
            time.sleep(0.01)
        return [running.wait(max(1.0, deadline - time.monotonic())) for running in self.ranks]


def errors(done: list[Done]) -> list[str]:
    return [line for each in done for line in each.err.splitlines() if line.startswith("error:")]


def check_failed(done: list[Done], status: int) -> None:
    """Check that the first process that failed has this status; torchrun may have ended the others."""
    assert status in {each.status for each in done} <= {status, 128 + signal.SIGTERM}


def history(work: Path) -> list[dict[str, object]]:
    path = work / "home" / "models" / "m" / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def whole(nilr: Nilr, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the model that one process trains."""
    work = fresh(prepared, tmp_path_factory.mktemp("one") / "work")
    nilr(f"{TRAINED} {LONG}", work)
    return work


@pytest.mark.parametrize("n", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 4))])
def test_any_number_of_processes_trains_the_same_bits_and_the_first_one_alone_prints(
    nilr: Nilr, work: Path, whole: Path, n: int
) -> None:
    done = Job(nilr, f"{TRAINED} {LONG} --json -", work, n).wait()
    assert [each.status for each in done] == [0] * n, errors(done)
    assert json.loads(done[0].out)["models"][0]["name"] == "m"
    assert all((each.out, each.err) == ("", "") for each in done[1:])
    assert model("m")(work) == model("m")(whole)
    assert history(work) == history(whole)
    assert len(list((work / "home" / "results").glob("*meta-train*"))) == len(
        list((whole / "home" / "results").glob("*meta-train*"))
    )


def test_only_the_first_process_opens_loggers(nilr: Nilr, work: Path, whole: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: make loggers")
    done = Job(nilr, f"{TRAINED} {LONG} --log tensorboard", work, 2).wait()
    assert [each.status for each in done] == [0, 0], errors(done)
    assert len(list((work / "home" / "logs" / "tensorboard" / "m").iterdir())) == 1
    (work / "home" / "models" / "m" / "loggers.json").unlink()
    assert model("m")(work) == model("m")(whole)


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_probe_measures_the_same_in_every_episode(nilr: Nilr, prepared: Path, work: Path, n: int) -> None:
    expected = run_whole(nilr, "probe", prepared).bits
    done = Job(nilr, SCENARIOS["probe"].line, work, n).wait()
    assert [each.status for each in done] == [0] * n, errors(done)
    assert SCENARIOS["probe"].bits(work) == expected


def check_resumes(nilr: Nilr, work: Path, whole: Path, n: int) -> None:
    assert [each.status for each in Job(nilr, f"{TRAINED} {LONG}", work, n).wait()] == [0] * n
    assert model("m")(work) == model("m")(whole)
    assert history(work) == history(whole)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_any_process_ends_all_and_another_number_of_them_continues(
    nilr: Nilr, work: Path, whole: Path, rank: int
) -> None:
    job = Job(nilr, f"{TRAINED} {LONG} --save-every 100", work, 2)
    job.ranks[0].wait_for(lambda: len(history(work)) > 3)
    job.ranks[rank].signal(signal.SIGTERM)
    done = job.wait()
    assert [each.status for each in done] == [128 + signal.SIGTERM] * 2
    assert errors(done) == ["error: interrupted by SIGTERM"]
    check_resumes(nilr, work, whole, 3)


KILLS = [
    pytest.param(0, 1, id="first"),
    pytest.param(1, 1, id="other"),
    pytest.param(None, 50, id="random", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("rank", "kills"), KILLS)
def test_a_killed_process_ends_all_with_one_error_and_the_rest_continues_to_the_same_bits(
    nilr: Nilr, prepared: Path, work: Path, whole: Path, rank: int | None, kills: int, count: Count
) -> None:
    drawn = random.Random(0)
    for _ in range(kills):
        n = drawn.randint(2, 4) if rank is None else 2
        killed = drawn.randrange(n) if rank is None else rank
        least = drawn.randrange(LONG - 4)
        job = Job(nilr, f"{TRAINED} {LONG}", fresh(prepared, work), n)
        job.ranks[0].wait_for(lambda least=least: len(history(work)) > least)
        time.sleep(drawn.uniform(0, 0.02))
        job.ranks[killed].signal(signal.SIGKILL)
        began = time.monotonic()
        done = job.wait(30)
        assert time.monotonic() - began < 30
        if any(each.status for each in done):  # it was not over yet
            assert done[killed].status == 128 + signal.SIGKILL
            assert len(errors(done)) == 1, [each.err for each in done]
            assert "has ended or does not respond" in errors(done)[0]
            count("kills of one of several processes", 1)
        check_untouched(work, prepared)
        check_resumes(nilr, work, whole, drawn.randint(1, 3))


@pytest.mark.slow
def test_a_process_that_is_stopped_does_not_keep_the_rest_from_saving(nilr: Nilr, work: Path, whole: Path) -> None:
    job = Job(nilr, f"{TRAINED} {LONG} --save-every 100", work, 2)
    job.ranks[0].wait_for(lambda: len(history(work)) > 3)
    job.ranks[1].signal(signal.SIGSTOP)
    time.sleep(1)
    job.ranks[0].signal(signal.SIGTERM)
    first = job.ranks[0].wait(30)
    assert first.status == 1
    assert errors([first]) == ["error: another of the 2 processes of torchrun has ended or does not respond"]
    job.ranks[1].signal(signal.SIGKILL)
    assert (work / "home" / "models" / "m" / "training.safetensors").exists()
    check_resumes(nilr, work, whole, 2)


def test_an_error_that_all_processes_have_is_printed_once(nilr: Nilr, work: Path) -> None:
    done = Job(nilr, f"{TRAINED} {LONG} --outer-lr 1e3 --inner-lr-init 1e30", work, 2).wait()
    check_failed(done, 1)
    assert len(errors(done)) == 1
    assert "at outer step 0" in errors(done)[0]


@pytest.mark.parametrize("line", ["rates base", "prepare-data --synthetic"])
def test_a_command_for_one_process_is_refused(nilr: Nilr, work: Path, line: str) -> None:
    done = Job(nilr, line, work, 2).wait()
    check_failed(done, 2)
    assert len(errors(done)) == 1
    assert "runs in one process, and torchrun started 2" in errors(done)[0]


@pytest.mark.parametrize("line", ["meta-train --data toy --name new", "reproduce --data toy"])
def test_jobs_of_a_cluster_are_refused_before_anything_is_written(nilr: Nilr, work: Path, line: str) -> None:
    before = sorted(work.rglob("*"))
    done = Job(nilr, f"{line} --cluster local --save-config saved.toml", work, 2).wait()
    check_failed(done, 2)
    assert errors(done) == ["error: --cluster and torchrun both start processes"]
    assert sorted(work.rglob("*")) == before


def test_processes_with_different_commands_are_refused(nilr: Nilr, work: Path) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = []
    for rank in (0, 1):
        env = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        env |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        ranks.append(nilr.start(f"{TRAIN} --name m --seed {rank}", work, **env))
    done = [running.wait() for running in ranks]
    assert [each.status for each in done] == [1, 1]
    assert len(errors(done)) == 1
    assert "has another settings" in errors(done)[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_itself_trains_the_same_bits(
    nilr: Nilr, work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in nilr.environment.items():  # settings that the model records
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NILR_HOME", str(work / "home"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "nilr"]
    subprocess.run([*torchrun, *TRAINED.split(), str(LONG)], check=True, cwd=work)
    assert model("m")(work) == model("m")(whole)
    assert history(work) == history(whole)
