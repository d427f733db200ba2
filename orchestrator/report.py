"""The page of a study: one HTML file that opens from disk, with the verdict first and everything behind it below."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime

import matplotlib
from matplotlib.figure import Figure

from orchestrator import standings
from orchestrator.folder import StudyFolder, inside
from orchestrator.record import Record, TrialRecord
from orchestrator.states import State

matplotlib.use("Agg")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { border-left: .3rem solid #48a; padding: .4rem 1rem; background: #48a2; }
.builtin { border-left: .3rem solid #c80; padding: .4rem 1rem; background: #c802; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .25rem .7rem; text-align: left;
 border-bottom: 1px solid var(--line); white-space: nowrap; } td.reason { white-space: normal; }
img { max-width: 100%; background: white; border-radius: .3rem; } code, pre { font-size: .85rem; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); }
.FINISHED { color: #2a8a3a; } .PRUNED { color: #b07800; } .FAILED { color: #d03030; } .STOPPED { color: #a040a0; }
"""
_MOST_PICTURES, _LARGEST_PICTURE = 8, 1_500_000  # of the best trial; bytes of each
_CURVES = 40  # more lines than this say nothing


def write_report(record: Record, folder: StudyFolder) -> None:
    """Write ``report.html``, whole or not at all, and the task's figures."""
    try:
        drawn = {name: _png(figure) for name, figure in standings.figures(record).items()}
        places, trouble = {name: inside(folder.figures, f"{name}.png") for name in drawn}, ""
    except Exception as error:  # the task's code: a figure is no reason to lose the page, which says what is missing
        drawn, trouble = {}, f"<p>The task's figures could not be drawn: {_text(repr(error))}</p>"
    for name, png in drawn.items():
        places[name].parent.mkdir(parents=True, exist_ok=True)
        places[name].write_bytes(png)
    aside = folder.report.with_suffix(".tmp")
    aside.write_text(render(record, folder.name, drawn, trouble, _pictures(record, folder)), encoding="utf-8")
    os.replace(aside, folder.report)


