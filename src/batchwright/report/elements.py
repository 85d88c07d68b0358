"""HTML elements from text: whatever is not an element already is escaped, in this one place."""

import html
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import plotly.io as pio

from batchwright.core.statistics import Interval
from batchwright.report.figures import Figure


class Html(str):
    """Text that is HTML already; any other string is escaped when it becomes part of an element."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | None) -> Html:
    """An element; ``class_`` and ``aria_label`` stand for ``class`` and ``aria-label``, and None leaves an attribute out.

    Example:
        >>> tag("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Html:
    """Elements and texts after one another."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child, quote=False) for child in children))


def section(name: str, title: str, *children: str) -> Html:
    """A part of the page with its heading; empty where nothing is in it."""
    if not any(children):
        return Html("")
    heading = tag("h2", title, id=f"{name}-title")
    return tag("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def bullets(lines: Sequence[str], class_: str | None = None, at_most: int = 30) -> Html:
    """A list; of a long one the beginning, and how many more there are."""
    if not lines:
        return Html("")
    rest = [f"… and {len(lines) - at_most:,} more"] if len(lines) > at_most else []
    return tag("ul", *(tag("li", line) for line in [*lines[:at_most], *rest]), class_=class_)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Collection[int] = ()) -> Html:
    """A table that scrolls sideways on a narrow page; the columns ``texts`` hold text, and all others but the first hold numbers."""
    body = join(
        tag(
            "tr",
            *(
                tag("th", cell, scope="row") if i == 0 else tag("td", cell, class_="text" if i in texts else None)
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    )
    header = tag(
        "tr", *(tag("th", cell, scope="col", class_="text" if i in texts else None) for i, cell in enumerate(head))
    )
    filled = tag("table", tag("thead", header), tag("tbody", body), aria_label=caption)
    # The caption stands outside of what scrolls, so that it wraps on a narrow page.
    return tag(
        "div",
        tag("p", caption),
        tag("div", filled, class_="scroll", tabindex="0", role="region", aria_label=caption),
        class_="table",
    )


def card(name: str, value: str, detail: str = "", interval: Interval | None = None) -> Html:
    """A big number with its name, a line of detail, and where it lies in its interval."""
    parts = [tag("div", name, class_="name"), tag("div", value, class_="value")]
    if interval is not None:
        parts.append(_whisker(interval))
    if detail:
        parts.append(tag("div", detail, class_="detail"))
    return tag("div", *parts, class_="card")


def cards(*items: str) -> Html:
    """Cards beside one another, as many in a row as there is room for."""
    return tag("div", *items, class_="cards") if any(items) else Html("")


def figure(drawn: Figure, name: str) -> Html:
    """A figure with its caption, buttons for its views, and its data; a script of the page draws it."""
    views = [{"visible": list(view.visible), "layout": dict(view.layout)} for view in drawn.views]
    buttons = [
        tag("button", view.name, type="button", aria_pressed="true" if i == 0 else "false")
        for i, view in enumerate(drawn.views)
    ]
    plot = pio.to_json(drawn.plot, validate=False, engine="json")
    data = f'{{"plot":{plot},"views":{json.dumps(views)}}}'
    return tag(
        "figure",
        tag("h3", drawn.title, id=f"{name}-title"),
        tag("div", *buttons, class_="views", role="group", aria_label="What is drawn") if buttons else "",
        tag(
            "div",
            class_="plot",
            id=name,
            role="img",
            aria_labelledby=f"{name}-title {name}-caption",
            style=f"height:{drawn.height}px",
        ),
        tag("figcaption", " ".join([drawn.caption, *drawn.notes]), id=f"{name}-caption"),
        Html(f'<script type="application/json" data-plot="{html.escape(name)}">{_in_script(data)}</script>'),
        class_="wide" if drawn.wide else None,
    )


def picture(name: str, title: str, caption: str, png: str, width: int) -> Html:
    """A picture with its caption, ``png`` in base64 and embedded; its pixels stay sharp where it is drawn larger."""
    if not re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", png):
        return tag("p", f"{title}: the picture in the record is not base64.")
    across = min(max(2 * width, 320), 720)
    look = f"width:{across}px;max-width:100%;image-rendering:pixelated"
    shown = Html(f'<img src="data:image/png;base64,{png}" alt="{html.escape(title)}" style="{look}">')
    return tag("figure", tag("h3", title, id=f"{name}-title"), shown, tag("figcaption", caption))


def link(path: Path, text: str, page: Path) -> Html:
    """A link from the page to a file beside or below it."""
    relative = os.path.relpath(path, page.parent)
    # Every colon is encoded, so no name of a folder can pass for a scheme.
    return tag("a", text, href=quote(os.fsencode(Path(relative).as_posix())))


def _in_script(data: str) -> str:
    """JSON in which nothing can end the script element that it stands in."""
    return data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028")


def _whisker(interval: Interval) -> Html:
    """The interval as a bar and the value as a dot on it, on a logarithmic scale; an open end fades."""
    low, value, high = interval.low, interval.value, interval.high
    if not 0 < value < math.inf:
        return Html("")
    # An end that is not known is drawn a factor of four away.
    first, last = (
        max(low, value / 1e3) if low > 0 else value / 4,
        min(high, value * 1e3) if high < math.inf else value * 4,
    )
    part = math.log(value / first) / math.log(last / first) if last > first else 0.5
    open_ended = " open" if math.isinf(high) else ""
    dot = tag("i", style=f"left:{100 * part:.1f}%")
    return tag("div", dot, class_="whisker" + open_ended, aria_hidden="true")
