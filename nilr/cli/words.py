"""How values are written for people."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return one line in which nothing steers a terminal: names of files and archive members may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def duration(seconds: float) -> str:
    """Return a time span in its two largest units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:.4g}"


def share(value: float, *, percent: bool) -> str:
    """Return a fraction; as percent where a terminal shows it."""
    return f"{100 * value:z.2f} %" if percent else f"{value:z.4f}"
