"""One arm against the baseline: which trials these are, on which photos each was right, and how far they differ.

Trials pair by their seed and photos by their key. Where an arm has several trials of one seed (other parameters were
searched too), the mean over these stands for it.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from tasks import logits as left
from tasks.api import Context, Input, InputError
from tasks.compare import CompareParams, Value
from tasks.compare.paired import bootstrap, crossed, mcnemar, signs
from tasks.logits import Frame, Logits

ARMS = {"baseline": 2.2, "better": 2.4, "same": 2.2, "worse": 2.0}
"""The generated arms and how well they see: see `tasks.ensemble.builtin`."""


@dataclass(frozen=True)
class Scored:
    """A trial as it is compared: ``source`` holds its scores or is the folder where they lie."""

    name: str
    arm: Value | None
    seed: int
    source: Path | Logits


@dataclass(frozen=True)
class Judged:
    """What cells of trials say of each photo, means over the trials of a cell: (cells, photos) each."""

    hits: np.ndarray
    """Share of them that have it right."""
    losses: np.ndarray
    """Log loss, nats."""

    def part(self, cells: slice) -> Judged:
        return Judged(self.hits[cells], self.losses[cells])


def run(params: CompareParams, context: Context) -> Mapping[str, float]:
    """The metrics; reports the difference so far after each seed, and leaves a table of them."""
    trials = of_inputs(context.inputs, params.by) if context.inputs else generated()
    arm, baseline = (of_arm(trials, value, params.by) for value in (params.arm, params.baseline))
    seeds = sorted(set(arm) & set(baseline))
    if len(seeds) < params.seeds:
        raise InputError(
            f"{_counted(len(seeds), 'seed')} that both {params.by}={params.arm} (seeds {_listed(arm)}) and "
            f"{params.by}={params.baseline} (seeds {_listed(baseline)}) ran on: {params.seeds} are the least (repeat "
            "the earlier study's points on more seeds)"
        )
    scores = judged([arm[seed] for seed in seeds] + [baseline[seed] for seed in seeds])
    ours, theirs = scores.part(slice(len(seeds))), scores.part(slice(len(seeds), None))
    differences = ours.hits - theirs.hits
    for step in range(1, len(seeds) + 1):
        context.report(step, difference=float(differences[:step].mean()))
    _leave(context.artifact("seeds.csv"), seeds, ours.hits, theirs.hits)
    return measured(ours, theirs, context.seed)


def measured(arm: Judged, baseline: Judged, seed: int) -> dict[str, float]:
    """The metrics of both; ``seed`` is the bootstrap's."""
    differences = arm.hits - baseline.hits
    both, over_photos = crossed(differences), bootstrap(differences.mean(axis=0), seed)
    saved = crossed(baseline.losses - arm.losses)
    gained, lost = signs(differences)
    return {
        "difference": both.mean, "difference_low": both.low, "difference_high": both.high, "p_value": both.p_value,
        "photo_low": over_photos.low, "photo_high": over_photos.high,
        "seed_spread": float(differences.mean(axis=1).std(ddof=1)),
        "mcnemar_p": mcnemar(gained, lost), "gained": float(gained), "lost": float(lost),
        "seeds": float(len(arm.hits)), "photos": float(arm.hits.shape[1]),
        "arm/top1": float(arm.hits.mean()), "baseline/top1": float(baseline.hits.mean()),
        "arm/log_loss": float(arm.losses.mean()), "baseline/log_loss": float(baseline.losses.mean()),
        "log_loss_gain": saved.mean, "log_loss_gain_low": saved.low, "log_loss_gain_high": saved.high,
    }  # fmt: skip


def of_inputs(inputs: Sequence[Input], by: str) -> list[Scored]:
    """The inputs with the arms that they are of. Raises `InputError` when none of them has the parameter."""
    if by != "study" and not any(by in given.params for given in inputs):
        known = sorted({name for given in inputs for name in given.params})
        raise InputError(f"params.by={by}: no input has such a parameter (there are: {', '.join(known)}, study)")
    return [
        Scored(
            f"{given.study}/{given.trial}",
            given.study if by == "study" else given.params.get(by),
            given.seed,
            given.artifacts / "logits",
        )
        for given in inputs
    ]


def of_arm(trials: Iterable[Scored], value: Value, by: str) -> dict[int, list[Scored]]:
    """The trials of an arm by seed. Raises `InputError` with the arms that there are when it has none."""
    found: dict[int, list[Scored]] = defaultdict(list)
    for trial in trials:
        if trial.arm is not None and (trial.arm == value or str(trial.arm) == str(value)):
            found[trial.seed].append(trial)
    if not found:
        arms = Counter(str(trial.arm) for trial in trials if trial.arm is not None)
        there = ", ".join(f"{arm} ({_counted(count, 'trial')})" for arm, count in sorted(arms.items()))
        raise InputError(f"no input has {by}={value}; there are: {there}")
    return dict(found)


def judged(cells: Sequence[Sequence[Scored]]) -> Judged:
    """How right the trials of each cell are on each photo, photos sorted by key."""
    frame: Frame | None = None
    first, all_hits, all_losses = "", [], []
    for cell in cells:
        hits, losses = [], []
        for trial in cell:
            logits = _read(trial)
            if frame is None:
                frame, first = Frame.of(logits), trial.name
            scores = frame.match(logits, trial.name, first).take(logits.scores)
            if not np.isfinite(scores).all():
                raise InputError(f"{trial.name} left scores that are no finite numbers: leave it out of the inputs")
            own = scores[np.arange(len(scores)), frame.labels]
            hits.append((scores >= own[:, None]).sum(axis=1) == 1)  # a tie is no success
            losses.append(logsumexp(scores, axis=1) - own)
        all_hits.append(np.mean(hits, axis=0))
        all_losses.append(np.mean(losses, axis=0))
    return Judged(np.stack(all_hits), np.stack(all_losses))


def generated() -> list[Scored]:
    """Four arms of five seeds: one as the baseline, one better, one worse by what `ARMS` says."""
    from tasks.ensemble.builtin import Generated

    names, seeds = list(ARMS), range(5)
    drawn = Generated(tuple(ARMS[arm] for arm in names for _ in seeds), 0.7, 12, 2400).draw(seed=0)
    return [
        Scored(f"{arm}, seed {seed}", arm, seed, drawn[5 * place + seed][1])
        for place, arm in enumerate(names)
        for seed in seeds
    ]


def _read(trial: Scored) -> Logits:
    if isinstance(trial.source, Logits):
        return trial.source
    try:
        return left.read(trial.source)
    except InputError as error:
        raise InputError(f"trial {trial.name}: {error}") from error


def _leave(path: Path, seeds: Sequence[int], arm: np.ndarray, baseline: np.ndarray) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "arm", "baseline", "difference"])
        for seed, ours, theirs in zip(seeds, arm.mean(axis=1), baseline.mean(axis=1), strict=True):
            writer.writerow([seed, float(ours), float(theirs), float(ours - theirs)])


def _listed(by_seed: Mapping[int, object]) -> str:
    return ", ".join(map(str, sorted(by_seed)))


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
