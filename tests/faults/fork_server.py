"""Runs the real command line many times without importing torch many times: a process that has all of it forks.

Reads one JSON request per line from stdin and answers each with one line on stdout:
{"args", "env", "cwd", "out", "err", "arm"} -> {"pid"}; {"wait": pid, "seconds": s} -> {"status", "count"}.
`arm` is what the shim is told (see shim.c): directory, chosen, action, error, which. `status` is as a shell shows it,
or null where the process still runs; `count` is how many calls that change the directory it made.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import pkgutil
import signal
import socket
import sys
import time
from typing import Any, NoReturn


def serve() -> None:
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w", buffering=1)
    ours = (requests.fileno(), answers.fileno())
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    import_everything()
    counts: dict[int, mmap.mmap] = {}
    ended: dict[int, int] = {}
    for line in requests:
        request = json.loads(line)
        if "wait" in request:
            pid = request["wait"]
            if pid not in ended and (status := wait(pid, request["seconds"])) is not None:
                ended[pid] = status
            answer = {"status": ended.get(pid), "count": int.from_bytes(counts[pid][:8], sys.byteorder)}
        else:
            count = mmap.mmap(-1, 8)
            pid = start(request, count, ours)
            counts[pid], answer = count, {"pid": pid}
        answers.write(json.dumps(answer) + "\n")
    for pid in counts.keys() - ended.keys():
        os.kill(pid, signal.SIGKILL)


def import_everything() -> None:
    import nilr

    names = [module.name for module in pkgutil.walk_packages(nilr.__path__, "nilr.")]
    for name in (*names, "scipy.stats", "torch._dynamo"):  # the last two are imported late, by nilr and by torch
        if not name.rpartition(".")[2].startswith("_") or name.startswith("torch"):
            importlib.import_module(name)


def start(request: dict[str, Any], count: mmap.mmap, ours: tuple[int, int]) -> int:
    pid = os.fork()
    if pid == 0:
        for handle in ours:
            os.close(handle)
        become(request, count)
    return pid


def become(request: dict[str, Any], count: mmap.mmap) -> NoReturn:
    """Run the command, in the forked process."""
    from nilr.__main__ import main

    status = 70
    try:
        for handle, path in ((1, request["out"]), (2, request["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), handle)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        os.umask(int(os.environ.get("UMASK", "0o022"), 8))
        if "HOST" in os.environ:
            pose_as(os.environ["HOST"])
        arm(request["arm"], count)
        sys.argv = ["nilr", *request["args"]]
        main()
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def pose_as(host: str) -> None:
    """Change the host name for this process only, if the system allows it."""
    new_uts = 0x04000000
    if ctypes.CDLL(None).unshare(new_uts) == 0:
        socket.sethostname(host)


def arm(plan: dict[str, Any] | None, count: mmap.mmap) -> None:
    if plan is None:
        return
    address = ctypes.addressof(ctypes.c_long.from_buffer(count))
    ctypes.CDLL(None).faults_arm(
        plan["directory"].encode(),
        ctypes.c_void_p(address),
        ctypes.c_long(plan["chosen"]),
        plan["action"],
        plan["error"],
        plan["which"],
    )


def wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


if __name__ == "__main__":
    serve()
