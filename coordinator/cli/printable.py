"""Text of others as it may be printed."""

from __future__ import annotations


def printable(value: object) -> str:
    """Without what would move a terminal's cursor; nothing for None."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
