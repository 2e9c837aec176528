"""What a shell completes, from a table that `make docs` writes. Imports neither pydantic nor torch."""

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nilr.errors import NilrError

COMPLETE = "_NILR_COMPLETE"
TABLE = Path(__file__).with_name("completions.json")

Entry = dict[str, Any]  # a command, an option or an argument in the table
Completion = tuple[str, str | None]  # a word and its help

# What the store completes, by its name in the table.
STORED: dict[str, Callable[[Any], Iterable[str]]] = {
    "models": lambda store: store.model_names(),
    "packs": lambda store: (pack.stem for pack in store.packs()),
    "results": lambda store: (result.stem for result in reversed(store.results())),
}


def complete() -> NoReturn:
    """Answer a shell that calls with `_NILR_COMPLETE`, and exit. Typer reads the question and writes the answer."""
    typer: Any = importlib.import_module("typer")
    classes: Any = importlib.import_module("typer._completion_classes")
    shells = typer._click.shell_completion
    classes._sanitize_help_text = str  # the texts have no markup to remove, for which Typer imports rich
    shells.ShellComplete.get_completions = lambda _shell, words, start: [
        shells.CompletionItem(word, help=text) for word, text in completions(words, start)
    ]
    classes.completion_init()
    sys.exit(typer.completion.shell_complete(None, {}, "nilr", COMPLETE, os.environ[COMPLETE]))


def completions(words: Sequence[str], start: str) -> Iterator[Completion]:
    """Yield the words that begin with `start` and may follow `words` on a command line of nilr, with their help.

    Args:
        words: the command line without `nilr` and the word to complete.
        start: what is typed of that word.
    """
    flag, equals, value = start.partition("=")
    if equals and flag.startswith("-"):  # some shells give `--data=mini` as one word, others as three
        words, start = [*words, flag], value
    elif start == "=":
        start = ""
    line = _Line([word for word in words if word != "="])
    if line.waiting:
        yield from line.values(line.waiting, start)
    elif start.startswith("-") and not line.only_arguments:
        yield from line.flags(start)
    else:
        yield from line.commands(start)
        if line.argument:
            yield from line.values(line.argument, start)


class _Line:
    """The words of a command line before the one to complete."""

    def __init__(self, words: Sequence[str]) -> None:
        self.command: Entry = json.loads(TABLE.read_text(encoding="utf-8"))
        self.waiting: Entry | None = None  # the option whose value is next
        self.only_arguments = False  # after `--`
        self._used: list[Entry] = []
        self._n_arguments = 0
        self._home: str | None = None
        for word in words:
            self._read(word)

    def _read(self, word: str) -> None:
        if self.waiting and not word.startswith("--"):
            self._give(self.waiting, word)
        elif word == "--":
            self.only_arguments = True
        elif word.startswith("-") and not self.only_arguments:
            flag, equals, value = word.partition("=")
            self.waiting = next((option for option in self._options() if flag in option["flags"]), None)
            if self.waiting and (equals or "switch" in self.waiting):
                self._give(self.waiting, value)
        elif word in self.command.get("commands", {}):
            self.command = self.command["commands"][word]
        else:
            self._n_arguments += 1

    def _give(self, option: Entry, value: str) -> None:
        self.waiting = None
        self._used.append(option)
        if "--home" in option["flags"]:
            self._home = value

    def _options(self) -> list[Entry]:
        options: list[Entry] = self.command.get("options", [])
        return options

    @property
    def argument(self) -> Entry | None:
        """The argument that is next; the last one may be given several times."""
        arguments: list[Entry] = self.command.get("arguments", [])
        left = arguments[self._n_arguments :] or [one for one in arguments[-1:] if "multiple" in one]
        return left[0] if left else None

    def commands(self, start: str) -> Iterator[Completion]:
        """Yield the commands of the group, unless an unknown one was given."""
        commands = {} if self._n_arguments else self.command.get("commands", {})
        yield from ((name, command["help"]) for name, command in commands.items() if name.startswith(start))

    def flags(self, start: str) -> Iterator[Completion]:
        """Yield the options of the command that are not given yet, or may be given again."""
        for option in self._options():
            if "multiple" in option or option not in self._used:
                yield from ((flag, option["help"]) for flag in option["flags"] if flag.startswith(start))

    def values(self, parameter: Entry, start: str) -> Iterator[Completion]:
        """Yield the values that an option or argument is known to have; `start` may be a list with commas."""
        listed, comma, last = start.rpartition(",")
        found = list(parameter.get("values", []))
        if "stored" in parameter:
            from nilr.store import Store

            with contextlib.suppress(NilrError, OSError):
                found += STORED[parameter["stored"]](Store(Path(self._home) if self._home else None))
        yield from ((f"{listed}{comma}{name}", None) for name in found if name.startswith(last))
