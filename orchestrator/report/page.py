"""The page of a study: one HTML file that opens from disk, with the verdict first and everything behind it below.

All is in it as text, tables and drawings, without a script; a small one lets a reader explore. It loads nothing.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from matplotlib.figure import Figure
from PIL import Image

from orchestrator import results, yamlfile
from orchestrator.folder import StudyFolder, inside
from orchestrator.record import Record
from orchestrator.report import drawing, figures, tables, use
from orchestrator.report.parallel import parallel
from orchestrator.report.rungs import arrivals
from orchestrator.report.tables import text
from orchestrator.search import LEAST_JUDGED, importance

_MOST_PICTURES = 8  # of the best trial
_ROOM = 2_000_000  # bytes of all pictures together
_LARGE, _WIDEST = 100_000, 1600  # a picture of more bytes is packed anew, no wider than so many pixels


@dataclass
class Section:
    title: str
    body: str
    id: str


@dataclass
class _Drawn:
    """The figures of a page as they come to be: for the page as HTML, for the tracker as PNGs."""

    pngs: dict[str, bytes] = field(default_factory=dict)

    def html(self, name: str, label: str, draw: Callable[[], Figure | None], caption: str = "") -> str:
        """A figure that cannot be drawn is no reason to lose the page: it says what is missing, and why."""
        try:
            with drawing.style():
                figure = draw()
                if figure is None:
                    return ""
                shown = drawing.svg(figure, text(label))
                self.pngs[f"study-{name}"] = drawing.png(figure)
        except Exception as error:
            return f"<p>{text(label)} could not be drawn: {text(repr(error))}</p>"
        said = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
        return f"<figure id='{name}'><div>{shown}</div>{said}</figure>"


def write_report(record: Record, folder: StudyFolder) -> None:
    """Write ``report.html``, whole or not at all, and its figures as PNGs."""
    page, pngs = render(record, folder)
    for name, png in pngs.items():
        place = inside(folder.figures, f"{name}.png")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png)
    aside = folder.report.with_suffix(".tmp")
    aside.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    os.replace(aside, folder.report)


def render(record: Record, folder: StudyFolder) -> tuple[str, dict[str, bytes]]:
    """The page, and the figures on it as PNGs by name."""
    environment, drawn = tables.environment_of(folder), _Drawn()
    sections = [section for section in _sections(record, folder, drawn) if section.body]
    links = "".join(f"<a href='#{section.id}'>{text(section.title)}</a>" for section in sections)
    top = (
        f"<p class='name'>{text(folder.name)}</p><h1>{text(record.study['question'])}</h1>"
        f"{tables.verdict(record, folder.name)}{tables.data(record)}{tables.facts(record, environment)}"
        f"<nav>{links}</nav>"
    )
    below = "".join(f"<section id='{s.id}'><h2>{text(s.title)}</h2>{s.body}</section>" for s in sections)
    own = files("orchestrator.report")
    style, script = _colours() + own.joinpath("page.css").read_text("utf-8"), own.joinpath("page.js").read_text("utf-8")
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{text(folder.name)}</title><style>{style}</style></head>"
        f"<body><main>{top}{below}</main><div id='tip'></div><script>{script}</script></body></html>"
    )
    return page, drawn.pngs


def _sections(record: Record, folder: StudyFolder, drawn: _Drawn) -> Iterator[Section]:
    environment = tables.environment_of(folder)
    metric, _ = results.metric_of(record)
    bars = use.bars(record)
    clock, came = use.Clock(record.started, bars), arrivals(record)
    yield Section(
        f"Leaderboard by {metric}",
        tables.leaderboard(record)
        + drawn.html("seeds", "Values over seeds", lambda: figures.seeds(record), "The same on several seeds."),
        "leaderboard",
    )
    yield Section(
        "Learning curves",
        drawn.html("curves", f"{metric} by step", lambda: figures.curves(record), _curves_caption(record)),
        "learning",
    )
    yield Section("Values", drawn.html("values", f"{metric} by trial", lambda: figures.values(record)), "by-trial")
    yield from _search(record, drawn)
    rungs = drawn.html(
        "rungs", "Rungs over time", lambda: figures.rungs(came, clock, metric, record),
        "Each point is a trial as it came to a rung, a step at which the scheduler compares.",
    )  # fmt: skip
    yield Section("Rungs", rungs and tables.rungs(came, record) + rungs, "rungs-over-time")
    yield Section(
        "Cluster use",
        drawn.html(
            "cluster", "Trials on nodes over time", lambda: figures.cluster(bars, clock, record),
            "Each bar is an attempt of a trial, or work of its map, in the colour of how the trial ended.",
        ),
        "cluster-use",
    )  # fmt: skip
    yield Section("What the trials show together", _of_task(record, folder, drawn), "task")
    yield Section("Pictures of the best trial", _of_best(record, folder), "pictures")
    yield Section("Failures and stops", tables.failures(record), "failures")
    whole = yamlfile.dump(dict(record.study))
    yield Section("Run it again", tables.again(record, folder, environment, whole), "again")


def _search(record: Record, drawn: _Drawn) -> Iterator[Section]:
    try:
        found, trouble = importance(record), ""
    except Exception as error:  # as with figures
        found, trouble = None, f"<p>It could not be computed: {text(repr(error))}</p>"
    shares = found.shares if found is not None else {}
    caption = "A line is a trial as it began, stronger where its last value is better. Drag along an axis to filter."
    yield Section(
        "Parameters",
        drawn.html("parallel", "Parallel coordinates", lambda: parallel(record, shares), caption),
        "parameters",
    )
    if found is None:
        few = f"<p class='note'>It takes {LEAST_JUDGED} trials with a value to say what was important.</p>"
        several = len(record.study["search"]["space"]) > 1
        yield Section("Parameter importance", trouble or few * several, "importance-of-parameters")
        return
    at = "at their end" if found.step is None else f"at step {found.step}, which all of them reached"
    said = (
        f"How much each parameter decides whether a trial is among the best {found.top} of the {found.trials} with a "
        f"value {at} (PED-ANOVA). It speaks of the search that was done; few trials say little."
    )
    figure = drawn.html("importance", "Parameter importance", lambda: figures.importances(found), said)
    yield Section("Parameter importance", figure, "importance-of-parameters")


def _curves_caption(record: Record) -> str:
    with_curves = sum(bool(len(trial.curve)) for trial in record.trials.values() if trial.of is None)
    if with_curves > figures.MOST_LINES:
        return f"The best {figures.MOST_LINES} of {with_curves} trials that reported."
    return f"All {with_curves} trials that reported; point at one to follow it through the page."


def _of_task(record: Record, folder: StudyFolder, drawn: _Drawn) -> str:
    """What the task draws of all trials. It is the task's code: what it cannot draw is said."""
    try:
        pictures = {name: drawing.png(figure, tight=True) for name, figure in results.figures(record).items()}
        for name in pictures:
            inside(folder.figures, f"{name}.png")
    except Exception as error:
        return f"<p>The task's figures could not be drawn: {text(repr(error))}</p>"
    drawn.pngs |= pictures
    return _pictures(pictures, "figures")


