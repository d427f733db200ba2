"""The statistics of finalists, against scipy and by simulation."""

from __future__ import annotations

import doctest
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis import finalists
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.plan import DEFAULTS
from tasks.api import Support


def record_of(goal="max", **values):
    """Runs of finalists on the seeds 0, 1, …; None is a run that failed."""
    record = Record(study={"task": "toy", "search": {"metric": "m", "goal": goal}})
    for of, runs in values.items():
        for seed, value in enumerate(runs):
            trial = TrialRecord(f"{of}-s{seed}", seed, {}, (), 0.0, of=of)
            trial.state = State.FAILED if value is None else State.FINISHED
            trial.final = {} if value is None else {"m": float(value)}
            record.trials[trial.id] = trial
    return record


def draw(seed, *means, seeds=6):
    rng = np.random.default_rng(seed)
    return [mean + rng.normal(size=seeds) for mean in means]


def test_examples():
    assert doctest.testmod(finalists).failed == 0


def test_groups_have_the_mean_and_the_t_interval_best_first():
    one, two, three = draw(0, 1, 5, 3)
    found = finalists.groups(record_of(t0=one, t1=two, defaults=three))
    assert [group.trial for group in found] == ["t1", "defaults", "t0"]
    assert [g.trial for g in finalists.groups(record_of("min", t0=one, t1=two, defaults=three))] == [
        "t0",
        "defaults",
        "t1",
    ]
    assert found[0].values == pytest.approx(two)
    assert found[0].mean == pytest.approx(two.mean())
    interval = stats.t.interval(0.95, len(two) - 1, two.mean(), stats.sem(two))
    assert (found[0].low, found[0].high) == pytest.approx(interval)


def test_groups_take_two_finished_runs_with_finite_values():
    record = record_of(t0=[1, 2, None], t1=[1, None, None], t2=[1, np.inf, np.nan])
    record.trials["t9"] = TrialRecord("t9", 0, {}, (), 0.0, state=State.FINISHED, final={"m": 9.0})  # of the search
    running = TrialRecord("t0-s9", 9, {}, (), 0.0, of="t0", last={"m": 9.0})
    record.trials[running.id] = running
    assert [(group.trial, group.values) for group in finalists.groups(record)] == [("t0", [1, 2])]


@pytest.mark.parametrize(("goal", "sign"), [("max", 1), ("min", -1)])
def test_the_lead_is_that_of_the_paired_t_test(goal, sign):
    one, two = draw(1, 0.4, 0)
    lead = finalists.lead(record_of(goal, t0=one, t1=two), "t0", "t1")
    peer = stats.ttest_rel(one, two)
    assert (lead.over, lead.seeds) == ("t1", 6)
    assert lead.p == pytest.approx(peer.pvalue)
    assert lead.mean == pytest.approx(sign * (one - two).mean())
    interval = peer.confidence_interval(0.95)
    assert sorted((sign * lead.low, sign * lead.high)) == pytest.approx([interval.low, interval.high])


def test_only_common_seeds_are_compared():
    one, two = draw(2, 0, 1)
    lead = finalists.lead(record_of(t0=[*one[:5], None], t1=[None, *two[1:]]), "t0", "t1")
    assert lead.seeds == 4
    assert lead.p == pytest.approx(stats.ttest_rel(one[1:5], two[1:5]).pvalue)
    apart = record_of(t0=[1, 2, None, None], defaults=[None, None, 0, 0])
    assert np.isnan(finalists.lead(apart, "t0", DEFAULTS).p)
    verdict = finalists.verdict(apart)
    assert verdict.support is Support.UNDECIDED
    assert "for want of common seeds" in verdict.sentence
    assert "nan" not in verdict.sentence


