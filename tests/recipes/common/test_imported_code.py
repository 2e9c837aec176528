"""Every process of a command imports the nilr that was started, whatever the working directory contains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nilr

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

INSTALLED = "0.0+installed"
MARK = "import pathlib\npathlib.Path(__file__).with_suffix('.executed').touch()\n"
SMALL = "--outer-steps 2 --filters 4 --threads 2"
REPRODUCE = f"reproduce --preset demo --seeds 1 --n-episodes 2 {SMALL} --home {{home}}"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Install a copy of nilr that is not editable, with a script as pip writes it, and its own version."""
    site = tmp_path / "site"
    shutil.copytree(Path(nilr.__file__).parent, site / "nilr", ignore=shutil.ignore_patterns("__pycache__"))
    source = (site / "nilr" / "__init__.py").read_text()
    (site / "nilr" / "__init__.py").write_text(source.replace(f'"{nilr.__version__}"', f'"{INSTALLED}"'))
    path = tmp_path / "bin" / "nilr"
    path.parent.mkdir()
    path.write_text(f"import sys\nsys.path.insert(1, {str(site)!r})\nfrom nilr.__main__ import main\nmain()\n")
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a directory with the sources of another nilr that runs, and with modules that must not be imported."""
    here = tmp_path / "checkout"
    shutil.copytree(Path(nilr.__file__).parent, here / "nilr", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("nilr/__init__.py", "torch.py", "random.py", "submitit.py"):
        file = here / name
        file.write_text((file.read_text() if file.exists() else "") + MARK)
    return here


@pytest.mark.parametrize(
    "line",
    [
        f"{REPRODUCE} --jobs 2",
        f"{REPRODUCE} --cluster local",
        f"meta-train --data synthetic --seeds 2 --eval-every 0 {SMALL} --cluster local --home {{home}}",
        "bench --engine explicit --algo maml --image-size 16 --filters 4 --rounds 1 --threads 1 --home {home}",
    ],
)
def test_children_import_what_their_parent_did(script: Path, checkout: Path, tmp_path: Path, line: str) -> None:
    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(command: str) -> None:
        words = command.format(home=home).split()
        subprocess.run([sys.executable, script, *words], cwd=checkout, env=environment, check=True, timeout=1200)

    if line.startswith("meta-train"):
        run("prepare-data --synthetic --image-size 16 --limit-per-class 20 --home {home}")
    run(line)
    assert not list(checkout.rglob("*.executed"))
    results = [json.loads(path.read_bytes()) for path in home.rglob("*.json")]
    assert {result["environment"]["nilr"] for result in results} == {INSTALLED}
