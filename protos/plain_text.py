"""Foreign text where people see it (pure).

Nothing in it moves a terminal's cursor, clears its screen, sets its title, turns the order of
letters around, or looks like another line of a log.
"""

from __future__ import annotations

_KEPT = "\n\t\xa0"
"""Not printable by Python's word, and harmless."""

REPLACEMENT = "�"


def harmless(value: object) -> str:
    """Text with REPLACEMENT for whatever can't be printed but line ends and tabs; nothing for
    None."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _KEPT else REPLACEMENT for c in text)


def one_line(value: object) -> str:
    """``harmless``, with a space for what separates words."""
    return harmless(" ".join(str(value).split()))


def indented(value: object) -> str:
    """``harmless``, where each further line begins with spaces and can't be taken for a new one."""
    return harmless(value).replace("\n", "\n    ")
