"""What `import nilr` offers: the list of names, an example of each that runs, and nothing that costs torch."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import nilr

NAMES = [name for name in nilr.__all__ if name != "__version__"]
SHOWN = [name for name in NAMES if getattr(nilr, name).__module__.startswith("nilr.library")]


def test_the_public_names_are_these() -> None:
    assert nilr.__all__ == sorted(nilr.__all__)
    assert nilr.__all__ == [
        "Episode",
        "Images",
        "Model",
        "NilrError",
        "Result",
        "__version__",
        "adapt",
        "build_model",
        "features",
        "generate_images",
        "load_model",
        "logits",
        "measure_rates",
        "open_pack",
        "plot",
        "probe",
        "rates",
        "rates_frame",
        "read_images",
        "read_result",
        "result_frame",
        "sample_episode",
        "save_model",
        "train",
        "wrap",
    ]
    assert dir(nilr) == nilr.__all__
    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        nilr.nothing  # noqa: B018 - the access is the test


def test_the_types_that_editors_see_are_the_names_that_run() -> None:
    source = Path(nilr.__file__).read_text()
    block = source[source.index("if TYPE_CHECKING:") : source.index("__version__ =")]
    declared = {
        name: module for module, names in re.findall(r"from (\S+) import (.+)", block) for name in names.split(", ")
    }
    assert declared == nilr._MODULES
    assert set(declared) == set(NAMES)


def test_import_costs_no_torch_until_a_function_needs_it() -> None:
    show = "print('torch' in sys.modules)"
    code = f"import sys, nilr; dir(nilr), nilr.NilrError; {show}; nilr.rates; {show}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.usefixtures("home", "one_thread")
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg")
def test_the_example_of_a_name_runs(name: str) -> None:
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(nilr, name), name, globs={})
    assert test.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert result.failed == 0


@pytest.mark.parametrize("name", SHOWN)
def test_arguments_are_plain_and_described(name: str) -> None:
    function = getattr(nilr, name)
    if inspect.isclass(function):
        return
    documented = function.__doc__.partition("Args:")[2].partition("Returns:")[0]
    for parameter in inspect.signature(function).parameters.values():
        assert "Settings" not in str(parameter.annotation)
        if "Args:" in function.__doc__:
            assert re.search(rf"^ +{parameter.name}: ", documented, flags=re.MULTILINE), parameter.name


def test_a_traceback_has_the_hint() -> None:
    error = nilr.NilrError("something is wrong", hint="do it right")
    assert traceback.format_exception_only(error)[-1] == "hint: do it right\n"
    assert str(error) == "something is wrong"
