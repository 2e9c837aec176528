import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nilr.errors import DeviceError, UsageError
from nilr.runtime import available_memory, environment, peak_memory, prepare, total_memory


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(DeviceError) as caught:
        prepare(device, None)
    assert f"`{device}`" in caught.value.message
    assert "--device cpu" in (caught.value.hint or "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_auto_takes_the_gpu() -> None:
    assert prepare("auto", None).type == "cuda"


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "cpu:00", "cuda:x", ""])
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(UsageError):
        prepare(device, None)


@pytest.mark.parametrize("device", ["mps", "MPS:0"])
def test_mps_is_refused_with_the_reason(device: str) -> None:
    with pytest.raises(UsageError, match="it has no float64") as caught:
        prepare(device, None)
    assert caught.value.hint == "use --device cpu"


@pytest.mark.parametrize("device", ["cpu", "CPU", "Cpu:0", "cpu:0"])
def test_every_spelling_of_the_cpu_is_the_cpu(device: str) -> None:
    assert prepare(device, None) == torch.device("cpu")


@pytest.mark.usefixtures("one_thread")
def test_threads_are_set() -> None:
    assert prepare("cpu", 2).type == "cpu"
    assert torch.get_num_threads() == 2


def test_the_environment_names_no_host_and_no_user() -> None:
    import getpass
    import platform

    record = environment(torch.device("cpu"), "reference")
    assert record["engine"] == "reference"
    assert platform.node() not in map(str, record.values())
    assert getpass.getuser() not in map(str, record.values())


def test_peak_memory_grows_with_what_is_held_and_does_not_shrink() -> None:
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    held = torch.ones(400_000_000 // 4)
    during = peak_memory(cpu)
    del held
    assert during >= 400_000_000
    assert peak_memory(cpu) >= during >= before


@pytest.mark.slow
def test_a_process_does_not_inherit_the_peak_of_the_one_that_starts_it() -> None:
    held = torch.ones(800_000_000 // 4)
    code = "import torch; from nilr.runtime import peak_memory; print(peak_memory(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50_000_000 < int(done.stdout) < held.nbytes


def system(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 8000 kB\nMemAvailable:    6000 kB\n"}
STAT = "anon 5\ninactive_file 1024\ntotal_inactive_file 2048\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MEMINFO, 6000 * 1024),
        # version 2: the group's parent has the limit
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": "100\n",
                "sys/fs/cgroup/job/memory.max": "1000000\n",
                "sys/fs/cgroup/job/memory.current": "400000\n",
                "sys/fs/cgroup/job/memory.stat": STAT,
            },
            600_000 + 1024,
        ),
        # version 1, in a container: the group's name is that of the host
        (
            MEMINFO
            | {
                "proc/self/cgroup": "5:cpu:/other\n4:memory:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000\n",
                "sys/fs/cgroup/memory/memory.stat": STAT,
            },
            1_500_000 + 2048,
        ),
        # a limit above the machine's free memory
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "80000000000\n",
                "sys/fs/cgroup/memory.current": "0\n",
                "sys/fs/cgroup/memory.stat": STAT,
            },
            6000 * 1024,
        ),
    ],
    ids=["machine", "version 2", "version 1", "above"],
)
def test_available_memory_is_the_least_of_the_machine_and_its_groups(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert available_memory(torch.device("cpu"), system(tmp_path, files)) == expected


def test_without_information_half_of_the_machine_is_available(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert available_memory(cpu, tmp_path) == total_memory(cpu) // 2
    assert 0 < available_memory(cpu) <= total_memory(cpu)
