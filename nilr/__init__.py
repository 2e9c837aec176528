"""nilr measures what learned inner-loop learning rates do to a meta-learner's features.

The map. A module imports from its own row or from a row above it:

errors, words, numbers, config, reporting, files, locks, signals, limits
                                               errors, settings, progress, safe files, the machine's limits; no torch
metrics, inference, episodes, distributed      numbers, confidence intervals and tests, drawing of episodes, processes
                                               of torchrun
models                                         learners: body and head
meta                                           inner loop, outer loop, algorithms, engines, evaluation
probes                                         features before and after adaptation, and their classification
data                                           images -> one HDF5 file
portable, tensorfile, checkpoint, history, loggers, training_state, store, results, runtime
                                               files of models and results, and what a run ran on
claims                                         the paper's claims, and whether results confirm them
commands                                       the table of commands
report, sections                               results -> figures, tables, pages
recipes                                        one function (settings, reporter) -> result per command
library                                        the functions below, for notebooks and scripts
cli                                            the command line; the only code that uses Typer and rich
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nilr.episodes import Episode
    from nilr.errors import NilrError
    from nilr.library.figures import plot
    from nilr.library.frames import rates_frame, result_frame
    from nilr.library.images import Images, generate_images, open_pack, read_images, sample_episode
    from nilr.library.measuring import measure_rates, probe, read_result
    from nilr.library.models import adapt, build_model, features, load_model, logits, rates, wrap
    from nilr.library.saving import save_model
    from nilr.library.training import train
    from nilr.meta.model import Model
    from nilr.results.result import Result

__version__ = "0.1.0"

# What `import nilr` offers, and where it is; docs/library.md describes it. All else is private. A name is imported when
# it is used first, so that `import nilr` costs no torch.
_PUBLIC = {
    "nilr.episodes": ("Episode",),
    "nilr.errors": ("NilrError",),
    "nilr.library.figures": ("plot",),
    "nilr.library.frames": ("rates_frame", "result_frame"),
    "nilr.library.images": ("Images", "generate_images", "open_pack", "read_images", "sample_episode"),
    "nilr.library.measuring": ("measure_rates", "probe", "read_result"),
    "nilr.library.models": ("adapt", "build_model", "features", "load_model", "logits", "rates", "wrap"),
    "nilr.library.saving": ("save_model",),
    "nilr.library.training": ("train",),
    "nilr.meta.model": ("Model",),
    "nilr.results.result": ("Result",),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
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


if not TYPE_CHECKING:  # so that a type checker reports unknown names

    def __getattr__(name: str) -> Any:  # noqa: ANN401 - as the public name is declared above
        """Import a public name when it is used first."""
        if name not in _MODULES:
            raise AttributeError(f"module `nilr` has no attribute `{name}`")
        value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
