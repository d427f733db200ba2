"""Each claim of the paper and of the post, held against pairs of trials.

Sources: Santurkar et al. 2018, arXiv 1805.11604; Su Jianlin, kexue.fm/archives/6992. Idea: two arms with the same seed
and learning rate began from the same weights and saw the same batches, so their ratio is about the norm alone. It is
averaged over the rates within a seed, whose runs are no independent evidence, and the interval is Student's over the
seeds: 95 % for each claim by itself.

A trial's number is the mean over its probes, the area of the band in the paper's figures. Once a network has learnt its
training samples by heart the landscape is flat in every arm, and a median or a mean of logarithms would mostly compare
how flat.

What diverges has no landscape: a learning rate counts only where neither arm diverged on any seed. That spares the arm
that diverges, which is left out where it is at its worst. For accuracy each arm has its own best rate, chosen on
held-out samples, where a run that diverged scores 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from tasks.api import Row, Support, Verdict
from tasks.batchnorm import ARMS
from tasks.batchnorm.stability import RATIO

SEEDS = 3
"""The least number of paired seeds that anything is concluded from."""
_STABLE = "stable/lr"
_SCORE = "test/score"


@dataclass(frozen=True)
class Claim:
    """``arm``'s metric is below (or above) ``against``'s; ``says`` puts it in words."""

    source: str
    says: str
    metric: str
    arm: str
    against: str
    below: bool

    @property
    def is_difference(self) -> bool:
        """Whether it is about a difference; else about a ratio."""
        return self.metric == _SCORE


CLAIMS = (
    Claim("paper", "BN: smaller loss range", "landscape/loss_range", "batch", "none", True),
    Claim("paper", "BN: smaller gradient change", "landscape/gradient_change", "batch", "none", True),
    Claim("paper", "BN: smaller effective β", "landscape/beta", "batch", "none", True),
    Claim("paper", "noisy BN: smaller loss range", "landscape/loss_range", "noisy", "none", True),
    Claim("paper", "noisy BN: smaller gradient change", "landscape/gradient_change", "noisy", "none", True),
    Claim("paper", "noisy BN: smaller effective β", "landscape/beta", "noisy", "none", True),
    Claim("paper", "BN: higher accuracy", _SCORE, "batch", "none", False),
    Claim("paper", "noisy BN: higher accuracy", _SCORE, "noisy", "none", False),
    Claim("paper", "noisy BN: worse covariate shift than BN", "shift/distance", "noisy", "batch", False),
    Claim("paper", "BN: larger stable learning rate", _STABLE, "batch", "none", False),
    Claim("post", "centring lowers λmax of the Hessian", "hessian/top", "centre", "none", True),
    Claim("post", "centring lowers λmax more than scaling", "hessian/top", "centre", "scale", True),
    Claim("post", "centring allows a larger rate than scaling", _STABLE, "centre", "scale", False),
    Claim("post", "scaling evens the layers' gradients", "gradient/spread", "scale", "none", True),
    Claim("post", "scaling evens them more than centring", "gradient/spread", "scale", "centre", True),
)
SMOOTHNESS = CLAIMS[:3]
"""What the verdict is on."""


@dataclass(frozen=True)
class Finding:
    """A claim and what was measured of it: a ratio, or a difference, with its 95 % interval."""

    claim: Claim
    seeds: int
    settings: int
    value: float
    low: float
    high: float

    @property
    def support(self) -> Support:
        nothing = 0.0 if self.claim.is_difference else 1.0
        if self.low <= nothing <= self.high or self.seeds < SEEDS:
            return Support.UNDECIDED
        return Support.SUPPORTED if (self.high < nothing) == self.claim.below else Support.NOT_SUPPORTED

    def __str__(self) -> str:
        if self.claim.is_difference:
            return f"{self.value:+.3f} ({self.low:+.3f} … {self.high:+.3f})"
        ends = (self.value, self.low, self.high)
        value, low, high = (f"{number:#.2g}" if number < 9.95 else f"{number:.0f}" for number in ends)
        return f"×{value} ({low} … {high})"


def conclude(rows: Sequence[Row]) -> Verdict:
    """Supported: loss range, gradient change and effective β are all smaller with BN, each interval says so."""
    findings = [finding for claim in CLAIMS if (finding := find(claim, rows)) is not None]
    smooth = [finding for finding in findings if finding.claim in SMOOTHNESS]
    gone = _diverged(rows)
    if len(smooth) < len(SMOOTHNESS):
        return Verdict(
            Support.UNDECIDED,
            f"Arms 'batch' and 'none' did not both train on {SEEDS} common seeds at any common learning rate, so they "
            f"cannot be compared (search.algorithm=grid search.seeds={SEEDS}){gone}.",
        )
    states = {finding.support for finding in smooth}
    support = next((s for s in (Support.NOT_SUPPORTED, Support.UNDECIDED) if s in states), Support.SUPPORTED)
    first = smooth[0]
    return Verdict(
        support,
        f"{_ANSWER[support]}: with it the loss range is {smooth[0]}, the gradient's change {smooth[1]} and β "
        f"{smooth[2]} of what they are without, 95 % over {first.seeds} paired seeds, {first.settings} learning "
        f"rate{'s' if first.settings > 1 else ''}. {_centring(findings)}{_tally(findings)}{gone}.",
    )


def find(claim: Claim, rows: Sequence[Row]) -> Finding | None:
    """What the rows say of a claim; None without `SEEDS` seeds on which both its arms can be compared."""
    if claim.metric == _SCORE:
        effects, settings = _score_differences(claim, rows), 1
    else:
        effects, settings = _log_ratios(claim, rows)
    if len(effects) < SEEDS:
        return None
    values = np.array(effects)
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    if claim.metric == _STABLE:
        half += math.log(RATIO)  # a rate is known no better than that, even where all seeds agree
    ends = (float(values.mean()), float(values.mean()) - half, float(values.mean()) + half)
    if not claim.is_difference:
        ends = (math.exp(ends[0]), math.exp(ends[1]), math.exp(min(ends[2], 700.0)))
    return Finding(claim, len(values), settings, *ends)


def _log_ratios(claim: Claim, rows: Sequence[Row]) -> tuple[list[float], int]:
    """For each seed the mean over settings of ln(arm/against), and over how many settings."""
    ours, theirs = _table(rows, claim.arm), _table(rows, claim.against)
    seeds = sorted({seed for seed, _ in ours} & {seed for seed, _ in theirs})
    settings = {setting for _, setting in ours} & {setting for _, setting in theirs}
    used = [
        setting
        for setting in settings
        if all(_usable(table.get((seed, setting)), claim.metric) for seed in seeds for table in (ours, theirs))
    ]
    logs = [
        [
            _log(ours[seed, setting].metrics[claim.metric]) - _log(theirs[seed, setting].metrics[claim.metric])
            for setting in used
        ]
        for seed in seeds
    ]
    return [float(np.mean(each)) for each in logs if each], len(used)


def _score_differences(claim: Claim, rows: Sequence[Row]) -> list[float]:
    """For each seed the difference of the test scores, each arm at the setting that is best on held-out samples."""
    ours, theirs = best_setting(rows, claim.arm), best_setting(rows, claim.against)
    return [ours[seed].metrics[_SCORE] - theirs[seed].metrics[_SCORE] for seed in sorted(set(ours) & set(theirs))]


def best_setting(rows: Sequence[Row], arm: str) -> Mapping[int, Row]:
    """The rows by seed of the setting whose mean score on held-out samples is best; empty without the arm."""
    table = _table(rows, arm)
    by_setting: dict[str, dict[int, Row]] = {}
    for (seed, setting), row in table.items():
        by_setting.setdefault(setting, {})[seed] = row
    if not by_setting:
        return {}
    most = max(len(found) for found in by_setting.values())  # one that lacks seeds was cut short
    whole = [found for _, found in sorted(by_setting.items()) if len(found) == most]
    return max(whole, key=lambda found: np.mean([row.metrics["val/score"] for row in found.values()]))


def _table(rows: Sequence[Row], arm: str) -> dict[tuple[int, str], Row]:
    """An arm's rows by seed and all parameters but the norm."""
    return {
        (row.seed, repr(sorted((k, v) for k, v in row.params.items() if k != "norm"))): row
        for row in rows
        if row.params["norm"] == arm
    }


