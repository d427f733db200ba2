"""The page of a study: what it says is what the journal holds, and nothing that anybody wrote is code of the page's."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import session
from schedulersim import Sim, params_of, pbt

from orchestrator.analysis import standings
from orchestrator.history.events import Reported, StudyEnded, StudyStarted, TrialEnded, TrialPlaced, TrialStarted
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import load_record
from orchestrator.history.record import Record
from orchestrator.history.states import State
from orchestrator.report import figures, tables, use
from orchestrator.report.page import render, write_report
from orchestrator.report.parallel import parallel
from orchestrator.report.rungs import Outcome, arrivals
from orchestrator.studies.plan import trial_id
from orchestrator.studies.studyfile import build
from orchestrator.tuning.schedulers import Asha, Hyperband
from orchestrator.tuning.search import importance
from tasks.api import Goal

EVIL = "</script><script>alert('x')</script><img src=x onerror=\"alert(1)\">$\\frac$"
SPACE = {"x": {"uniform": [-1, 1]}, "width": {"int_range": [1, 64]}, "mood": {"choice": ["well", "nan"]}}


def record_of(trials=12, steps=4, ends=lambda index: State.FINISHED, value=None, scheduler="none", places=3):
    """A study in memory; trial ``i`` ends as ``ends(i)`` says, None: not yet."""
    value = value or (lambda chosen, step: (chosen["x"] - 0.5) ** 2 + 1 / step)
    search = {"trials": max(1, trials), "space": SPACE, "scheduler": scheduler}
    study, rng, record = build({"task": "toy", "search": search}), np.random.default_rng(0), Record()
    record.apply(StudyStarted("uid", study.to_plain(), trials, at=1000.0))
    for index in range(trials):
        id, began = trial_id(index), 1000.0 + 10 * (index // places)
        chosen = {"x": float(rng.uniform(-1, 1)), "width": int(rng.integers(1, 65)), "mood": "well"}
        params = study.params_of(chosen).model_dump(mode="json")
        record.apply(TrialStarted(id, index, params, tuple(chosen), at=began))
        record.apply(TrialPlaced(id, "here", 1, at=began))
        for step in range(1, steps + 1):
            record.apply(Reported(id, step, {"loss": value(chosen, step)}, at=began + 2 * step))
        if (state := ends(index)) is not None:
            final = {"loss": value(chosen, steps)} if state is State.FINISHED and steps else {}
            record.apply(TrialEnded(id, state, None if final else "the toy broke", final, at=began + 9))
    return record


def end(record, state=State.FINISHED):
    concluded = standings.verdict(record)
    record.apply(StudyEnded(state, {"support": concluded.support, "sentence": concluded.sentence}, at=record.at + 1))
    return record


class Parsed(HTMLParser):
    """What a browser sees: elements with their attributes, and text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def rows(self):
        return [
            dict(attributes)["data-t"] for tag, attributes in self.elements if tag == "tr" and "data-t" in attributes
        ]


def page_of(record, folder, name="study"):
    return render(record, StudyFolder(folder / name))[0]


# ---------------------------------------------------------------------------------------------- what anybody wrote


def test_the_page_shows_text_as_text(tmp_path):
    """Whatever a study says, and whatever a journal from elsewhere says, is no HTML of the page's."""
    record = end(record_of(ends=lambda i: State.FAILED if i == 0 else State.FINISHED))
    trial = record.trials.pop("t0000")
    trial.id = trial.reason = trial.traceback = trial.spans[0].node = EVIL
    record.trials[EVIL] = trial
    for other in record.trials.values():
        other.params = {**other.params, "mood": EVIL, EVIL: EVIL}
        other.searched = (*other.searched, EVIL)
    space = {**SPACE, "mood": {"choice": [EVIL, "well"]}, EVIL: {"choice": [EVIL, 'style="font: 1px x', "trials:"]}}
    search = {**record.study["search"], "algorithm": EVIL, "space": space}
    record.study = {**record.study, "question": EVIL, "data": EVIL, "params": {EVIL: EVIL}, "search": search}
    record.verdict = {"support": EVIL, "sentence": EVIL}
    plain = Parsed(page_of(end(record_of()), tmp_path))
    page = Parsed(page_of(record, tmp_path, EVIL.replace("/", "_")))
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"details", "pre", "td", "code"}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert not [attributes for tag, attributes in page.elements if tag == "img"]
    assert any(EVIL in words for words in page.words)
    assert "could not be" not in " ".join(page.words)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
