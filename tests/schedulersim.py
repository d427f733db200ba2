"""A study in memory, whose trials wait for each other: what hyperband and population-based training are tested on."""

from __future__ import annotations

import random

from orchestrator.history.events import (
    Cause,
    Mutated,
    Reported,
    Saved,
    StudyStarted,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialStarted,
)
from orchestrator.history.record import Record
from orchestrator.history.states import State
from orchestrator.studies.plan import sample, trial_id
from orchestrator.tuning.schedulers import Mutate, Pbt, Prune
from tasks.api import Choice, Goal, IntRange, LogUniform, Uniform


class Sim:
    """A study in memory: each trial reports ``value(trial index, step)`` at every step and ends at ``last``."""

    def __init__(self, scheduler, trials, value, last=81, saves=True, every=1, params=None):
        self.scheduler, self.trials, self.value, self.last = scheduler, trials, value, last
        self.saves, self.every = saves, every
        self.record = Record()
        self.record.apply(StudyStarted("u", {"search": {"metric": "loss"}}, trials))
        for i in range(trials):
            chosen = params(i) if params else {}
            self.record.apply(TrialStarted(trial_id(i), i, chosen, tuple(chosen)))

    def advance(self, id):
        """Run a trial to where it waits or ends."""
        trial = self.record.trials[id]
        if trial.cause:
            self.record.apply(TrialContinued(id, trial.attempt + 1))
        pause_at = self.scheduler.pause_at(trial)
        assert pause_at is None or pause_at > trial.steps
        while trial.steps < self.last:
            step = trial.steps + self.every
            self.record.apply(Reported(id, step, {"loss": self.value(int(id[1:]), step)}))
            if self.saves:
                self.record.apply(Saved(id, step))
            if pause_at is not None and step >= pause_at:
                self.record.apply(TrialInterrupted(id, Cause.PAUSED, ""))
                return
        self.record.apply(TrialEnded(id, State.FINISHED, metrics=trial.last))

    def apply(self, move):
        if isinstance(move, Prune):
            self.record.apply(TrialEnded(move.trial, State.PRUNED, move.reason))
        elif isinstance(move, Mutate):
            step = self.record.trials[move.trial].steps
            self.record.apply(Mutated(move.trial, step, move.parent, move.params))

    def run(self, seed=0, concurrent=4):
        """To the end, in an order drawn from the seed, with a new scheduler's answer compared at each call."""
        rng = random.Random(seed)
        ready, taken = list(self.record.trials), []
        while ready:
            id = ready.pop(rng.randrange(min(concurrent, len(ready))))
            self.advance(id)
            moves = self.scheduler.moves(self.record)
            assert moves == self.scheduler.moves(self.record)
            for move in moves:
                if move.trial not in ready:
                    taken.append(move)
                    self.apply(move)
                    ready += [] if isinstance(move, Prune) else [move.trial]
        assert all(trial.state.is_over for trial in self.record.trials.values())
        return taken


def shuffled(record, seed=1):
    ids = list(record.trials)
    random.Random(seed).shuffle(ids)
    other = Record(**{**vars(record), "trials": {id: record.trials[id] for id in ids}})
    assert list(other.trials) != list(record.trials)
    return other


def end(record, id, state):
    record.apply(TrialEnded(id, state, "", record.trials[id].last))


SPACE = {
    "head": Choice("linear", "glu", "mlp"),
    "lr": LogUniform(1e-4, 1e-1),
    "drop": Uniform(-1, 1),
    "width": IntRange(1, 64, log=True, when={"head": "glu"}),
    "depth": IntRange(-3, 3, when={"head": "mlp"}),
    "gate": Uniform(0, 1, when={"head": "glu", "width": 8}),
}
DEFAULTS = {"head": "linear", "lr": 1e-2, "drop": 0.0, "width": 8, "depth": 0, "gate": 0.5, "epochs": 5}


def pbt(trials, goal=Goal.MIN, interval=2, quantile=0.25, resample=0.25, seed=0):
    return Pbt(goal, interval, quantile, resample, SPACE, seed, trials)


def params_of(i):
    return DEFAULTS | sample(SPACE, 3, trial_id(i))
