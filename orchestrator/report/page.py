"""The page of a study: one HTML file that opens from disk, with the verdict first and everything behind it below.

All is in it as text, tables and drawings, without a script; a small one lets a reader explore. It loads nothing.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from orchestrator.analysis import standings
from orchestrator.history.folder import StudyFolder, inside
from orchestrator.history.record import Record
from orchestrator.report import drawing, figures, tables, use
from orchestrator.report.parallel import MOST_AXES, parallel
from orchestrator.report.rungs import arrivals
from orchestrator.report.tables import text
from orchestrator.studies import yamlfile
from orchestrator.tuning.search import LEAST_JUDGED, Importance, importance

_MOST_PICTURES = 8  # of the best trial
_ROOM = 2_000_000  # bytes of all pictures together
_LARGE, _WIDEST = 100_000, 1600  # a picture of more bytes is packed anew, no wider than so many pixels


@dataclass(frozen=True)
class Section:
    """A part of the page. ``make`` gives its HTML, none where there is nothing to say."""

    title: str
    id: str
    make: Callable[[], str]


@dataclass
class _Drawn:
    """The figures of a page as they come to be: for the page as HTML, for the tracker as PNGs."""

    pngs: dict[str, bytes] = field(default_factory=dict)

    def html(self, name: str, label: str, figure: Figure | None, caption: str = "") -> str:
        if figure is None:
            return ""
        shown = drawing.svg(figure, text(label))
        self.pngs[f"study-{name}"] = drawing.png(figure)
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
    bodies = [(section, _made(section)) for section in _sections(record, folder, environment, drawn)]
    shown = [(section, body) for section, body in bodies if body]
    links = "".join(f"<a href='#{section.id}'>{text(section.title)}</a>" for section, _ in shown)
    top = (
        f"<p class='name'>{text(folder.name)}</p><h1>{text(record.study['question'])}</h1>"
        f"{tables.verdict(record, folder.name)}{tables.data(record)}"
        f"{_made(Section('What ran where', '', lambda: tables.facts(record, environment)))}<nav>{links}</nav>"
    )
    below = "".join(f"<section id='{s.id}'><h2>{text(s.title)}</h2>{body}</section>" for s, body in shown)
    own = files("orchestrator.report")
    style, script = _colours() + own.joinpath("page.css").read_text("utf-8"), own.joinpath("page.js").read_text("utf-8")
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{text(folder.name)}</title><style>{style}</style></head>"
        f"<body><main>{top}{below}</main><div id='tip'></div><script>{script}</script></body></html>"
    )
    return page, drawn.pngs


def _made(section: Section) -> str:
    """A part that cannot be made is no reason to lose the page: it says what is missing, and why."""
    try:
        return section.make()
    except Exception as error:  # a task's figures are anybody's code, and a journal may be of an earlier version
        return f"<p>{text(section.title)} could not be shown: {text(repr(error))}</p>"


def _sections(record: Record, folder: StudyFolder, environment: Mapping[str, Any], drawn: _Drawn) -> Iterator[Section]:
    metric, _ = standings.metric_of(record)
    judged = cache(lambda: importance(record))
    yield Section(f"Leaderboard by {metric}", "leaderboard", lambda: _leaderboard(record, drawn))
    yield Section("Learning curves", "learning-curves", lambda: _curves(record, drawn))
    yield Section("Values", "values-by-trial", lambda: _values(record, drawn))
    yield Section("Parameters", "parameters", lambda: _parameters(record, judged, drawn))
    yield Section("Parameter importance", "importance-of-parameters", lambda: _importance(record, judged(), drawn))
    yield Section("Rungs", "rungs-over-time", lambda: _rungs(record, drawn))
    yield Section("Cluster use", "cluster-use", lambda: _cluster(record, drawn))
    yield Section("What the trials show together", "task", lambda: _of_task(record, folder, drawn))
    yield Section("Pictures of the best trial", "pictures", lambda: _of_best(record, folder))
    yield Section("Failures and stops", "failures", lambda: tables.failures(record))
    whole = yamlfile.dump(dict(record.study))
    yield Section("Run it again", "again", lambda: tables.again(record, folder, environment, whole))


@drawing.style()
def _leaderboard(record: Record, drawn: _Drawn) -> str:
    return tables.leaderboard(record) + drawn.html("seeds", "Values over seeds", figures.seeds(record))


@drawing.style()
def _curves(record: Record, drawn: _Drawn) -> str:
    metric, _ = standings.metric_of(record)
    with_curves = sum(bool(len(trial.curve)) for trial in record.trials.values() if trial.of is None)
    said = f"All {with_curves} trials that reported; point at one to follow it through the page."
    if with_curves > figures.MOST_LINES:
        said = f"The best {figures.MOST_LINES} of {with_curves} trials that reported."
    return drawn.html("curves", f"{metric} by step", figures.curves(record), said)


@drawing.style()
def _values(record: Record, drawn: _Drawn) -> str:
    metric, _ = standings.metric_of(record)
    return drawn.html("values", f"{metric} by trial", figures.values(record))


@drawing.style()
def _parameters(record: Record, judged: Callable[[], Importance | None], drawn: _Drawn) -> str:
    found = judged() if len(record.study["search"]["space"]) > MOST_AXES else None
    caption = "A line is a trial as it began, stronger where its last value is better. Drag along an axis to filter."
    return drawn.html("parallel", "Parallel coordinates", parallel(record, found.shares if found else {}), caption)


@drawing.style()
def _importance(record: Record, found: Importance | None, drawn: _Drawn) -> str:
    if found is None:
        several = len(record.study["search"]["space"]) > 1
        return f"<p class='note'>It takes {LEAST_JUDGED} trials with a value to say what was important.</p>" * several
    at = "at their end" if found.step is None else f"at step {found.step}, which all of them reached"
    said = (
        f"How much each parameter decides whether a trial is among the best {found.top} of the {found.trials} with a "
        f"value {at} (PED-ANOVA). It speaks of the search that was done; few trials say little."
    )
    return drawn.html("importance", "Parameter importance", figures.importances(found), said)


@drawing.style()
def _rungs(record: Record, drawn: _Drawn) -> str:
    came, (metric, _) = arrivals(record), standings.metric_of(record)
    figure = figures.rungs(came, use.Clock(record.started, use.bars(record)), metric, record)
    said = "Each point is a trial as it came to a rung, a step at which the scheduler compares."
    return tables.rungs(came, record) + drawn.html("rungs", "Rungs over time", figure, said) if came else ""


@drawing.style()
def _cluster(record: Record, drawn: _Drawn) -> str:
    bars = use.bars(record)
    said = "Each bar is an attempt of a trial, or work of its map, in the colour of how the trial ended."
    figure = figures.cluster(bars, use.Clock(record.started, bars), record)
    return drawn.html("cluster", "Trials on nodes over time", figure, said)


def _of_task(record: Record, folder: StudyFolder, drawn: _Drawn) -> str:
    """What the task draws of all trials."""
    pictures = {name: drawing.png(figure, tight=True) for name, figure in standings.figures(record).items()}
    for name in pictures:
        inside(folder.figures, f"{name}.png")
    drawn.pngs |= pictures
    return _pictures(pictures, "figures")


def _of_best(record: Record, folder: StudyFolder) -> str:
    best = standings.best(record)
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