def test_holm_counts_the_smaller_twice_and_keeps_the_order():
    assert finalists.holm([0.01, 0.04]) == [0.02, 0.04]
    assert finalists.holm([0.04, 0.01]) == [0.04, 0.02]
    assert finalists.holm([0.03, 0.035]) == [0.06, 0.06]
    assert finalists.holm([0.9, 0.8]) == [1.0, 1.0]
    assert finalists.holm([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert finalists.holm([0.03]) == [0.03]


def test_a_winner_that_beats_both_is_supported_with_numbers():
    verdict = finalists.verdict(record_of(t0003=[0.91, 0.92, 0.93], t0007=[0.88, 0.9, 0.9], defaults=[0.7, 0.72, 0.72]))
    assert verdict.support is Support.SUPPORTED
    runner_up = stats.ttest_rel([0.91, 0.92, 0.93], [0.88, 0.9, 0.9]).pvalue
    assert runner_up < 0.05
    assert verdict.sentence == (
        "t0003 leads with a mean m of 0.92 over 3 fresh seeds (95 % interval 0.8952 to 0.9448), "
        f"0.02667 ahead of the runner-up t0007 (95 % interval 0.01232 to 0.04101, p = {runner_up:.2g}) "
        "and 0.2067 ahead of the defaults (95 % interval 0.1923 to 0.221, p = 0.00052) "
        "by Holm-corrected paired t-tests over 3 common seeds. It is better than both."
    )


def test_a_winner_that_beats_the_defaults_alone_is_undecided():
    verdict = finalists.verdict(record_of(t0=[5, 6, 7, 8], t1=[6, 5, 7.5, 7], defaults=[0, 1, 2, 2.5]))
    assert verdict.support is Support.UNDECIDED
    assert verdict.sentence.endswith("That it is better than both is not established.")


def test_correction_can_undo_a_difference():
    """Against both, p is below 0.05; but the smaller is above 0.025 and counts twice."""
    runs = {"t0": [0.9, 1.0, 2.1, 3.2], "t1": [0, 0, 0, 0], "defaults": [0, 0, 0, -0.01]}
    ps = [stats.ttest_rel(runs["t0"], runs[other]).pvalue for other in ("t1", "defaults")]
    assert 0.025 < min(ps) <= max(ps) < 0.05
    assert finalists.verdict(record_of(**runs)).support is Support.UNDECIDED


def test_one_finalist_is_compared_with_the_defaults_alone():
    verdict = finalists.verdict(record_of("min", t0=[1, 2, 3], defaults=[5, 6.5, 7]))
    assert verdict.support is Support.SUPPORTED
    assert "Holm" not in verdict.sentence
    assert "4.167 ahead of the defaults" in verdict.sentence
    assert verdict.sentence.endswith("It is better than the defaults.")


def test_defaults_that_win_are_said_to():
    clear = finalists.verdict(record_of(t0=[1, 2, 3], t1=[0, 1.5, 2], defaults=[5, 6.5, 7]))
    assert clear.support is Support.NOT_SUPPORTED
    assert clear.sentence.startswith("The search did not beat the defaults: they lead with a mean m of 6.167")
    assert "ahead of the runner-up t0" in clear.sentence
    close = finalists.verdict(record_of(t0=[1, 2, 3], defaults=[2, 1, 4]))
    assert close.support is Support.UNDECIDED
    assert close.sentence.startswith("The search did not beat the defaults")


def test_without_runs_of_the_defaults_nothing_is_established():
    verdict = finalists.verdict(record_of(t0=[5, 6, 7], t1=[1, 2.1, 3], defaults=[None, None, 1]))
    assert verdict.support is Support.UNDECIDED
    assert "too few runs of the defaults finished" in verdict.sentence


def test_runs_that_failed_are_mentioned():
    verdict = finalists.verdict(record_of(t0=[5, 6, None], defaults=[1, 2.1, 3]))
    assert "runs that failed are left out: 1 of t0" in verdict.sentence


@pytest.mark.parametrize("step", [1.0, 0.1, 1e-9, 1e9])
def test_differences_without_variance_are_no_division_by_zero(step):
    values = [0.1 * step, 0.3 * step, 0.7 * step]
    lead = finalists.lead(record_of(t0=[v + step for v in values], t1=values), "t0", "t1")
    assert (lead.p, lead.mean) == (0, pytest.approx(step))
    assert lead.low == lead.high == lead.mean
    same = finalists.lead(record_of(t0=values, t1=values), "t0", "t1")
    assert (same.p, same.mean, same.low, same.high) == (1, 0, 0, 0)


def test_what_does_not_depend_on_the_seed_is_said_so():
    constant = finalists.verdict(record_of(t0=[3, 3], t1=[2, 2], defaults=[0, 0]))
    assert constant.support is Support.SUPPORTED
    assert "1 ahead of the runner-up t1 (every seed differs by exactly the same, p = 0)" in constant.sentence
    equal = finalists.verdict(record_of(t0=[3, 3], t1=[3, 3], defaults=[0, 0]))
    assert equal.support is Support.UNDECIDED
    assert "0 ahead of the runner-up t1 (equal on every seed, p = 1)" in equal.sentence


def simulate(studies, top, shift_of_defaults=0.0, seeds=5):
    """How often each verdict is given where all finalists are equally good; runs of a seed have much in common."""
    rng, counts = np.random.default_rng(top), Counter()
    for _ in range(studies):
        runs = rng.normal(size=(top + 1, seeds)) + rng.normal(size=seeds)
        named = {f"t{i}": values for i, values in enumerate(runs[:-1])}
        counts[finalists.verdict(record_of(**named, defaults=runs[-1] + shift_of_defaults)).support] += 1
    return counts[Support.SUPPORTED] / studies


@pytest.mark.parametrize(("top", "rate"), [(1, 0.025), (2, 0.015), (3, 0.01)])
def test_equals_are_seldom_declared_better(top, rate):
    """With one finalist the rate is exactly half the level; having to beat the runner-up too makes it less."""
    studies = 2000
    assert simulate(studies, top) <= rate + 3 * np.sqrt(rate * (1 - rate) / studies)


@pytest.mark.parametrize("top", [2, 3])
def test_the_worst_case_keeps_the_level(top):
    """Finalists equal to each other, the defaults far below: the selection of the winner is all there is."""
    studies = 2000
    assert simulate(studies, top, shift_of_defaults=-100) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        noise = rng.normal(size=(3, 5))
        record = record_of(t0=noise[0] + 5, t1=noise[1] + 1, defaults=noise[2])
        found += finalists.verdict(record).support is Support.SUPPORTED
    assert found > 180
