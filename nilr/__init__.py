"""nilr measures what learned inner-loop learning rates do to a meta-learner's features.

The map, in the order in which modules may import one another (upwards only):

errors, config, reporting, files,
signals                                 no torch: the words, the settings, the seams
metrics, inference, episodes            numbers, what may be concluded from them, and draws
models                                  learners: body + head
meta                                    inner loop, outer loop, algorithms, engines, evaluation
probes                                  nearest neighbours in feature space, before and after adaptation
data                                    images -> one HDF5 file
tensorfile, checkpoint, store           what is kept on disk
results, runtime                        what was measured, and what it ran on
commands                                the table of commands
report                                  results -> figures, tables, pages
recipes                                 one run(config, reporter) per command
cli                                     Typer and rich, nowhere else
"""

__version__ = "0.1.0"
