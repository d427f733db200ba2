"""A figure drawn once, kept twice: as a PNG for the tracker and as SVG for the page, which takes on the page's colours.

Figures use the colours of `PALETTE` alone. In the SVG each becomes a CSS variable, so that the same drawing is right on
a light and on a dark page. What belongs to trials is marked with `of_trials`, by which the page finds it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.collections import Collection
from matplotlib.figure import Figure

matplotlib.use("Agg")

PALETTE = {  # name → on a light page, on a dark one; no colour twice
    "ink": ("#1d2329", "#e4e7ea"),
    "soft": ("#69727c", "#98a2ad"),
    "line": ("#d9dde2", "#353c44"),
    "paper": ("#ffffff", "#15191e"),
    "rest": ("#aab3bd", "#5d6772"),
    "good": ("#2b7a4b", "#5fbf86"),
    "cut": ("#c98a1b", "#d9a441"),
    "bad": ("#c0392f", "#ee7a6e"),
    "halt": ("#7c5aa6", "#b394dd"),
    "c0": ("#1f5fa8", "#6fb0f5"),
    "c1": ("#d1622b", "#f2945f"),
    "c2": ("#16807a", "#4fc2ba"),
    "c3": ("#a23b72", "#e07fb4"),
    "c4": ("#7d6608", "#cdb54a"),
    "r0": ("#0b3c6f", "#a9d3ff"),  # best …
    "r1": ("#2a639d", "#7db4ec"),
    "r2": ("#5f8fbe", "#578fc6"),
    "r3": ("#93b3d2", "#40698f"),
    "r4": ("#c3d2e2", "#32495f"),  # … worst
}
RAMP = ("r0", "r1", "r2", "r3", "r4")
_VARIABLES = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()}
_TRIALS = "trials:"
_MARK = f'<g id="{_TRIALS}'
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "",  # the same study, the same page
    "text.parse_math": False,  # a parameter may be called $x$
    "path.simplify": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.solid_capstyle": "round",
}


def colour(name: str) -> str:
    return PALETTE[name][0]


@contextmanager
def style() -> Iterator[None]:
    """Within it figures are drawn, and saved, in the page's style."""
    ink = {"text.color": "ink", "axes.labelcolor": "soft", "axes.edgecolor": "soft", "xtick.color": "soft"}
    ink |= {"ytick.color": "soft", "grid.color": "line", "axes.facecolor": "paper", "figure.facecolor": "paper"}
    looks: Any = _STYLE | {key: colour(name) for key, name in ink.items()}
    with matplotlib.rc_context(looks), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page has the text, and fonts for it
        yield


def of_trials(collection: Collection, trials: Sequence[str]) -> None:
    """Mark the items of a collection, each of which is drawn, as these trials'."""
    collection.set_gid(_TRIALS + "|".join(trials))
    collection.set_in_layout(False)  # a thousand items would have to be measured


def png(figure: Figure, tight: bool = False) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight" if tight else None)
    return buffer.getvalue()


def svg(figure: Figure, label: str) -> str:
    """The figure as an element of a page: ``label`` (HTML) says what it shows to those who do not see it."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # all is in its place: it is not to be measured again
    buffer = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    head = re.search(r"<svg[^>]*>", text)
    box = re.search(r'viewBox="[^"]*"', head[0] if head else "")
    assert head is not None, "Matplotlib writes one"
    assert box is not None, "and says its size"
    first, *marked = re.sub(r"<(metadata|style).*?</\1>", "", text[head.end() :], flags=re.S).split(_MARK)
    body = first + "".join(map(_told_apart, marked))
    body = re.sub(r"<[^>]*>", _as_on_the_page, body)  # tags alone: what stands between them may be anybody's words
    return f'<svg {box[0]} role="img" aria-label="{label}">{body.strip()}'


def _as_on_the_page(tag: re.Match[str]) -> str:
    """Without names that several figures would share, in the page's font and colours, to a hundredth of a point."""
    text = re.sub(r'^<g id="[^"]*"', "<g", tag[0])
    text = re.sub(r'style="font: ([\d.]+px) [^;"]*', r'style="font-size: \1', text)
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)
    return re.sub(r"#[0-9a-f]{6}\b", lambda code: _VARIABLES.get(code[0], code[0]), re.sub(r"\s*\n\s*", " ", text))


def _told_apart(group: str) -> str:
    """An SVG group from behind the mark on: each of its items is given its trial."""
    ids, _, rest = group.partition('">')
    trials = iter(ids.split("|"))
    item = re.compile(r"<(path|use) (?!id=)")
    return "<g>" + item.sub(lambda tag: f'<{tag[1]} data-t="{next(trials)}" ', rest, count=ids.count("|") + 1)
