"""Runs a plan's trials under Ray Tune: the only importer of ``ray``.

Tune places trials, reuses their processes and asks the scheduler; everything that happens reaches the journal through
one callback in the driver. Tune's own loggers, checkpoints and experiment state are off: the journal replaces them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentProblem
from orchestrator.folder import StudyFolder
from orchestrator.journal import Journal, Record, TrialEnded, TrialStarted, from_plain
from orchestrator.plan import Node, Plan
from orchestrator.search import Searcher, make_searcher
from orchestrator.states import State
from orchestrator.study import Scheduler, SchedulerKind
from orchestrator.worker import TrialSpec, run_trial
from tasks.api import Goal

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean in the user's shell
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver's own handler stops the study in order
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failing trial ends without the metric
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1000",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402 - Ray reads the settings above when it is imported
from ray import tune  # noqa: E402
from ray.tune import schedulers, search, stopper  # noqa: E402
from ray.tune.experiment import Trial  # noqa: E402

_STOP_PATIENCE_SECONDS = 2.0


@contextlib.contextmanager
def cluster() -> Iterator[list[Node]]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one on this machine and end it after. Yields its nodes."""
    address = os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        _check_answers(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    local = {"num_cpus": os.cpu_count(), "include_dashboard": False}
    try:
        ray.init(**quiet, **({"address": address} if address else local))
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise EnvironmentProblem(
            f"no Ray cluster at {address or 'this machine'}: {error}",
            "check RAY_ADDRESS, or unset it to run on this machine",
        ) from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        yield [
            Node(node["NodeName"], node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))
            for node in ray.nodes()
            if node["Alive"]
        ]
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise `EnvironmentProblem` when nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}",
            "give host:port of a running head (ray start --head prints it), or unset RAY_ADDRESS to run here",
        ) from error


