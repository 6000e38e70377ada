"""Pages of HTML that need nothing beside themselves; all that is not HTML yet is escaped."""

from __future__ import annotations

import html
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

from purejaxppo.run_folder.files import write_new

ROWS_SHOWN = 12  # longer tables are folded


def whole_page(title: str, words: str, parts: Iterable[object]) -> str:
    """Returns a page.

    Args:
        title: of it.
        words: a line below the title.
        parts: sections, one below the other.
    """
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    body = joined(tag("h1", title), tag("p", words, class_="soft"), *parts)
    return string.Template(template).substitute(title=html.escape(title), body=body)


def reloaded(text: str, seconds: float) -> str:
    """Returns a page that browsers reload.

    Args:
        text: see `whole_page`.
        seconds: after which they do.
    """
    meta = tag("meta", http_equiv="refresh", content=f"{seconds:g}")
    return text.replace("<title>", f"{meta}\n<title>", 1)


def write_page(path: Path, text: str, overwrite: bool) -> None:
    """Writes a page, whole or not at all.

    Args:
        path: the file.
        text: see `whole_page`; names of files in it may hold bytes that are no text.
        overwrite: whether it may exist.

    Raises:
        ConfigError: it exists and may not, or it cannot be written.
    """
    write_new(path, overwrite, lambda file: file.write(text.encode("utf-8", "replace")))


class Html(str):
    """Text that is HTML already, and is not escaped again."""


def tag(name: str, *children: object, **attributes: str) -> Html:
    """Returns an element; children that are not `Html`, and attributes, are escaped.

    Args:
        name: of the element.
        *children: in their order, side by side.
        **attributes: `class_` stands for class, `http_equiv` for http-equiv.
    """
    named = {name.rstrip("_").replace("_", "-"): x for name, x in attributes.items()}
    given = "".join(f' {name}="{html.escape(x)}"' for name, x in named.items())
    end = "" if name in ("img", "meta") else f"</{name}>"
    return Html(f"<{name}{given}>{joined(*children)}{end}")


def joined(*children: object) -> Html:
    """Returns children without an element around them."""
    return Html("".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], kind: str = "numbers") -> Html:
    """Returns a table of rows below a head; its kind is numbers or text."""
    lines = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    top = tag("thead", tag("tr", *(tag("th", cell) for cell in head)))
    return tag("div", tag("table", top, tag("tbody", *lines), class_=kind), class_="scroll")


def titled(title: str, head: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """Returns a table below a title; folded if it is long."""
    whole = table(head, rows)
    if len(rows) > ROWS_SHOWN:
        whole = tag("details", tag("summary", f"{len(rows)} rows"), whole)
    return tag("div", tag("h3", title), whole)


def cards_of(cards: Iterable[tuple[str, object, object]]) -> Html:
    """Returns numbers to see first, side by side, each below its name."""
    drawn = []
    for name, value, more in cards:
        lines = [tag("p", name), tag("p", value, class_="value"), tag("p", more)]
        drawn.append(tag("div", *lines, class_="card"))
    return tag("div", *drawn, class_="cards")
