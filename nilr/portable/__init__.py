"""State dicts of other libraries: their files, their tables of names, and the translation to and from nilr's names."""