@settings(max_examples=8, deadline=None)
def test_whatever_options_are_called_the_drawing_stays_whole(options):
    record = record_of(trials=4)
    for trial, option in zip(record.trials.values(), itertools.cycle(options)):
        trial.params = {**trial.params, "mood": option}
    record.study = {**record.study, "search": {**record.study["search"], "space": {"mood": {"choice": options}}}}
    from orchestrator.report import drawing

    with drawing.style():
        drawn = Parsed(drawing.svg(parallel(record, {}), "label"))
    assert sorted(a["data-t"] for _, a in drawn.elements if "data-t" in a) == sorted(record.trials)
    assert {tag for tag, _ in drawn.elements} <= {
        "svg",
        "g",
        "defs",
        "path",
        "use",
        "text",
        "style",
        "clippath",
        "rect",
    }


def test_the_page_loads_nothing(tmp_path):
    """No address in it but those of its own parts."""
    page = page_of(end(record_of(scheduler="asha")), tmp_path)
    addresses = [
        v for _, a in Parsed(page).elements for k, v in a.items() if k in ("src", "href", "xlink:href", "srcset")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/")) for address in addresses)
    elsewhere = page.replace("http://www.w3.org/2000/svg", "")  # the script names what it makes; that is not loaded
    assert not re.search(r"https?://|//[\w.]+/|@import|url\((?!#)", elsewhere)


# ---------------------------------------------------------------------------------------------------- it is all there


def test_every_trial_counts(tmp_path):
    ends = {0: State.FAILED, 1: State.PRUNED, 2: State.STOPPED, 3: None}
    record = record_of(trials=30, ends=lambda i: ends.get(i, State.FINISHED))
    page = Parsed(page_of(record, tmp_path))
    assert sorted(page.rows()) == sorted(record.trials)
    words = " ".join(page.words)
    assert "30 of 30: 1 running, 26 finished, 1 pruned, 1 failed, 1 stopped" in words
    drawn = [a["data-t"] for tag, a in page.elements if tag in ("path", "use") and "data-t" in a]
    for figure in ("curves", "parallel", "cluster"):  # each trial is once in each of these
        assert figure in {a.get("id") for tag, a in page.elements if tag == "figure"}
    assert {id: drawn.count(id) for id in record.trials} == dict.fromkeys(record.trials, 3)


def test_a_column_that_has_numbers_stands_right_with_its_words():
    record = record_of(trials=3)
    for trial, width in zip(record.trials.values(), (1, "all", None), strict=True):
        trial.params["width"] = width
    cells = re.findall(r"<t[hd][^>]*>(?:width|all|)</t[hd]>", tables.leaderboard(record))
    assert len(cells) == 3
    assert all("n" in re.findall(r"class='?(\w+)", cell) for cell in cells)


@pytest.mark.parametrize(
    "failing",
    ["orchestrator.report.figures.curves", "orchestrator.tuning.search.metric_of", "orchestrator.report.use.bars"],
)
def test_what_cannot_be_drawn_does_not_lose_the_page(tmp_path, monkeypatch, failing):
    def fail(*given):
        raise ZeroDivisionError("no such figure")

    record = end(record_of())
    monkeypatch.setattr(failing, fail)
    page = page_of(record, tmp_path)
    assert "no such figure" in page
    assert "Leaderboard" in page


@pytest.mark.parametrize(
    "record",
    [
        lambda: record_of(trials=0),
        lambda: end(record_of(trials=1)),
        lambda: end(record_of(trials=1, steps=0, ends=lambda i: State.FAILED), State.FAILED),
        lambda: end(record_of(ends=lambda i: State.FAILED), State.FAILED),
        lambda: record_of(ends=lambda i: None),
        lambda: record_of(steps=0, ends=lambda i: None),
        lambda: end(record_of(steps=1)),
        lambda: end(record_of(value=lambda chosen, step: 1.0)),
    ],
    ids=["empty", "one", "one failed", "all failed", "unfinished", "silent", "one step", "all alike"],
)
def test_every_study_has_a_page(tmp_path, record):
    page = page_of(record(), tmp_path)
    assert "could not be" not in page
    assert "<h2>Run it again</h2>" in page


def test_a_study_s_run_leaves_its_page_and_pngs(runs):
    folder = StudyFolder(runs.root / "two")
    session(folder.root, {"name": "two", "params": {"mood": "raise", "once": True}, "search": {"trials": 2}})
    write_report(load_record(folder.journal), folder)
    page = folder.report.read_text()
    assert f"orchestrator run {folder.study}" in page
    assert "2 trials failed and went on when tried again" in page
    assert {"study-curves.png", "study-cluster.png"} <= {path.name for path in folder.figures.iterdir()}


def test_failures_of_one_kind_stand_together(tmp_path):
    record = end(record_of(ends=lambda i: State.FAILED if i % 2 else State.FINISHED))
    words = " ".join(Parsed(page_of(record, tmp_path)).words)
    assert "6 failed the toy broke t0001, t0003, t0005, t0007, t0009, t0011" in words


# ------------------------------------------------------------------------------------------------------------- rungs


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 4), st.sampled_from([1, 2, 5]))
@settings(max_examples=30, deadline=None)
def test_rungs_of_asha_are_the_scheduler_s(seed, grace, reduction, every):
    """Trials that report seldom skip rungs and make up for the lower ones later, as the scheduler has it."""
    judge, rng, record = Asha(Goal.MIN, grace, reduction), np.random.default_rng(seed), Record()
    plain = {"metric": "loss", "goal": "min", "scheduler": {"kind": "asha", "grace": grace, "reduction": reduction}}
    record.apply(StudyStarted("u", {"search": plain}, 9, at=0.0))
    pruned = {}
    for index in range(9):
        id = trial_id(index)
        record.apply(TrialStarted(id, 0, {}, (), at=0.0))
        for step in range(every, 40, every):
            value = float(rng.normal())
            record.apply(Reported(id, step, {"loss": value}, at=float(step)))
            if not judge.on_report(id, step, value):
                pruned[id] = step
                record.apply(TrialEnded(id, State.PRUNED, "", at=float(step)))
                break
    came = arrivals(record)
    theirs = {rung.step: rung.trials for rung in judge._rungs if rung.trials}
    assert {step: {a.trial for a in came if a.rung == step} for step in {a.rung for a in came}} == theirs
    assert {a.trial: a.at for a in came if a.outcome is Outcome.STOPPED} == pruned


