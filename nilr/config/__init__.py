"""One frozen settings model per command: every default, range, unit and help text, and nothing else.

The command line is generated from these models: field `n_way` is flag `--n-way`, environment variable `NILR_N_WAY` and
JSON key `n_way`. A default of None means that the algorithm, the preset or the checkpoint decides; results contain the
value that was used.
"""