def _of_best(record: Record, folder: StudyFolder) -> str:
    best = results.best(record)
    if best is None:
        return ""
    place = folder.trial(best.id)
    place.obtain(place.artifacts)
    paths = sorted(place.artifacts.rglob("*.png"))[:_MOST_PICTURES]
    pictures = {f"{path.stem} of {best.id}": path.read_bytes() for path in paths}
    return _pictures(pictures, f"trials/{best.id}/artifacts")


def _pictures(pictures: Mapping[str, bytes], folder: str) -> str:
    shown, left, room = "", [], _ROOM
    for title, png in pictures.items():
        kind, packed = _packed(png)
        room -= len(packed)
        if room < 0:
            left.append(title)
            continue
        source = f"data:image/{kind};base64,{base64.b64encode(packed).decode()}"
        shown += f"<figure><img alt='{text(title)}' src='{source}'><figcaption>{text(title)}</figcaption></figure>"
    more = f"<p>Too large for this page, in {text(folder)}: {text(', '.join(left))}.</p>" if left else ""
    return f"<div class='pictures'>{shown}</div>{more}" if shown or left else ""


def _packed(png: bytes) -> tuple[str, bytes]:
    """A large picture smaller, as it looks on a page."""
    if len(png) <= _LARGE:
        return "png", png
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    picture.thumbnail((_WIDEST, 10 * _WIDEST))
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=82, method=4)
    return "webp", buffer.getvalue()


def _colours() -> str:
    light, dark = (
        "".join(f"--{name}: {pair[side]};" for name, pair in drawing.PALETTE.items()) for side in (0, 1)
    )  # on screens as the reader likes it, on paper light
    return (
        f":root {{ color-scheme: light dark; {light} }}"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )
