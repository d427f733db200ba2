"""What to try next. Knows nothing of Ray: a searcher is asked for a trial's parameters and told how it ended."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import optuna

from orchestrator.plan import Plan, PlannedTrial, derive_seed
from orchestrator.record import Record, TrialRecord
from orchestrator.states import State
from tasks.api import Choice, Dimension, Goal, IntRange, LogUniform

optuna.logging.set_verbosity(optuna.logging.WARNING)


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
        self._direction = directions.MAXIMIZE if goal is Goal.MAX else directions.MINIMIZE
        self._trials: dict[str, optuna.trial.FrozenTrial] = {}

    def ask(self, trial: PlannedTrial) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group, constant_liar
            sampler = optuna.samplers.TPESampler(
                seed=derive_seed(trial.seed, "tpe"), multivariate=True, group=True, constant_liar=True
            )
        study = optuna.create_study(direction=self._direction, sampler=sampler)
        study.add_trials(self._trials.values())
        asked = study.ask()
        chosen: dict[str, Any] = {}
        for name, dimension in self._space.items():
            if dimension.active(chosen):
                chosen[name] = _suggest(asked, name, dimension)
        self._trials[trial.id] = self._frozen(chosen, optuna.trial.TrialState.RUNNING)
        return chosen

    def tell(self, trial: TrialRecord) -> None:
        states = optuna.trial.TrialState
        if trial.is_open:
            self._trials[trial.id] = self._frozen(trial.chosen, states.RUNNING)
        elif trial.state is State.FINISHED:
            value = trial.value(self._metric)
            self._trials[trial.id] = self._frozen(trial.chosen, states.COMPLETE, value=value)
        elif trial.state is State.PRUNED and len(trial.curve):
            reports = dict(zip(trial.curve.steps, trial.curve.values, strict=True))
            last = {"value": trial.curve.values[-1], "intermediate_values": reports}
            self._trials[trial.id] = self._frozen(trial.chosen, states.PRUNED, **last)
        else:
            self._trials[trial.id] = self._frozen(trial.chosen, states.FAIL)

    def rebuild(self, record: Record) -> None:
        for trial in record.trials.values():
            if trial.of is None:
                self.tell(trial)

    def _frozen(self, chosen: Mapping[str, Any], state: Any, **results: Any) -> optuna.trial.FrozenTrial:
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
