"""One run(settings, reporter) -> result per command."""