def test_rungs_of_hyperband_are_the_scheduler_s():
    sim = Sim(Hyperband(Goal.MIN, 9, 3, 22), 22, lambda i, step: i / 100 + 1 / step, last=9)
    sim.record.study = {"search": {**sim.record.study["search"], "goal": "min", "scheduler": {
        "kind": "hyperband", "max_steps": 9, "reduction": 3}}}  # fmt: skip
    moves = sim.run()
    came = arrivals(sim.record)
    stopped = {a.trial for a in came if a.outcome is Outcome.STOPPED}
    assert stopped == {t.id for t in sim.record.trials.values() if t.state is State.PRUNED}
    gone_on = [a for a in came if a.outcome is Outcome.WENT_ON]
    assert len(gone_on) == sum(type(move).__name__ == "Go" for move in moves)


def test_barriers_of_pbt_are_the_scheduler_s():
    sim = Sim(pbt(8), 8, lambda i, step: i + 1 / step, last=8, params=params_of)
    scheduler = {"kind": "pbt", "interval": 2}
    sim.record.study = {"search": {**sim.record.study["search"], "goal": "min", "scheduler": scheduler}}
    sim.run()
    took = sorted((a.trial, a.rung) for a in arrivals(sim.record) if a.outcome is Outcome.TOOK_OVER)
    assert took == sorted((m.trial, m.step) for t in sim.record.trials.values() for m in t.mutations)
    assert took


