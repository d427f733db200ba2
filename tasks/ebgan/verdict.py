"""What trials say: does the entropy keep the modes apart, and are the paper's scores reached?

Sources: Su Jianlin, kexue.fm/archives/6331; Kumar et al. 2019, arXiv 1901.08508, whose anomaly scores `PUBLISHED` has.
Intervals are Student's over seeds, 95 %. Two kinds of entropy are compared on the seeds they share, each at the setting
whose mean KL is best among those with the most seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from tasks.api import Row, Support, Verdict
from tasks.ebgan.params import ANOMALY

SEEDS = 3
"""The least number of seeds that anything is concluded from."""
PUBLISHED: Mapping[str, Mapping[int, float]] = {
    "kdd99": {-1: 0.9389},
    "mnist-anomaly": {1: 0.281, 4: 0.401, 5: 0.402, 7: 0.29, 9: 0.342},
}
"""F1 of kdd99, and AUPRC by the held-out digit."""


@dataclass(frozen=True)
class Mean:
    """The mean of a few seeds with its interval; one seed has none."""

    value: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{self.value:.4f} on one seed"
        return f"{self.value:.4f} (95 % {self.low:.4f} … {self.high:.4f}, {self.seeds} seeds)"


def mean_of(values: Sequence[float]) -> Mean:
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Mean(mean, -math.inf, math.inf, n)
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Mean(mean, mean - half, mean + half, n)


def conclude(rows: Sequence[Row]) -> Verdict:
    """By the problem: the published score, or the KL with the entropy against that without."""
    problem = str(rows[0].params["problem"])
    return _published(rows, problem) if problem in ANOMALY else _entropy(rows)


def _published(rows: Sequence[Row], problem: str) -> Verdict:
    metric, bars = ("f1", PUBLISHED[problem]) if problem == "kdd99" else ("auprc", PUBLISHED[problem])
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(-1 if problem == "kdd99" else int(row.params["held_out"]), []).append(row)
    said, above, below = [], 0, 0
    for key in sorted(set(groups) & set(bars)):
        found = mean_of([row.metrics[metric] for row in _best_setting(groups[key], metric, 1).values()])
        above, below = above + (found.low >= bars[key]), below + (found.high < bars[key])
        name = "" if key < 0 else f"digit {key}: "
        said.append(f"{name}{found} against {bars[key]:g} in the paper")
    if not said:
        return Verdict(Support.UNDECIDED, f"The paper has no score for what was held out; best {metric} so far "
                       f"{rows[0].metrics[metric]:.4f}.")  # fmt: skip
    needed = math.ceil(0.6 * len(bars))  # three of the five digits
    support = Support.SUPPORTED if above >= needed else Support.UNDECIDED
    if len(bars) - below < needed:
        support = Support.NOT_SUPPORTED
    return Verdict(support, f"{_REACHED[support]}: {metric} {'; '.join(said)}.")


_REACHED = {
    Support.SUPPORTED: "The published score is reached",
    Support.NOT_SUPPORTED: "The published score is not reached",
    Support.UNDECIDED: "Whether the published score is reached is not decided by the intervals",
}


def _entropy(rows: Sequence[Row]) -> Verdict:
    arms = {arm: [row for row in rows if row.params["entropy"] == arm] for arm in ("js", "infogan", "none")}
    played = [arm for arm in ("js", "infogan") if arms[arm]]
    best = _best_text(rows[0])
    if not played or not arms["none"]:
        return Verdict(Support.UNDECIDED, f"{best}; to compare, trials with and without an entropy are needed.")
    with_best = max((_best_setting(arms[arm], "kl", -1) for arm in played), key=lambda found: (len(found), -_kl(found)))
    without = _best_setting(arms["none"], "kl", -1)
    seeds = sorted(set(with_best) & set(without))
    name = next(iter(with_best.values())).params["entropy"]
    if len(seeds) < SEEDS:
        said = f"{best}; '{name}' and 'none' share {len(seeds)} seeds, {SEEDS} are the least to compare on."
        return Verdict(Support.UNDECIDED, said)
    gain = mean_of([without[seed].metrics["kl"] - with_best[seed].metrics["kl"] for seed in seeds])
    support = Support.SUPPORTED if gain.low > 0 else Support.NOT_SUPPORTED if gain.high < 0 else Support.UNDECIDED
    return Verdict(
        support,
        f"{_HELPS[support]}: without it the KL is {gain.value:+.3f} nats (95 % {gain.low:+.3f} … {gain.high:+.3f}, "
        f"{len(seeds)} paired seeds) beyond the {_kl(with_best):.3f} with '{name}'."
        + "".join(_beside(metric, said, with_best, without, seeds) for metric, said in _BESIDE.items()),
    )


_BESIDE = {"modes": "Modes found", "kl_uniform": "KL to uniform among samples that count", "quality": "Within 4σ"}


def _beside(
    metric: str, said: str, with_it: Mapping[int, Row], without: Mapping[int, Row], seeds: Sequence[int]
) -> str:
    """A sentence on another metric of both arms, with the paired interval of what is lost or gained without."""
    pairs = [(with_it[seed].metrics.get(metric), without[seed].metrics.get(metric)) for seed in seeds]
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(whole) < len(seeds):
        return ""
    digits = 1 if metric == "modes" else 3
    ours, theirs = (float(np.mean(column)) for column in zip(*whole, strict=True))
    change = mean_of([b - a for a, b in whole])
    return (
        f" {said}: {ours:.{digits}f} with, {theirs:.{digits}f} without "
        f"(95 % of the change {change.low:+.{digits}f} … {change.high:+.{digits}f})."
    )


_HELPS = {
    Support.SUPPORTED: "The entropy term helps",
    Support.NOT_SUPPORTED: "The entropy term does harm here",
    Support.UNDECIDED: "Whether the entropy term helps is not decided",
}


def _best_setting(rows: Sequence[Row], metric: str, sign: int) -> Mapping[int, Row]:
    """The rows by seed of the setting with the best mean among those with the most seeds."""
    settings: dict[str, dict[int, Row]] = {}
    for row in rows:
        settings.setdefault(repr(sorted(row.params.items())), {})[row.seed] = row
    most = max(map(len, settings.values()))
    whole = [found for _, found in sorted(settings.items()) if len(found) == most]
    return max(whole, key=lambda found: sign * np.mean([row.metrics[metric] for row in found.values()]))


def _kl(table: Mapping[int, Row]) -> float:
    return float(np.mean([row.metrics["kl"] for row in table.values()]))


def _best_text(row: Row) -> str:
    shown = [f"{name} {row.metrics[name]:.4g}" for name in ("kl", "fid", "modes", "quality") if name in row.metrics]
    return f"{row.trial} has {', '.join(shown)}" if shown else f"{row.trial} is best"