def render(
    record: Record,
    name: str,
    drawn: Mapping[str, bytes] | None = None,
    trouble: str = "",
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """The page as text; self-contained, figures inside: ``drawn`` of all trials, ``pictures`` of the best."""
    study = record.study
    metric, _ = standings.metric_of(record)
    counts = ", ".join(f"{n} {s.lower()}" for s in State if (n := record.count(s)))
    started = datetime.fromtimestamp(record.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
    took = f", {record.ended - record.started:.0f} s" if record.ended else ""
    parts = [
        f"<h1>{_text(name)}</h1><p>{_text(study['question'])}</p>",
        _verdict(record),
        _data(record),
        f"<p>Task <b>{_text(study['task'])}</b>, {record.planned} trials planned ({counts}), "
        f"search {_text(study['search']['algorithm'])} with scheduler {_text(study['search']['scheduler']['kind'])}. "
        f"{started}{took}.</p>",
        f"<h2>Leaderboard by {_text(metric)}</h2>{_leaderboard(record)}",
        trouble + "".join(f"<h2>{_text(title)}</h2>{_image(png, title)}" for title, png in (drawn or {}).items()),
        f"<h2>Learning curves</h2>{_image(_png(_curves(record, metric)), 'learning curves')}",
        "".join(f"<h2>{_text(title)}</h2>{_image(png, title)}" for title, png in (pictures or {}).items()),
        _failures(record),
        f"<h2>Fixed parameters</h2><pre>{_text(_fixed(record))}</pre>",
        f"<h2>Again</h2><pre>orchestrator run {_text('runs/' + name + '/study.yaml')}</pre>",
    ]
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{_text(name)}</title>"
    return (
        f"<!doctype html><html lang='en'><head>{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _pictures(record: Record, folder: StudyFolder) -> dict[str, bytes]:
    """What the best trial drew, by title; what is too large for a page stays in its folder."""
    best = standings.best(record)
    if best is None:
        return {}
    place = folder.trial(best.id)
    place.obtain(place.artifacts)
    pictures = [path for path in sorted(place.artifacts.glob("*.png")) if path.stat().st_size <= _LARGEST_PICTURE]
    return {f"{path.stem} of {best.id}, the best trial": path.read_bytes() for path in pictures[:_MOST_PICTURES]}


def _verdict(record: Record) -> str:
    if not record.verdict:
        return "<p class='verdict'>The study has not ended.</p>"
    support, sentence = record.verdict["support"], record.verdict["sentence"]
    return f"<p class='verdict'><b>Verdict: {_text(support)}.</b> {_text(sentence)}</p>"


def _data(record: Record) -> str:
    data, said = record.study["data"], ""
    for pin in (record.study.get("inputs") or {}).get("pinned", ()):
        said += f"<p>Reads what {len(pin['trials'])} trials of <b>{_text(pin['study'])}</b> left.</p>"
    if data == "builtin":
        return said + "<p class='builtin'>This ran on the task's <b>built-in data</b>, not on real data.</p>"
    return said + (f"<p>Data: <code>{_text(data)}</code></p>" if data != "none" else "")


def _leaderboard(record: Record) -> str:
    entries = standings.leaderboard(record)
    names = list(dict.fromkeys(name for entry in entries for name in entry.params))
    head = "".join(f"<th>{_text(c)}</th>" for c in ("rank", "trial", "state", "value", "95 % interval", *names))
    rows = []
    for entry in entries:
        value = "" if entry.value is None else f"{entry.value:.4f}"
        interval = f"{entry.interval[0]:.4f} … {entry.interval[1]:.4f}" if entry.interval else ""
        cells = [_short(entry.params.get(name)) for name in names]
        rows.append(
            f"<tr><td>{entry.rank}</td><td>{_text(entry.trial)}</td><td class='{entry.state}'>{entry.state}</td>"
            f"<td>{value}</td><td>{interval}</td>" + "".join(f"<td>{_text(c)}</td>" for c in cells) + "</tr>"
        )
    return f"<div class='wide'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _curves(record: Record, metric: str) -> Figure:
    """The metric by step, the best trials in colour, pruned ones pale."""
    figure = Figure(figsize=(9, 4.2))
    axes = figure.subplots()
    board = [entry.trial for entry in standings.leaderboard(record) if entry.trial in record.trials]
    order = [record.trials[trial] for trial in board[:_CURVES]]
    for rank, trial in reversed(list(enumerate(order))):
        steps, values = _series(trial)
        label = trial.id if rank < 5 and trial.state is State.FINISHED else None
        colour = f"C{rank}" if label else "0.75"
        axes.plot(
            steps,
            values,
            color=colour,
            label=label,
            linewidth=2 if label else 1,
            marker="." if len(steps) < 3 else None,
        )
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(reverse=True)
    return figure


def _series(trial: TrialRecord) -> tuple[list[int], list[float]]:
    points = [(s, v) for s, v in zip(trial.curve.steps, trial.curve.values, strict=True) if math.isfinite(v)]
    return [step for step, _ in points], [value for _, value in points]


def _failures(record: Record) -> str:
    failed = [trial for trial in record.trials.values() if trial.state is State.FAILED]
    if not failed:
        return ""
    rows = "".join(f"<tr><td>{_text(t.id)}</td><td class='reason'>{_text(t.reason or '')}</td></tr>" for t in failed)
    return f"<h2>Failures</h2><div class='wide'><table>{rows}</table></div>"


def _fixed(record: Record) -> str:
    searched = set(record.study["search"]["space"])
    lines = [f"{k}: {v}" for k, v in record.study["params"].items() if k not in searched]
    return "\n".join([*lines, f"seed: {record.study['seed']}", f"resources: {record.study['resources']}"])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()


def _image(png: bytes, title: str) -> str:
    return f"<img alt='{_text(title)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    return html.escape(str(value))