# ------------------------------------------------------------------------------------------------------- cluster use


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 100), st.floats(0.1, 30)), min_size=1, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_no_two_bars_share_a_place_and_no_more_places_than_work_at_once(work):
    """As many places as are busy at once, which a node that holds the trials holds."""
    record = Record()
    record.apply(StudyStarted("u", {"search": {"metric": "loss"}}, len(work), at=0.0))
    for index, (node, began, seconds) in enumerate(work):
        record.apply(TrialStarted(trial_id(index), 0, {}, (), at=0.0))
        record.apply(TrialPlaced(trial_id(index), node, 1, at=began))
        record.apply(TrialEnded(trial_id(index), State.FINISHED, at=began + seconds))
    bars = use.bars(record)
    assert sorted(bar.trial for bar in bars) == sorted(record.trials)
    for (node, _), group in itertools.groupby(sorted(bars, key=key), key=key):
        assert all(a.ended <= b.began for a, b in itertools.pairwise(sorted(group, key=lambda bar: bar.began)))
        busiest = max(sum(n == node and b <= at < b + s for n, b, s in work) for _, at, _ in work)
        assert len({bar.place for bar in bars if bar.node == node}) <= busiest


def key(bar):
    return bar.node, bar.place


def test_attempts_are_bars_from_when_they_had_a_place(runs):
    """In a study that ran two at once: no more than two places, and as much work as the journal counts."""
    raw = {"name": "bars", "params": {"mood": "raise", "once": True, "pace": 0.01}, "search": {"trials": 5}}
    session(runs.root / "bars", raw, cpus=2)
    record = load_record(runs.study("bars").journal)
    bars = use.bars(record)
    assert {(bar.node, bar.place) for bar in bars} <= {(node, place) for node in use.nodes(record) for place in (0, 1)}
    assert sum(len(trial.spans) for trial in record.trials.values()) == 10
    worked = sum(span.ended - span.began for trial in record.trials.values() for span in trial.spans)
    assert worked == pytest.approx(sum(trial.seconds for trial in record.trials.values()), abs=0.5)


def test_a_long_pause_is_cut_out_of_the_clock():
    record = record_of(trials=6, places=3)  # two waves of 9 s
    for trial in list(record.trials.values())[3:]:
        trial.spans[0].began += 3600
        trial.spans[0].ended += 3600
    clock = use.Clock(record.started, use.bars(record))
    assert clock.pauses == [(9.0, pytest.approx(3601))]
    assert clock(1000 + 3600 + 19) == pytest.approx(18)
    assert clock(1004) == 4


# -------------------------------------------------------------------------------------------------------- importance


@pytest.mark.parametrize("planted", ["x", "width"])
@pytest.mark.parametrize("trials", [20, 80])
def test_the_planted_parameter_is_the_most_important(planted, trials):
    target = {"x": 0.3, "width": 20}[planted]
    found = importance(record_of(trials, value=lambda chosen, step: abs(chosen[planted] - target) + 1 / step))
    assert next(iter(found.shares)) == planted
    assert found.shares[planted] > 0.5
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.trials, found.step) == (trials, None)


def test_pruned_trials_are_judged_where_all_can_be():
    """At its end each pruned trial has a worse value for it stopped early; at the common step ``x`` decides alone."""
    record = record_of(40, steps=4, value=lambda chosen, step: abs(chosen["x"] - 0.3) + 100 / step)
    for index, trial in enumerate(record.trials.values()):
        if index % 2:
            del trial.curve.steps[2:], trial.curve.values[2:], trial.curve.times[2:]
            trial.state, trial.final = State.PRUNED, {}
    found = importance(record)
    assert (found.step, found.trials) == (2, 40)
    assert next(iter(found.shares)) == "x"


def test_few_trials_say_nothing_of_importance():
    assert importance(record_of(9)) is None
    assert importance(record_of(12, ends=lambda i: State.FAILED)) is None


# ----------------------------------------------------------------------------------------------------------- figures


def test_figures_leave_out_what_there_is_nothing_to_say_of():
    silent = record_of(steps=0, ends=lambda i: State.FAILED)
    assert figures.curves(silent) is None
    assert figures.values(silent) is None
    assert figures.seeds(record_of()) is None
    assert figures.cluster([], use.Clock(0.0, []), silent) is None
    assert figures.values(record_of(steps=1)) is not None
    assert figures.curves(record_of(steps=1)) is None


def test_one_that_went_astray_does_not_press_the_curves_flat():
    record = record_of(40, value=lambda chosen, step: 1e6 if chosen["x"] > 0.97 else chosen["x"])
    assert max(trial.curve.values[-1] for trial in record.trials.values()) == 1e6
    low, high = figures.curves(record).axes[0].get_ylim()
    assert low < -0.9
    assert high < 10
