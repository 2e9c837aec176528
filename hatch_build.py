"""Builds the C kernels of the `compiled` engine when nilr is installed. Without a C compiler, that engine is missing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("nilr/meta/engine")  # every .c in it
LIBRARY = Path("nilr/meta/engine/_kernels.so")
FLAGS = ["-O3", "-shared", "-fPIC"]
LIBRARIES = ["-lm"]


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
        build_data["infer_tag"] = True


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
        # -DNILR_PLAIN: a compiler that cannot build one function for several processors builds it for the oldest
        for flags in (FLAGS, [*FLAGS, "-DNILR_PLAIN"]):
            command = [*compiler, *flags, *map(str, sources), "-o", str(built), *LIBRARIES]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode == 0:
                built.replace(library)
                return None
    return run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"`{compiler[0]}` failed"
