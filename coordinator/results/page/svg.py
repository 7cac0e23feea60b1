"""SVG as text: elements whose attributes and words are escaped."""

from __future__ import annotations

import unicodedata

from markupsafe import Markup, escape

WIDTH = 760
"""Of every picture, in the units of its view box: pixels where there is room."""

CHARACTER = 7.3
"""What a character of the pictures' text takes on average in the widest of the usual fonts."""


def element(name: str, *children: str, **attributes: object) -> Markup:
    """``<name …>children</name>``; None leaves an attribute out.

    ``stroke_width`` becomes ``stroke-width`` and ``class_`` becomes ``class``.
    """
    words = [
        Markup('{}="{}"').format(key.strip("_").replace("_", "-"), _text(value))
        for key, value in attributes.items()
        if value is not None
    ]
    opening = Markup(" ").join([Markup(name), *words])
    return Markup("<{}>{}</{}>").format(opening, Markup("").join(children), Markup(name))


def group(*children: str, **attributes: object) -> Markup:
    """``<g>``."""
    return element("g", *children, **attributes)


def text(x: float, y: float, words: str, kind: str = "", anchor: str | None = None) -> Markup:
    """A line of text; ``kind`` is its CSS class, ``anchor`` start, middle or end."""
    return element("text", escape(words), x=x, y=y, class_=kind or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a CSS class."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """A filled rectangle of a CSS class."""
    return element("rect", x=x, y=y, width=max(width, 0.0), height=height, class_=kind)


def tip(words: str) -> Markup:
    """What a pointer over the element's parent shows."""
    return element("title", escape(words))


def picture(key: str, title: str, description: str, height: float, *children: str) -> Markup:
    """A whole picture; ``key`` is unique on the page, the words are for those who can't see it."""
    return element(
        "svg",
        element("title", escape(title), id=f"{key}-title"),
        element("desc", escape(description), id=f"{key}-description"),
        *children,
        class_="picture",
        viewBox=f"0 0 {WIDTH} {_text(height)}",
        role="img",
        aria_labelledby=f"{key}-title {key}-description",
    )


def shortened(words: str, width: float) -> str:
    """The words, or as many of their characters as fit into this width, with an ellipsis."""
    words = "".join(" " if unicodedata.category(c).startswith("C") else c for c in words)
    fits = int(width / CHARACTER)
    return words if len(words) <= fits else f"{words[: max(fits - 1, 0)]}…"


def _text(value: object) -> str:
    """Coordinates to a tenth of a pixel, everything else as it is."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
