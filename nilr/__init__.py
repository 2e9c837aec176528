"""nilr measures what learned inner-loop learning rates do to a meta-learner's features.

The map. A module imports from its own row or from a row above it:

errors, words, config, reporting, files, signals
                                               errors, settings, progress, safe files; no torch
metrics, inference, episodes                   numbers, confidence intervals and tests, drawing of episodes
models                                         learners: body and head
meta                                           inner loop, outer loop, algorithms, engines, evaluation
probes                                         features before and after adaptation, and their classification
data                                           images -> one HDF5 file
tensorfile, checkpoint, history, training_state, store, results, runtime
                                               files of models and results, and what a run ran on
claims                                         the paper's claims, and whether results confirm them
commands                                       the table of commands
report, sections                               results -> figures, tables, pages
recipes                                        one function (settings, reporter) -> result per command
cli                                            the command line; the only code that uses Typer and rich
"""

__version__ = "0.1.0"
