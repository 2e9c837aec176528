"""Builds the C kernels of the `compiled` engine when nilr is installed. Without a C compiler, that engine is missing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("nilr/meta/engine")  # every .c in it
LIBRARY = Path("nilr/meta/engine/_kernels.so")
FLAGS = ["-O3", "-fPIC"]
DTYPES = {"f32": "float", "f64": "double"}
# Instruction sets that the library has the kernels for; the flags are what torch requires of a processor for the same
# name. A compiler that does not know the flags of a set leaves it out.
INSTRUCTIONS = {
    "base": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}


class KernelHook(BuildHookInterface):
    """Compiles the kernels beside themselves and puts the library into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, or warn why it is missing."""
        root = Path(self.root)
        problem = compile_kernels(root / SOURCES, root / LIBRARY)
        if problem is not None:
            self.app.display_warning(f"the engine `compiled` is not built: {problem}")
            return
        build_data["artifacts"].append(str(LIBRARY))
        build_data["pure_python"] = False
        # ctypes loads the library, so a wheel serves every Python of its platform
        platform = self.build_config.builder.get_best_matching_tag().rpartition("-")[2]
        build_data["tag"] = f"py3-none-{platform}"


def compile_kernels(sources: Path, library: Path) -> str | None:
    """Compile the C files of a directory into `library`, and return the problem if that fails.

    The library of an earlier build serves running programs until the new one replaces it. After a failure there is no
    library, since that of an older source would be wrong.
    """
    problem = _compile(sorted(sources.glob("*.c")), library)
    if problem is not None:
        library.unlink(missing_ok=True)
    return problem


def _compile(sources: list[Path], library: Path) -> str | None:
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler `{compiler[0]}`"
    with tempfile.TemporaryDirectory(dir=library.parent) as directory:
        built = Path(directory) / library.name
        empty = ["-shared", "-x", "c", os.devnull, "-o", str(built)]
        openmp = ["-fopenmp"] if _run([*compiler, "-fopenmp", *empty]) is None else []  # without it: one core
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            by_set = [
                pool.submit(_objects, compiler, sources, Path(directory), name, [*openmp, *flags])
                for name, flags in INSTRUCTIONS.items()
            ]
        base, *others = [future.result() for future in by_set]
        if isinstance(base, str):
            return base
        objects = [*base, *(path for found in others if not isinstance(found, str) for path in found)]
        problem = _run([*compiler, *openmp, "-shared", *map(str, objects), "-o", str(built), "-lm"])
        if problem is None:
            built.replace(library)
        return problem


def _objects(
    compiler: list[str], sources: list[Path], directory: Path, instructions: str, flags: list[str]
) -> list[Path] | str:
    """Compile the sources for an instruction set, once per dtype; return the objects, or the problem."""
    objects = []
    for source in sources:
        for dtype, real in DTYPES.items():
            suffix = f"{dtype}_{instructions}"
            objects.append(directory / f"{source.stem}_{suffix}.o")
            definitions = [f"-DREAL={real}", f"-DSUFFIX={suffix}"]
            problem = _run([*compiler, *FLAGS, *flags, *definitions, "-c", str(source), "-o", str(objects[-1])])
            if problem is not None:
                return problem
    return objects


def _run(command: list[str]) -> str | None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return None
    return run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"`{command[0]}` failed"
