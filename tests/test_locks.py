from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nilr import locks
from nilr.errors import StoreError
from nilr.files import remove_stale, temporary_in
from nilr.locks import InUseError, is_locked, locked, shares_locks
from nilr.store import Store

NFS = "30 1 0:50 / {point} rw,relatime - nfs4 server:/export rw,vers=4.2,{options}"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the directory be a mount of NFS whose locks stay on each machine."""
    mount(tmp_path, monkeypatch, "local_lock=all")
    return tmp_path


def mount(point: Path, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    table = point / "mountinfo"
    table.write_text("1 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + NFS.format(point=point, options=options) + "\n")
    monkeypatch.setattr(locks, "_MOUNTS", table)


def on(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)


def killed_on(host: str, path: Path, options: str) -> str:
    """Lock a file in a process of a host, and kill it."""
    code = f"""
import os, socket
from pathlib import Path
from nilr import locks
socket.gethostname = lambda: {host!r}
locks._MOUNTS = Path({str(path.parent / "mountinfo")!r})
with locks.locked(Path({str(path)!r})):
    print(os.getpid(), flush=True)
    os.kill(os.getpid(), 9)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.parametrize(
    ("options", "shared"),
    [("local_lock=none", True), ("local_lock=flock", False), ("local_lock=all", False), ("nolock", False)],
)
def test_the_options_of_a_mount_tell_whether_machines_see_each_others_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, shared: bool
) -> None:
    place = tmp_path / "a b"
    place.mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        + NFS.format(point=str(place).replace(" ", r"\040"), options=options)
        + f"\n31 1 0:51 / {tmp_path}/fuse rw - fuse.sshfs host: rw\n"
    )
    monkeypatch.setattr(locks, "_MOUNTS", table)
    assert shares_locks(place / "locks" / "m.lock") is shared
    assert shares_locks(tmp_path / "other")
    assert not shares_locks(tmp_path / "fuse" / "x")
    monkeypatch.setattr(locks, "_MOUNTS", tmp_path / "missing")
    assert shares_locks(place)


def test_of_two_machines_that_see_no_locks_of_each_other_one_has_the_lock(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mounted / "m.lock"
    monkeypatch.setattr("fcntl.flock", lambda *_: None)  # each machine has locks of its own
    on("a", monkeypatch)
    with locked(path):
        on("b", monkeypatch)
        with (
            pytest.raises(InUseError, match=rf"process {os.getpid()} on `a` ends \(machines may not see"),
            locked(path),
        ):
            pass
        assert is_locked(path)
        on("a", monkeypatch)
        assert not is_locked(path)  # by another machine
    on("b", monkeypatch)
    assert not is_locked(path)
    with locked(path):
        pass


@pytest.mark.parametrize("options", ["local_lock=none", "local_lock=all"])
def test_a_lock_of_another_machine_is_never_taken_for_dead_unless_locks_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    mount(tmp_path, monkeypatch, options)
    path, claim = tmp_path / "m.lock", tmp_path / "m.lock.host"
    process = killed_on("a", path, options)
    on("b", monkeypatch)
    if options == "local_lock=none":
        with locked(path):  # the server has released it
            pass
        return
    with pytest.raises(InUseError, match=rf"process {process} on `a`.* if it has ended, remove `.*m\.lock\.host`"):
        locked(path).__enter__()
    on("a", monkeypatch)
    claim.write_text("a 123456789\n")  # longer than the next one
    with locked(path):  # the process was one of this machine
        assert claim.read_text() == f"a {os.getpid()}\n"
    assert not claim.exists()
    killed_on("a", path, options)
    claim.write_text("")  # killed before it wrote its name
    with pytest.raises(InUseError, match="wait until it ends"):
        locked(path).__enter__()
    claim.unlink()
    with locked(path):
        pass


def test_the_error_of_a_model_in_use_names_host_and_process_and_the_name_goes_with_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("node7", monkeypatch)
    store = Store(tmp_path)
    with store.lock("m"):
        on("node8", monkeypatch)
        with pytest.raises(StoreError, match="model `m` is in use by another process") as error:
            store.lock("m").__enter__()
        assert error.value.hint == f"wait until process {os.getpid()} on `node7` ends, or choose another --name"
    assert (tmp_path / "locks" / "m.lock").read_bytes() == b""


def test_temporary_files_of_another_machine_stay_where_it_sees_no_locks(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("a", monkeypatch)
    with temporary_in(mounted) as temporary:
        kept = temporary.read_bytes()
    for host, stays in (("b", True), ("a", False)):
        temporary.write_bytes(kept)
        on(host, monkeypatch)
        remove_stale(mounted)
        assert temporary.exists() is stays
