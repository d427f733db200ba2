"""One ensemble, from the members to the metrics: cross-fitted on the search part, reported on the rest."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks import logits as left
from tasks.api import Context
from tasks.compare.paired import bootstrap, mcnemar
from tasks.ensemble import EnsembleParams, recipe
from tasks.ensemble.builtin import Generated
from tasks.ensemble.figures import disagreement_figure, members_figure, reliability_figure
from tasks.ensemble.measure import diversity, own, reliability, wilson
from tasks.ensemble.members import Members, gather, of_inputs, right
from tasks.ensemble.recipe import Recipe, Soups
from tasks.ensemble.split import Parts, split
from tasks.logits import Logits

_SHOWN = 40  # members in the heat map


def run(params: EnsembleParams, context: Context) -> Mapping[str, float]:
    """The metrics of both parts; leaves weights, figures and the ensemble's own logits."""
    generated = None if context.inputs else builtin(params)
    members = of_inputs(context.inputs) if generated is None else gathered(generated)
    soups = _soups(params, members, context)
    frame = members.frame
    parts = split(frame.keys, frame.labels, params.report_share, params.folds, params.split_seed)
    fitter = _Fitter(members, params, context, soups)
    said = Said(*(np.zeros((len(frame.keys), len(frame.classes))) for _ in range(3)))
    done = np.zeros(0, int)
    for fold, photos in enumerate(parts.folds):
        fitter.predict(parts.others(fold), photos, said)
        done = np.sort(np.concatenate([done, photos]))
        context.report(fold + 1, **judged(said.of(done), frame.labels[done], context.seed))
    chosen = fitter.predict(parts.search, parts.report, said)
    report = judged(said.of(parts.report), frame.labels[parts.report], context.seed)
    metrics = {
        **judged(said.of(parts.search), frame.labels[parts.search], context.seed),
        **{f"report/{name}": value for name, value in report.items()},
        "models": float(len(members)),
        "members": float(len(chosen.used)),
        "effective_members": chosen.effective,
        **_differences(members, chosen, parts, soups),
    }
    if generated is not None:
        metrics["bayes/top1"] = generated.best_accuracy
    _leave(context, members, chosen)
    left.write(
        context.artifact("logits/logits.npy").parent,
        Logits(said.ensemble.astype(np.float32), frame.keys, frame.labels, frame.classes),
    )
    _draw(context, members, chosen, parts, said)
    return metrics


def builtin(params: EnsembleParams) -> Generated:
    """The generated classifiers: strengths from 2 to 3, in steps, scores twice as sure as they should be."""
    strengths = tuple(float(s) for s in np.linspace(2.0, 3.0, params.classifiers))
    return Generated(strengths, params.correlation, 12, params.photos, overconfidence=2.0)


def gathered(generated: Generated) -> Members:
    """Generated classifiers as members; the same for all trials of a study."""
    return gather((name, logits, None) for name, logits in generated.draw(seed=0))


@dataclass(frozen=True)
class Said:
    """Log-probabilities of photos, each (photos, classes): of the ensemble, and of the single member that is best by
    top-1 and by log loss. Whatever chooses the ensemble, it is held against the strongest opponent of each kind."""

    ensemble: np.ndarray
    by_top1: np.ndarray
    by_log_loss: np.ndarray

    def of(self, photos: np.ndarray) -> Said:
        return Said(self.ensemble[photos], self.by_top1[photos], self.by_log_loss[photos])


class _Fitter:
    """Fits on some photos and predicts others, the ensemble and the best single members alike."""

    def __init__(self, members: Members, params: EnsembleParams, context: Context, soups: Soups | None) -> None:
        self._members, self._params, self._soups = members, params, soups
        self._seed, self._folder = context.seed, context.cache

    def predict(self, chosen_on: np.ndarray, photos: np.ndarray, said: Said) -> Recipe:
        """Fill in these photos' rows; returns what was chosen."""
        members, params = self._members, self._params
        found = recipe.fit(members, chosen_on, params, self._seed, self._folder, self._soups)
        said.ensemble[photos] = recipe.apply(members, found, photos, self._soups)
        for metric, rows in (("accuracy", said.by_top1), ("log_loss", said.by_log_loss)):
            rows[photos] = recipe.apply(members, recipe.single(members, chosen_on, params, metric), photos)
        return found


