"""Runs a plan's trials under Ray Tune.

Tune places attempts and reuses their processes; what they say goes to the `Driver`, which decides and journals. Tune's
own loggers, checkpoints and experiment state are off: the journal replaces them.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.history.folder import TrialFolder
from orchestrator.machines.cluster import (
    Sharing,
    draining,
    nodes,
    others_hold,
)
from orchestrator.studies import registry
from orchestrator.studies.plan import capacity
from orchestrator.trial.memory import peak_bytes
from orchestrator.trial.pool import Pool
from orchestrator.trial.ranks import Ranks
from orchestrator.trial.spec import TrialSpec
from orchestrator.trial.worker import Attempt
from tasks.api import Resources

if TYPE_CHECKING:
    from orchestrator.running.driver import Driver  # workers import this module and need no driver

import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import schedulers, search, stopper
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

# Tune hands these on to its workers, and Ray's agent on each node writes down in its log what it was handed.
class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
_COLOURS = re.compile(r"\x1b\[\d+m")
_STOP_PATIENCE_SECONDS = 2.0
_HEARTBEAT_SECONDS = 1.0
_LOOK_SECONDS = 2.0  # between two looks at the nodes
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
    with _quiet_tune(), closing(places):
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
                scheduler=_TuneScheduler(driver, placing),
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
        spec: TrialSpec = config["spec"].here()
        pool = Pool(Resources(spec.cpus, spec.gpus), TrialFolder(spec.folder).log, spec.priority)
        self._attempt = Attempt(spec, ray.get_runtime_context().get_node_id(), pool)
        self._ranks = Ranks(config["spec"]) if spec.processes > 1 else None

    def step(self) -> dict[str, Any]:
        assert self._attempt is not None
        events = self._attempt.next(_HEARTBEAT_SECONDS)
        if self._ranks is not None:
            events = self._ranks.heard(events)
        return {"events": events, "attempt": self._attempt.spec.attempt, "peak": peak_bytes()}

    def leave(self, nodes: frozenset[str]) -> None:
        """These nodes are about to be taken away; called between two messages."""
        own = self._ranks.nodes if self._ranks is not None else {ray.get_runtime_context().get_node_id()}
        if self._attempt is not None and own & nodes:
            self._attempt.leave()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next attempt. A worker that cannot ends: of one that says False, Tune tells nobody, and all wait."""
        assert self._attempt is not None
        leaves = ray.get_runtime_context().get_node_id() in draining()
        if leaves or not self._attempt.stop(_STOP_PATIENCE_SECONDS):
            ray.actor.exit_actor()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        if self._ranks is not None:
            self._ranks.stop()
        if self._attempt is not None:
            self._attempt.stop(_STOP_PATIENCE_SECONDS)  # its files are whole when the study goes on to its end


def _places(need: Resources, maps: bool, avoid: tuple[str, ...]) -> tune.PlacementGroupFactory:
    """What an attempt needs, and the nodes where it should not go: a worker is reused if both are the same.

    A trial that maps leaves the processors to its items, or they would wait for what it holds itself.
    """
    selector = [{"ray.io/node-id": f"!in({','.join(avoid)})"}] * need.processes if avoid else None
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
        avoid = set(draining())  # where a worker may wait to be reused
        if spec.avoid and others_hold(spec.avoid, self._driver.plan.study.resources):
            avoid.add(spec.avoid)
        return {"spec": spec, "avoid": tuple(sorted(avoid))}

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
    """Hands what workers say to the driver, which says whether the attempt goes on.

    Tune gives the next attempt to the worker of one that stops; one that has been killed is left to its death instead.
    """

    def __init__(self, driver: Driver, placing: _Placing) -> None:
        super().__init__()
        self._driver, self._placing = driver, placing

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        goes_on = self._driver.heard(trial.config["spec"].id, result["attempt"], result["events"])
        goes_on |= self._placing.has_killed(trial.temporary_state.ray_actor)
        return schedulers.TrialScheduler.CONTINUE if goes_on else schedulers.TrialScheduler.STOP


class _Placing(_NotSaved, tune.Callback):
    """Knows which worker holds which trial, and tells the driver when one has died."""

    def __init__(self, driver: Driver, on_change: Callable[[], None]) -> None:
        self._driver, self._on_change = driver, on_change
        self._killer: threading.Timer | None = None
        self._workers: dict[str, Any] = {}  # trial → the actor that ran it last
        self._killed: set[Any] = set()
        self._peaks: dict[str, int] = {}
        self._began: set[tuple[str, int]] = set()
        self._next_look = 0.0
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
        result["events"] = []  # the driver has heard them, and Tune keeps the last result of each trial

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Of each number in its results Tune keeps statistics to its own end, more than all else of a trial."""
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        spec = trial.config["spec"]
        began, peak = (spec.id, spec.attempt) in self._began, self._peaks.pop(spec.id, 0)
        self._driver.died(spec.id, spec.attempt, _worker_error(trial), peak, began)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._driver.tick()
        self._look_at_nodes(trials)
        self._on_change()

    def _look_at_nodes(self, trials: list[Trial]) -> None:
        """Nodes come and go while the study runs. One place is always offered: Tune sleeps when it is offered none."""
        if time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + _LOOK_SECONDS
            need = self._driver.plan.study.resources
            self._driver.places = max(1, capacity(need, list(nodes().values())))
            if leaving := draining():
                for trial in trials:
                    if trial.status == Trial.RUNNING and (worker := trial.temporary_state.ray_actor) is not None:
                        worker.leave.remote(leaving)

    def _kill_all(self) -> None:
        for trial in list(self._workers):
            self._kill(trial)

    def _kill(self, trial: str) -> None:
        if trial in self._workers:
            self._killed.add(self._workers[trial])
            ray.kill(self._workers[trial])

    def has_killed(self, worker: Any) -> bool:
        return worker in self._killed


def _worker_error(trial: Trial) -> str:
    """What Tune wrote down of a worker's end, without its own heading."""
    if not trial.error_file:
        return "Ray gave no reason"
    words = "".join(Path(trial.error_file).read_text(encoding="utf-8").partition("\n")[2:]).strip()
    return _COLOURS.sub("", words)


@contextlib.contextmanager
def _quiet_tune() -> Iterator[None]:
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
