"""Runs a plan's trials under Ray Tune.

Tune places attempts and reuses their processes; what they say goes to the `Driver`, which decides and journals. Tune's
own loggers, checkpoints and experiment state are off: the journal replaces them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import registry
from orchestrator.cluster import Sharing, others_hold  # before Ray: it settles how Ray behaves
from orchestrator.folder import TrialFolder
from orchestrator.pool import Pool
from orchestrator.ranks import Ranks
from orchestrator.worker import Attempt, TrialSpec, peak_bytes
from tasks.api import Resources

if TYPE_CHECKING:
    from orchestrator.driver import Driver  # workers import this module and need no driver

import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import schedulers, search, stopper
from ray.tune.experiment import Trial

_COLOURS = re.compile(r"\x1b\[\d+m")
_STOP_PATIENCE_SECONDS = 2.0
_HEARTBEAT_SECONDS = 1.0
_COORDINATOR_BYTES = 200e6  # of a trial whose work is in maps


def run_trials(driver: Driver, on_change: Callable[[], None]) -> None:
    """Run what the driver has until nothing is left or, soon after, it is told to stop.

    ``on_change`` is called often, from this thread.
    """
    places = _Places(driver)

    def changed() -> None:
        places.tell()
        on_change()

    places.tell()
    with _environment(TUNE_MAX_PENDING_TRIALS_PG=str(driver.plan.concurrent)), _quiet_tune(), closing(places):
        while not driver.finished:
            if places.may_begin():
                _fit(driver, places, changed)
            else:  # every place was given to others: their turn
                driver.tick()
                changed()
                time.sleep(0.1)


def _fit(driver: Driver, places: _Places, on_change: Callable[[], None]) -> None:
    need, maps = driver.plan.study.resources, registry.task(driver.plan.study.task).maps
    placing = _Placing(driver, on_change)
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(_Trainable, lambda config: _places(need, maps, config["avoid"])),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=_Attempts(_TuneSearcher(driver, places), driver, places),
                scheduler=_TuneScheduler(driver),
                reuse_actors=need.processes == 1,  # a process belongs to one group of ranks only
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="tune",
                verbose=0,
                callbacks=[placing],
                stop=_StopAll(driver.stop, placing.kill_soon),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        finally:
            placing.close()


class _Places:
    """The places on the cluster that the study's trials hold, and those that others have before it."""

    def __init__(self, driver: Driver) -> None:
        self._driver, study = driver, driver.plan.study
        self._sharing = Sharing(study.priority)
        maps = registry.task(study.task).maps  # such a trial is always placed; what its items hold, its `Pool` shares
        need = study.resources
        self._need = {} if maps else {"CPU": need.cpus * need.processes, "GPU": need.gpus * need.processes}

    def tell(self) -> None:
        """To be called often: what others know of this study."""
        _, working, wants_more = self._driver.load
        works = {resource: working * n for resource, n in self._need.items()}
        self._sharing.tell(self._need if self._need and wants_more else None, works=works)

    def may_begin(self) -> bool:
        """Whether it is this study's turn to begin one more attempt, and there is a place for it."""
        return self._sharing.may_begin(self._need, self._driver.load[0])

    def close(self) -> None:
        self._sharing.close()


