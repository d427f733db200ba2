"""What to try next. Knows nothing of Ray: a searcher is asked for a trial's parameters and told how it ended."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import optuna

from orchestrator.journal import TrialRecord
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.states import State
from tasks.api import Choice, Dimension, Goal, IntRange, LogUniform

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Searcher(Protocol):
    def ask(self, trial: PlannedTrial) -> dict[str, Any]:
        """The searched parameters of this trial."""

    def tell(self, record: TrialRecord) -> None:
        """How a trial that was asked for ended."""


class PlannedSearcher:
    """Random and grid: the plan holds the parameters already."""

    def ask(self, trial: PlannedTrial) -> dict[str, Any]:
        assert trial.params is not None
        return trial.params

    def tell(self, record: TrialRecord) -> None:
        pass


class TpeSearcher:
    """Optuna's tree-structured Parzen estimator, multivariate, with a constant liar for the trials under way."""

    def __init__(self, space: Mapping[str, Dimension], metric: str, goal: Goal, seed: int) -> None:
        self._space, self._metric = space, metric
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group, constant_liar
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
        self._study = optuna.create_study(sampler=sampler, direction="maximize" if goal is Goal.MAX else "minimize")
        self._asked: dict[str, optuna.trial.Trial] = {}

    def ask(self, trial: PlannedTrial) -> dict[str, Any]:
        asked = self._study.ask()
        self._asked[trial.id] = asked
        chosen: dict[str, Any] = {}
        for name, dimension in self._space.items():
            if dimension.active(chosen):
                chosen[name] = _suggest(asked, name, dimension)
        return chosen

    def tell(self, record: TrialRecord) -> None:
        asked = self._asked.pop(record.id)
        if record.state is State.FINISHED:
            self._study.tell(asked, record.value(self._metric))
        elif record.state is State.PRUNED:
            for report in record.reports:
                if self._metric in report.metrics:
                    asked.report(report.metrics[self._metric], report.step)
            self._study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)


def make_searcher(plan: Plan) -> Searcher:
    search = plan.study.search
    if all(trial.params is not None for trial in plan.trials):
        return PlannedSearcher()
    return TpeSearcher(search.space, search.metric, search.goal, plan.study.seed)


def _suggest(asked: optuna.trial.Trial, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        # Optuna's categories are plain scalars; an index admits lists and mappings as options too.
        return dimension.options[asked.suggest_categorical(name, range(len(dimension.options)))]
    if isinstance(dimension, IntRange):
        return asked.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
    return asked.suggest_float(name, dimension.low, dimension.high, log=isinstance(dimension, LogUniform))
