"""What the documentation names exists: commands, flags, files, targets of make, links."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from nilr.cli.app import build_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8").replace("\\|", "|") for page in PAGES}
# What a page's reader replaces by a value of their own.
PLACEHOLDERS = {"S": "0", "K": "1", "COMMAND": "probe"}


def commands(text: str, program: str) -> list[str]:
    """Return the commands of a page that begin with a program: lines of code blocks, and inline code."""
    found = re.findall(rf"^    ({program} .*)$", text, flags=re.MULTILINE)
    found += re.findall(rf"`({program}\s[^`]*)`", text)
    return [" ".join(command.split("#")[0].split(" | ")[0].split()) for command in found]


def in_pages(program: str) -> list[Any]:
    found = {(name, command): None for name, text in TEXTS.items() for command in commands(text, program)}
    return [pytest.param(command, id=f"{name}: {command}") for name, command in found]


def alternatives(command: str) -> Iterator[list[str]]:
    """Yield the words of a command, once for each choice from `a|b|c`."""
    words = [word for word in shlex.split(command) if not word.startswith("[")]
    for chosen in itertools.product(*(word.split("|") for word in words)):
        yield [PLACEHOLDERS.get(word, word) for word in chosen]


@functools.cache
def program() -> Any:
    return build_command()


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words name, and its own words; those before it are parsed on the way."""
    command = program()
    while hasattr(command, "commands"):
        options = list(itertools.takewhile(lambda word: word.startswith("-"), words))
        command.make_context("nilr", words[: len(options) + 1])  # a group alone shows its help
        words = words[len(options) :]
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("command", in_pages("nilr"))
def test_a_command_of_nilr_parses(command: str) -> None:
    for words in alternatives(command):
        if words[1:] == ["--version"]:
            continue
        found, rest = leaf(words[1:])
        if rest == ["--help"]:
            continue
        found.make_context("nilr", rest)


@pytest.mark.parametrize("command", in_pages("(?:srun )?torchrun"))
def test_a_command_of_torchrun_and_what_it_starts_parse(command: str) -> None:
    words = shlex.split(command.removeprefix("srun ").removeprefix("torchrun").replace("$", ""))
    if "nilr" in words:
        options = get_args_parser().parse_args(words)
        assert (options.module, options.training_script) == (True, "nilr")
        found, rest = leaf(options.training_script_args)
        assert found.name in ("meta-train", "probe")
        found.make_context("nilr", rest)


@pytest.mark.parametrize("command", in_pages("make"))
def test_a_target_of_make_exists(command: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert next(word for word in shlex.split(command)[1:] if "=" not in word) in targets


@pytest.mark.parametrize("command", in_pages("(?:OMP_NUM_THREADS=1 )?python"))
def test_a_script_exists_with_its_flags(command: str) -> None:
    words = shlex.split(command)
    script = next((ROOT / word for word in words if word.endswith(".py")), None)
    if script is not None:
        text = script.read_text(encoding="utf-8")
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in text] == []


def test_every_flag_exists() -> None:
    root = program()
    known = set()
    pending = [root]
    while pending:
        command = pending.pop()
        known.update(flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts))
        pending += getattr(command, "commands", {}).values()
    for script in (ROOT / "tests" / "benchmarks").glob("*.py"):
        known.update(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
    known |= {"--help", *(flag for action in get_args_parser()._actions for flag in action.option_strings)}
    for name, text in TEXTS.items():
        text = re.sub(r"^ *#SBATCH .*$", "", text, flags=re.MULTILINE)
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)) - known == set(), name


def test_every_file_in_code_exists() -> None:
    formats = r"nilr/(checkpoint|training-state|<command>/<version>|[a-z-]+/\d)"
    for name, text in TEXTS.items():
        for path in re.findall(r"`((?:nilr|tests|docs)/[^`\s]+)`", text):
            assert re.fullmatch(formats, path) or list(ROOT.glob(path)), f"{name}: {path}"


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_link_to_a_heading_finds_it() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", text):
            other = (page.parent / target if target else page).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", other, flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"
