"""What to try next, and which parameters mattered. Knows nothing of Ray: a searcher is asked for a trial's parameters
and told how it ended.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna

from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.plan import Plan, PlannedTrial, derive_seed, finite_value, metric_of
from orchestrator.studies.study import dimension_of
from tasks.api import Choice, Dimension, Goal, IntRange, LogUniform

optuna.logging.set_verbosity(optuna.logging.WARNING)
LEAST_JUDGED = 10  # trials; what fewer say of a parameter is chance
_TOP_TRIALS = 5  # as many, at least, as PED-ANOVA asks for among the best


class Searcher(Protocol):
    def ask(self, trial: PlannedTrial) -> dict[str, Any]:
        """The searched parameters of this trial."""

    def tell(self, trial: TrialRecord) -> None:
        """How a trial that was asked for stands now."""

    def rebuild(self, record: Record) -> None:
        """Come to the state that a search with these trials has: later proposals are those of one never interrupted."""


class PlannedSearcher:
    """Random and grid: the plan holds the parameters already."""

    def ask(self, trial: PlannedTrial) -> dict[str, Any]:
        assert trial.params is not None
        return trial.params

    def tell(self, trial: TrialRecord) -> None:
        pass

    def rebuild(self, record: Record) -> None:
        pass


class TpeSearcher:
    """Optuna's tree-structured Parzen estimator, multivariate, with a constant liar for the trials under way.

    A proposal is a function of the trials before it, of how they stand, and of the trial's own seed: Optuna is asked
    anew each time and keeps nothing. So the search of a resumed study goes on as if it had never stopped.
    """

    def __init__(self, space: Mapping[str, Dimension], metric: str, goal: Goal) -> None:
        self._space, self._metric = space, metric
        directions = optuna.study.StudyDirection
        self.direction = directions.MAXIMIZE if goal is Goal.MAX else directions.MINIMIZE
        self._trials: dict[str, optuna.trial.FrozenTrial] = {}

    def ask(self, trial: PlannedTrial) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group, constant_liar
            sampler = optuna.samplers.TPESampler(
                seed=derive_seed(trial.seed, "tpe"), multivariate=True, group=True, constant_liar=True
            )
        study = optuna.create_study(direction=self.direction, sampler=sampler)
        study.add_trials(self._trials.values())
        asked = study.ask()
        chosen: dict[str, Any] = {}
        for name, dimension in self._space.items():
            if dimension.active(chosen):
                chosen[name] = _suggest(asked, name, dimension)
        self._trials[trial.id] = self.frozen(chosen, optuna.trial.TrialState.RUNNING)
        return chosen

    def tell(self, trial: TrialRecord) -> None:
        states = optuna.trial.TrialState
        if trial.is_open:
            self._trials[trial.id] = self.frozen(trial.chosen, states.RUNNING)
        elif trial.state is State.FINISHED:
            value = trial.value(self._metric)
            self._trials[trial.id] = self.frozen(trial.chosen, states.COMPLETE, value=value)
        elif trial.state is State.PRUNED and len(trial.curve):
            reports = dict(zip(trial.curve.steps, trial.curve.values, strict=True))
            last = {"value": trial.curve.values[-1], "intermediate_values": reports}
            self._trials[trial.id] = self.frozen(trial.chosen, states.PRUNED, **last)
        else:
            self._trials[trial.id] = self.frozen(trial.chosen, states.FAIL)

    def rebuild(self, record: Record) -> None:
        for trial in record.trials.values():
            if trial.of is None:
                self.tell(trial)

    def frozen(self, chosen: Mapping[str, Any], state: Any, **results: Any) -> optuna.trial.FrozenTrial:
        """A trial with these parameters as Optuna has it."""
        params, distributions = {}, {}
        for name, value in chosen.items():
            dimension = self._space[name]
            params[name] = dimension.options.index(value) if isinstance(dimension, Choice) else value
            distributions[name] = _distribution(dimension)
        return optuna.trial.create_trial(state=state, params=params, distributions=distributions, **results)


def make_searcher(plan: Plan) -> Searcher:
    search = plan.study.search
    if all(trial.params is not None for trial in plan.trials):
        return PlannedSearcher()
    return TpeSearcher(search.space, search.metric, search.goal)


@dataclass(frozen=True)
class Importance:
    """How much each searched parameter decides whether a trial is among the best ``top``; shares of 1, largest first.

    Judged by the metric of so many ``trials``, at the ``step`` that all of them have reached; None: by their last.
    """

    shares: dict[str, float]
    trials: int
    top: int
    step: int | None


def importance(record: Record) -> Importance | None:
    """PED-ANOVA (Watanabe et al. 2023, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces), as Optuna has it, of a search's finished and pruned trials. None when fewer than `LEAST_JUDGED` of them
    have a value, and for fewer than two parameters.

    It compares the density of each parameter among the best tenth (five trials or more) with that among all.
    """
    metric, goal = metric_of(record)
    space = {name: dimension_of(name, plain) for name, plain in record.study["search"]["space"].items()}
    searched = [t for t in record.trials.values() if t.of is None and t.state in (State.FINISHED, State.PRUNED)]
    step = _common_step(searched)
    values = {t.id: value for t in searched if (value := _value_at(t, metric, step)) is not None}
    if len(values) < LEAST_JUDGED or len(space) < 2:
        return None
    searcher = TpeSearcher(space, metric, goal)
    study = optuna.create_study(direction=searcher.direction)
    complete = optuna.trial.TrialState.COMPLETE
    study.add_trials(searcher.frozen(record.trials[id].chosen, complete, value=v) for id, v in values.items())
    top = max(_TOP_TRIALS, math.ceil(len(values) / 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a condition that few trials meet
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top / len(values))
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return Importance({name: float(share) for name, share in found.items()}, len(values), top, step)


def _common_step(trials: Sequence[TrialRecord]) -> int | None:
    """Up to where all can be compared when some were cut short or, later, took over others' parameters."""
    cut = [t.curve.steps[-1] for t in trials if t.state is State.PRUNED and t.curve]
    cut += [t.mutations[0].step for t in trials if t.mutations]
    return min(cut, default=None)


def _value_at(trial: TrialRecord, metric: str, step: int | None) -> float | None:
    """The metric at the first report from a step on; None where it is not finite."""
    if step is None:
        return finite_value(trial, metric)
    index = bisect_left(trial.curve.steps, step)
    if index == len(trial.curve) or not math.isfinite(trial.curve.values[index]):
        return None
    return trial.curve.values[index]


def _suggest(asked: optuna.trial.Trial, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return dimension.options[asked.suggest_categorical(name, range(len(dimension.options)))]
    if isinstance(dimension, IntRange):
        return asked.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
    return asked.suggest_float(name, dimension.low, dimension.high, log=isinstance(dimension, LogUniform))


def _distribution(dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        # Optuna's categories are plain scalars; an index admits lists and mappings as options too.
        return optuna.distributions.CategoricalDistribution(range(len(dimension.options)))
    if isinstance(dimension, IntRange):
        return optuna.distributions.IntDistribution(dimension.low, dimension.high, log=dimension.log)
    low, high = dimension.low, dimension.high
    return optuna.distributions.FloatDistribution(low, high, log=isinstance(dimension, LogUniform))