class _Trainable(tune.Trainable):
    """An attempt in its worker process, as Tune sees it: one result a message, each a batch of events.

    A message leaves at least once in `_HEARTBEAT_SECONDS`, so that a trial can be stopped between two of its reports.
    """

    _attempt: Attempt | None = None
    _ranks: Ranks | None = None  # of a trial of several processes: the others

    def setup(self, config: dict[str, Any]) -> None:
        spec: TrialSpec = config["spec"]
        pool = Pool(Resources(spec.cpus, spec.gpus), TrialFolder(spec.folder).log, spec.priority)
        self._attempt = Attempt(spec, ray.get_runtime_context().get_node_id(), pool)
        self._ranks = Ranks(spec) if spec.processes > 1 else None

    def step(self) -> dict[str, Any]:
        assert self._attempt is not None
        events = self._attempt.next(_HEARTBEAT_SECONDS)
        if self._ranks is not None:
            events = self._ranks.heard(events)
        return {"events": events, "attempt": self._attempt.spec.attempt, "peak": peak_bytes()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        assert self._attempt is not None
        ended = self._attempt.stop(_STOP_PATIENCE_SECONDS)
        if ended:
            self.setup(new_config)
        return ended

    def cleanup(self) -> None:
        if self._ranks is not None:
            self._ranks.stop()
        if self._attempt is not None:
            self._attempt.stop(0.0)


def _places(need: Resources, maps: bool, avoid: str | None) -> tune.PlacementGroupFactory:
    """What an attempt needs, and the node where it should not go: a worker is reused if both are the same.

    A trial that maps leaves the processors to its items, or they would wait for what it holds itself.
    """
    selector = [{"ray.io/node-id": f"!{avoid}"}] * need.processes if avoid else None
    bundle = {"memory": _COORDINATOR_BYTES} if maps else {"CPU": need.cpus, **({"GPU": need.gpus} if need.gpus else {})}
    strategy = need.placement.upper()
    return tune.PlacementGroupFactory([bundle] * need.processes, strategy=strategy, bundle_label_selector=selector)


def _name_of(trial: Trial) -> str:
    spec = trial.config["spec"]
    return f"{spec.id}-{spec.attempt}"


def _out_of_memory_is_a_death_too(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
    """Ray's memory monitor kills a worker with an error that Tune 2.60 takes for a bug of its own, and ends with it."""
    if isinstance(exception, OutOfMemoryError):
        exception = RayActorError(error_msg=str(exception))
    _task_failed(self, tracked_actor_task=tracked_actor_task, exception=exception)


_task_failed = RayActorManager._actor_task_failed
RayActorManager._actor_task_failed = _out_of_memory_is_a_death_too  # type: ignore[method-assign]


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
    """Hands the driver's attempts to Tune, each as a trial of its own."""

    def __init__(self, driver: Driver, places: _Places) -> None:
        super().__init__()
        self._driver, self._places = driver, places
        self._of: dict[str, str] = {}  # Tune's id of an attempt → the trial's id

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        spec = self._driver.next() if self._driver.has_room and self._places.may_begin() else None
        if spec is None:
            return None
        self._of[trial_id] = spec.id
        avoid = spec.avoid if spec.avoid and others_hold(spec.avoid, self._driver.plan.study.resources) else None
        return {"spec": spec, "avoid": avoid}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._driver.gone(self._of.pop(trial_id))

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a search is rebuilt from the journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Attempts(_NotSaved, search.SearchGenerator):
    """Tells Tune that there is nothing more to run also while this study gives way: it then drops idle workers."""

    def __init__(self, searcher: _TuneSearcher, driver: Driver, places: _Places) -> None:
        super().__init__(searcher)
        self._driver, self._places = driver, places

    def is_finished(self) -> bool:
        return self._driver.finished or (self._driver.has_room and not self._places.may_begin())

    def save_to_dir(self, dirpath: str, session_str: str = "", **kwargs: Any) -> None:
        """Nothing to save."""


class _TuneScheduler(_NotSaved, schedulers.FIFOScheduler):
    """Hands what workers say to the driver, which says whether the attempt goes on."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        goes_on = self._driver.heard(trial.config["spec"].id, result["attempt"], result["events"])
        return schedulers.TrialScheduler.CONTINUE if goes_on else schedulers.TrialScheduler.STOP


class _Placing(_NotSaved, tune.Callback):
    """Knows which worker holds which trial, and tells the driver when one has died."""

    def __init__(self, driver: Driver, on_change: Callable[[], None]) -> None:
        self._driver, self._on_change = driver, on_change
        self._killer: threading.Timer | None = None
        self._workers: dict[str, Any] = {}  # trial → the actor that ran it last
        self._peaks: dict[str, int] = {}
        self._began: set[tuple[str, int]] = set()
        driver.kill = self._kill

    def kill_soon(self) -> None:
        """On the way to a stop: workers that do not end soon are killed; Tune waits longer."""
        self._killer = threading.Timer(_STOP_PATIENCE_SECONDS, self._kill_all)
        self._killer.daemon = True
        self._killer.start()

    def close(self) -> None:
        """After this nothing is killed any more: a call to Ray when it is down would start it anew."""
        self._driver.kill = lambda trial: None
        if self._killer is not None:
            self._killer.cancel()
            self._killer.join()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        spec = trial.config["spec"]
        self._began.add((spec.id, spec.attempt))
        if trial.temporary_state.ray_actor is not None:
            self._workers[spec.id] = trial.temporary_state.ray_actor

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._peaks[trial.config["spec"].id] = result["peak"]

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        spec = trial.config["spec"]
        began, peak = (spec.id, spec.attempt) in self._began, self._peaks.pop(spec.id, 0)
        self._driver.died(spec.id, spec.attempt, _worker_error(trial), peak, began)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._driver.tick()
        self._on_change()

    def _kill_all(self) -> None:
        for trial in list(self._workers):
            self._kill(trial)

    def _kill(self, trial: str) -> None:
        if trial in self._workers:
            ray.kill(self._workers[trial])


def _worker_error(trial: Trial) -> str:
    """What Tune wrote down of a worker's end, without its own heading."""
    if not trial.error_file:
        return "Ray gave no reason"
    words = "".join(Path(trial.error_file).read_text(encoding="utf-8").partition("\n")[2:]).strip()
    return _COLOURS.sub("", words)


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
