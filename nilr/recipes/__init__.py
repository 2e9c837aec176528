"""One `run(settings, reporter)` per command: returns its result, or raises NilrError for what it cannot do."""