def judged(said: Said, labels: np.ndarray, seed: int) -> dict[str, float]:
    """The ensemble against the labels, and against the best single member by top-1 and by log loss."""
    hits, of_single = right(said.ensemble, labels), right(said.by_top1, labels)
    top1 = wilson(int(hits.sum()), len(hits))
    gain = bootstrap(hits.astype(int) - of_single.astype(int), seed)
    loss, single_loss = -own(said.ensemble, labels), -own(said.by_log_loss, labels)
    loss_gain = bootstrap(single_loss - loss, seed)
    return {
        "top1": float(hits.mean()), "top1_low": top1[0], "top1_high": top1[1],
        "log_loss": float(loss.mean()),
        "ece": reliability(said.ensemble, hits).error,
        "photos": float(len(hits)),
        "single/top1": float(of_single.mean()),
        "single/log_loss": float(single_loss.mean()),
        "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high,
        "log_loss_gain": loss_gain.mean, "log_loss_gain_low": loss_gain.low, "log_loss_gain_high": loss_gain.high,
        "mcnemar_p": mcnemar(int((hits & ~of_single).sum()), int((of_single & ~hits).sum())),
    }  # fmt: skip


def _differences(members: Members, chosen: Recipe, parts: Parts, soups: Soups | None) -> dict[str, float]:
    """How the members used differ, on the report part."""
    used = diversity(members.hits[np.ix_(chosen.used, parts.report)])
    bare = Recipe(chosen.pool, chosen.weights, chosen.temperatures)
    labels = members.frame.labels[parts.report]
    together = -own(recipe.apply(members, bare, parts.report, soups), labels).mean()
    alone = 0.0
    for m in chosen.used:
        log_p = members.all[m].log_probabilities(parts.report, float(chosen.temperatures[m]))
        alone += float(chosen.weights[m] * -own(log_p, labels).mean())
    return {
        "diversity/disagreement": used.disagreement,
        "diversity/double_fault": used.double_fault,
        "diversity/q_statistic": used.q_statistic,
        "diversity/ambiguity": float(alone - together),
    }


def _leave(context: Context, members: Members, chosen: Recipe) -> None:
    """weights.csv for people, ensemble.json for programs: trial → weight."""
    rows = [(members.all[m].name, float(chosen.weights[m]), float(chosen.temperatures[m])) for m in chosen.used]
    with context.artifact("weights.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("trial", "weight", "temperature"), *rows])
    about = {
        "pool": chosen.pool,
        "temperature": chosen.final,
        "weights": {name: weight for name, weight, _ in rows},
        "temperatures": {name: temperature for name, _, temperature in rows},
    }
    context.artifact("ensemble.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def _soups(params: EnsembleParams, members: Members, context: Context) -> Soups | None:
    if params.method not in ("soup", "greedy_soup"):
        return None
    from tasks.ensemble.soup import SoupsOfPhotos

    data: Path | None = context.data
    return SoupsOfPhotos(members, data)


def _draw(context: Context, members: Members, chosen: Recipe, parts: Parts, said: Said) -> None:
    labels, reported = members.frame.labels[parts.report], said.of(parts.report)
    curves = {
        name: reliability(log_p, right(log_p, labels))
        for name, log_p in (("ensemble", reported.ensemble), ("member of least log loss", reported.by_log_loss))
    }
    context.figure("reliability", reliability_figure(curves))
    shown = chosen.used[:_SHOWN]
    pairs = diversity(members.hits[np.ix_(shown, parts.report)]).pairs
    context.figure("disagreement", disagreement_figure(pairs, [members.all[m].name for m in shown]))
    if chosen.pool != "soup":
        context.figure("members", members_figure(*_by_size(members, chosen, parts)))


def _by_size(members: Members, chosen: Recipe, parts: Parts) -> tuple[list[int], list[float], list[float]]:
    """Top-1 of the heaviest k members with their weights: k, on the photos that chose them, on the report part."""
    sizes = sorted({int(k) for k in np.unique(np.geomspace(1, len(chosen.used), 12).round())})
    on: tuple[list[float], list[float]] = ([], [])
    for k in sizes:
        weights = np.zeros_like(chosen.weights)
        weights[chosen.used[:k]] = chosen.weights[chosen.used[:k]]
        some = Recipe(chosen.pool, weights / weights.sum(), chosen.temperatures)
        for values, photos in zip(on, (parts.search, parts.report), strict=True):
            hits = right(recipe.apply(members, some, photos), members.frame.labels[photos])
            values.append(float(hits.mean()))
    return sizes, *on
