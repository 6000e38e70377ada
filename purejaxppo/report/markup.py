"""HTML in which all that is not HTML yet is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

UNKNOWN = "\N{EN DASH}"
ROWS_SHOWN = 12  # longer tables are folded


class Html(str):
    """Text that is HTML already."""


def tag(name: str, *children: Any, **attributes: str) -> Html:
    """An element; children that are not `Html`, and attributes, are escaped.

    Args:
        name: of the element.
        *children: in their order, side by side.
        **attributes: `class_` stands for class.
    """
    given = "".join(f' {k.rstrip("_")}="{html.escape(v)}"' for k, v in attributes.items())
    end = "" if name == "img" else f"</{name}>"
    return Html(f"<{name}{given}>{joined(*children)}{end}")


def joined(*children: Any) -> Html:
    """Children without an element around them."""
    return Html("".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], kind: str = "numbers") -> Html:
    """A table of rows below a head; its kind is numbers or text."""
    lines = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    top = tag("thead", tag("tr", *(tag("th", cell) for cell in head)))
    return tag("div", tag("table", top, tag("tbody", *lines), class_=kind), class_="scroll")


def titled(title: str, head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Html:
    """A table below a title; folded if it is long."""
    whole = table(head, rows)
    if len(rows) > ROWS_SHOWN:
        whole = tag("details", tag("summary", f"{len(rows)} rows"), whole)
    return tag("div", tag("h3", title), whole)


def number(x: float) -> str:
    """A figure to read, or a dash for what is not known."""
    if not math.isfinite(x):
        return UNKNOWN
    return f"{x:,.1f}" if abs(x) >= 10 else f"{x:.3g}"