def _usable(row: Row | None, metric: str) -> bool:
    """The stable rate is measured apart from training, so that it holds of what diverged too."""
    return row is not None and metric in row.metrics and (metric == _STABLE or not row.metrics["diverged"])


def _log(value: float) -> float:
    return math.log(max(value, 1e-30))


_ANSWER = {
    Support.SUPPORTED: "BatchNorm smooths the loss landscape",
    Support.NOT_SUPPORTED: "BatchNorm does not smooth the loss landscape in every respect",
    Support.UNDECIDED: "Whether BatchNorm smooths the loss landscape is not decided",
}


def _centring(findings: Sequence[Finding]) -> str:
    found = {finding.claim.says: finding for finding in findings}
    top, rate = (found.get(CLAIMS[i].says) for i in (11, 12))
    if top is None or rate is None:
        return ""
    return (
        f"Centring against scaling: λmax {top}, {top.support.value}; largest stable rate {rate}, {rate.support.value}. "
    )


def _tally(findings: Sequence[Finding]) -> str:
    counts = {support: sum(finding.support is support for finding in findings) for support in Support}
    said = ", ".join(f"{count} {support.value}" for support, count in counts.items())
    return f"Of {len(findings)} claims {said}: the figure 'claims' has them all"


def _diverged(rows: Sequence[Row]) -> str:
    """Who diverged, as the end of a sentence."""
    said = []
    for arm in ARMS:
        ran = [row for row in rows if row.params["norm"] == arm]
        if gone := sum(bool(row.metrics["diverged"]) for row in ran):
            said.append(f"'{arm}' in {gone} of {len(ran)} runs")
    return f"; diverged: {', '.join(said)}" if said else ""
