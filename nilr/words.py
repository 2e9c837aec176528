"""How counts, numbers, lists and times are written in text, and names as flags and as parts of file names."""

import re
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime

LONGEST_NAME = 100
NAME = rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}"  # of a model or a pack


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun; `plural` is the plural form, if it is irregular."""
    return f"{n:,} {noun if n == 1 else plural or noun + ('es' if noun.endswith('s') else 's')}"


def some(names: Sequence[str], most: int = 5) -> str:
    """Return the first names of a list, and dots if it has more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def one_of(names: Sequence[str]) -> str:
    """Return names as alternatives: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, or without one if it is rounded to zero."""
    text = f"{value:+z.{digits}f}"
    return text if float(text) else text[1:]


def number(value: float, digits: int = 4) -> str:
    """Format a number with `digits` significant digits; whole numbers below a billion are not abbreviated."""
    text = f"{value:z.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e9 else text


def slug(text: str, longest: int = 60) -> str:
    """Return text as a part of a file's name: `5-shot, 3,000 episodes` becomes `5-shot-3000-episodes`."""
    return re.sub(r"[^a-z0-9.-]+", "-", re.sub(r"(?<=\d),(?=\d)", "", text.lower()))[:longest].strip("-.")


def is_name(text: str) -> bool:
    """Return whether a text is a valid name of a model or a pack."""
    return re.fullmatch(NAME, text) is not None


def as_flag(name: str) -> str:
    """Return the flag of a setting: `n_way` becomes `--n-way`."""
    return "--" + name.replace("_", "-")


def lower_first(sentence: str) -> str:
    """Return a sentence as a part of a line: without a capital at its start and a full stop at its end."""
    sentence = sentence.strip().rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def utc_now() -> str:
    """Return the time in UTC as ISO 8601, with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def fill(text: str, columns: int, *, indent: int = 0) -> str:
    """Break a text into lines between words only; a command in backticks stays in one line, to be copied."""
    joined = re.sub(r"`[^`]*`", lambda found: found[0].replace(" ", "\0"), text)
    space = " " * indent
    filled = textwrap.fill(joined, columns, subsequent_indent=space, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\0", " ")


def printable(text: str) -> str:
    """Escape line breaks and control characters, which a file name or an archive member may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def file_size(n: int) -> str:
    """Format a number of bytes."""
    size, units = float(n), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" or size >= 10 else f"{size:.1f} {units[0]}"