def run_trials(
    plan: Plan,
    folder: StudyFolder,
    cache: Path,
    journal: Journal,
    record: Record,
    stop: threading.Event,
    on_change: Callable[[], None],
) -> None:
    """Run every trial of the plan; return when all have ended or, soon after, when ``stop`` is set.

    Each event goes to the journal and into ``record``; ``on_change`` is called often, from this thread. Trials that a
    stop cuts off are left open.
    """
    searcher = make_searcher(plan)
    driver = _Driver(plan, journal, record, searcher, on_change)
    search_alg = _TuneSearcher(plan, folder, cache, searcher, stop)
    need = plan.study.resources
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(_trainable, {"cpu": need.cpus, "gpu": need.gpus}),
            tune_config=tune.TuneConfig(
                num_samples=len(plan.trials),
                search_alg=search_alg,
                scheduler=make_scheduler(plan.study.search.scheduler, plan.study.search.metric, plan.study.search.goal),
                reuse_actors=True,
                trial_name_creator=_id_of,
                trial_dirname_creator=_id_of,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="tune",
                verbose=0,
                callbacks=[driver],
                stop=_StopAll(stop, driver.kill_soon),
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        # As many trials are asked for ahead as run at once: Tune's default of one starves wide searches.
        with _environment(TUNE_MAX_PENDING_TRIALS_PG=str(plan.concurrent)), _quiet_tune():
            try:
                tuner.fit()
            finally:
                driver.close()


def make_scheduler(scheduler: Scheduler, metric: str, goal: Goal) -> schedulers.TrialScheduler:
    """Tune's scheduler. ASHA's rungs go on without end: how long a trial runs is the task's to say."""
    if scheduler.kind is SchedulerKind.NONE:
        return schedulers.FIFOScheduler()
    return schedulers.ASHAScheduler(
        time_attr="step",
        metric=metric,
        mode=goal.value,
        grace_period=scheduler.grace,
        reduction_factor=scheduler.reduction,
        max_t=1_000_000_000,
    )


def _trainable(config: dict[str, Any]) -> None:
    """A trial in its worker process. One Tune report a message: the events, and what schedulers look at."""
    spec: TrialSpec = config["spec"]

    def send(events: list[Any]) -> None:
        last = events[-1]
        metrics = {name: last.metrics[name] for name in (spec.metric,) if name in last.metrics}
        message = {"events": [{"kind": e.kind, **vars(e)} for e in events], **metrics}
        if isinstance(last, TrialEnded):
            message["done"] = True
            if last.state is not State.FINISHED:
                message.pop(spec.metric, None)  # what failed must not enter a rung
        else:
            message["step"] = last.step
            if metrics and not _finite(metrics[spec.metric]):
                message.pop(spec.metric)  # comparisons with NaN are False: it would pass every rung
        tune.report(message)

    run_trial(spec, send)


def _finite(value: float) -> bool:
    return value - value == 0


def _id_of(trial: Trial) -> str:
    return trial.config["spec"].id


class _NotSaved:
    """Tune pickles its settings for a restore of its own, which the journal replaces: nothing of these is kept."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class _StopAll(_NotSaved, stopper.Stopper):
    """Ends the whole search once the event is set; says so once."""

    def __init__(self, event: threading.Event, on_stop: Callable[[], None]) -> None:
        self._event, self._on_stop, self._said = event, on_stop, False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._event.is_set() and not self._said:
            self._said = True
            self._on_stop()
        return self._event.is_set()


class _TuneSearcher(_NotSaved, search.Searcher):
    """Hands the plan's trials to Tune in order, never more than run at once."""

    def __init__(self, plan: Plan, folder: StudyFolder, cache: Path, searcher: Searcher, stop: threading.Event) -> None:
        super().__init__(metric=plan.study.search.metric, mode=plan.study.search.goal.value)
        self._plan, self._folder, self._cache = plan, folder, cache
        self._searcher, self._stop = searcher, stop
        self._waiting = list(reversed(plan.trials))
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        if not self._waiting or self._stop.is_set():
            return search.Searcher.FINISHED
        if len(self._live) >= self._plan.concurrent:
            return None
        trial = self._waiting.pop()
        self._live.add(trial_id)
        study, chosen = self._plan.study, self._searcher.ask(trial)
        spec = TrialSpec(
            id=trial.id,
            task=study.task,
            seed=trial.seed,
            params=study.params_of(chosen).model_dump(mode="json"),
            metric=study.search.metric,
            data=study.data,
            cache=self._cache,
            folder=self._folder.trial(trial.id).root,
            gpus=study.resources.gpus,
        )
        return {"spec": spec, "searched": tuple(chosen)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a search is rebuilt from the journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Driver(_NotSaved, tune.Callback):
    """Turns what Tune tells into journal lines; the journal's only writer while trials run."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        record: Record,
        searcher: Searcher,
        on_change: Callable[[], None],
    ) -> None:
        self._plan, self._journal, self._record = plan, journal, record
        self._searcher, self._on_change = searcher, on_change
        self._killer: threading.Timer | None = None
        self._actors: set[Any] = set()  # workers that have run trials; reused ones are there once

    def write(self, event: Any) -> None:
        self._journal.append(event)
        self._record.apply(event)

    def kill_soon(self) -> None:
        """On the way to a stop: workers that do not reach their next report soon are killed; Tune waits longer."""
        self._killer = threading.Timer(_STOP_PATIENCE_SECONDS, _kill, [list(self._actors)])
        self._killer.daemon = True
        self._killer.start()

    def close(self) -> None:
        """After this nothing is killed any more: a call to Ray when it is down would start it anew."""
        if self._killer is not None:
            self._killer.cancel()
            self._killer.join()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        spec = trial.config["spec"]
        if trial.temporary_state.ray_actor is not None:
            self._actors.add(trial.temporary_state.ray_actor)
        self.write(TrialStarted(spec.id, spec.seed, spec.params, trial.config["searched"]))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        for event in result.get("events", ()):
            self.write(from_plain(event))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial that has not said how it ended was stopped by the scheduler."""
        record = self._record.trials[trial.config["spec"].id]
        if not record.state.is_over:
            reason = f"{self._plan.study.search.scheduler.kind} stopped it at step {record.steps}"
            self.write(TrialEnded(record.id, State.PRUNED, reason, record.metrics))
        self._searcher.tell(record)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The worker process could not start or died: Tune has the reason, the trial itself could not say it."""
        id = trial.config["spec"].id
        if id not in self._record.trials:
            self.on_trial_start(iteration, trials, trial)
        record = self._record.trials[id]
        if not record.state.is_over:
            trace = _worker_error(trial)
            self.write(TrialEnded(id, State.FAILED, f"its worker died: {_essence(trace)}", traceback=trace))
        self._searcher.tell(record)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._on_change()


def _kill(actors: list[Any]) -> None:
    for actor in actors:
        ray.kill(actor)


def _worker_error(trial: Trial) -> str:
    """What Tune wrote down of a worker's end, without its own heading."""
    if not trial.error_file:
        return "Ray gave no reason"
    return "".join(Path(trial.error_file).read_text(encoding="utf-8").partition("\n")[2:]).strip()


def _essence(trace: str) -> str:
    """One line: the exception of a traceback, or the first line of a message."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return lines[-1] if "Traceback" in trace else lines[0]


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet_tune() -> Iterator[None]:
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
