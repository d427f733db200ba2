"""The Ray cluster: connecting to it or starting one here, its nodes, and giving others their turn on it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from orchestrator.errors import EnvironmentProblem
from orchestrator.machines.shares import Amount, Claim, Turns
from orchestrator.studies.plan import Node, capacity
from tasks.api import Resources

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean in the user's shell
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver's own handler stops the study in order
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failing trial ends without the metric
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the driver proposes no more than there is room for
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1000",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402 - Ray reads the settings above when it is imported
from ray._private import ray_constants  # noqa: E402 - see `_on_loopback`
from ray.exceptions import RayError, RayTaskError  # noqa: E402
from ray.experimental.internal_kv import (  # noqa: E402
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

T = TypeVar("T")
_HEAD_RESOURCE = "node:__internal_head__"
_SHOWN = ("CPU", "GPU", "memory")
_LOOK_SECONDS = 0.2
_TELL_SECONDS = 1.0
_STALE_SECONDS = 10.0
_GIVE_WAY_SECONDS = 5.0
_NOTHING: Amount = MappingProxyType({})
_LEDGER = "orchestrator-shares"  # a namespace of Ray's internal store
_INSTALL_HANDLERS = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"


@contextlib.contextmanager
def connect() -> Iterator[list[Node]]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one on this machine and end it after. Yields its nodes."""
    address = os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        _check_answers(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    local = {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
    is_local = address in (None, "", "local")
    _keep_sigterm()
    try:
        if is_local:
            _keep_token_private()
        with _on_loopback() if is_local else contextlib.nullcontext():
            ray.init(**quiet, **(local if is_local else {"address": address}))
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise EnvironmentProblem(
            f"no Ray cluster at {address or 'this machine'}: {error}",
            "check RAY_ADDRESS, or unset it to run on this machine",
        ) from error
    except (KeyboardInterrupt, SystemExit) as error:  # the latter is what Ray makes of SIGTERM
        ray.shutdown()  # what has been started so far
        raise KeyboardInterrupt from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        yield list(nodes(leaving=True).values())
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster that is started in here listens on 127.0.0.1 alone, each of its processes.

    They bind to what is reachable unless the node's address is 127.0.0.1, and Ray replaces that one, when it is asked
    for, by the machine's address: except where it is told that this machine is to be no part of a cluster of several
    (``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0``). It reads that once; tests/faults/test_listening.py sees whether it holds.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _keep_sigterm() -> None:
    """Ray's C++ part takes SIGTERM, with SIGSEGV and its like, to print a stack and abort, also while Ray starts.

    It does so once in a process: here, so that Python's handler is back before anything starts. A Ray in which the
    function has another name aborts as it did; a test of `connect` would say so.
    """
    before = signal.getsignal(signal.SIGTERM)
    install = getattr(ctypes.CDLL(ray._raylet.__file__), _INSTALL_HANDLERS, None)
    if install is not None and before is not None and threading.current_thread() is threading.main_thread():
        install.argtypes, install.restype = (ctypes.c_char_p, ctypes.c_bool), None
        install(None, False)
        signal.signal(signal.SIGTERM, before)


def _keep_token_private() -> None:
    """Whoever reads Ray's token can run anything as this user, and Ray writes it for everybody on the machine to read.

    Raises `EnvironmentProblem` when there is no place for it.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    folder = Path.home() / ".ray"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"Ray's token cannot be kept in {folder}: {error.strerror}",
            "set RAY_AUTH_TOKEN_PATH to a file of your own that holds one (ray get-auth-token --generate makes it)",
        ) from error
    with contextlib.suppress(OSError):  # one that belongs to somebody else is theirs to keep
        folder.chmod(0o700)


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


def nodes(leaving: bool = False) -> dict[str, Node]:
    """The nodes that are alive, by Ray's id; those that are about to be taken away too only if ``leaving``."""
    gone = frozenset() if leaving else draining()
    return {
        node["NodeID"]: Node(node["NodeName"], node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in gone
    }


def describe_nodes() -> list[dict[str, Any]]:
    """Every node that is or was part of the cluster, as plain values: what it has, what is in use, why it has gone."""
    free = ray._private.state.available_resources_per_node()
    return [
        {
            "address": node["NodeManagerAddress"],
            "alive": node["Alive"],
            "reason": node.get("DeathReasonMessage", ""),
            "head": _HEAD_RESOURCE in node["Resources"],
            "resources": {key: node["Resources"].get(key, 0) for key in _SHOWN},
            "used": {key: node["Resources"].get(key, 0) - free.get(node["NodeID"], {}).get(key, 0) for key in _SHOWN},
        }
        for node in ray.nodes()
    ]


def on_every_node(function: Callable[..., T], *words: Any, patience: float = 30.0) -> list[tuple[Node, T | None]]:
    """Call a function of this package on each live node at once, whatever else runs there.

    None stands for a node that did not answer within ``patience`` seconds, or died meanwhile. What the function raises
    is raised here.
    """
    alive = nodes()
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)).remote(*words): id
        for id in alive
    }
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=patience)
    said: dict[str, T | None] = {}
    for ref in answered:
        try:
            said[asked[ref]] = ray.get(ref)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except RayError:
            said[asked[ref]] = None
    for ref in late:
        ray.cancel(ref, force=True)
    return [(node, said.get(id)) for id, node in alive.items()]


def draining() -> frozenset[str]:
    """Ray's ids of the nodes that are about to be taken away, as before a spot machine's end: Ray starts nothing there.

    Ray tells this to its own libraries only. Where that has changed, such a node is lost when it goes, like any other.
    """
    ask = getattr(getattr(ray._private.state, "state", None), "get_draining_nodes", None)
    return frozenset(ask()) if ask is not None else frozenset()


def others_hold(node_id: str, need: Resources) -> bool:
    """Whether live nodes other than this one can hold a trial."""
    return capacity(need, [node for id, node in nodes().items() if id != node_id]) > 0


class Sharing:
    """Shares the cluster with other studies and other users of Ray, seen from one process of this study.

    What studies hold is what Ray says; what they want and their priorities are lines that they keep in Ray's store, one
    for each process that starts work: a driver's trials, or the items of a map. `shares.Turns` decides on these.
    Of other users Ray only says that a placement group waits: it has its turn once, unless it does not come to its
    place (it is too large, say).
    """

    def __init__(self, priority: int = 0) -> None:
        context = ray.get_runtime_context()
        self._job, self._priority = context.get_job_id(), priority  # the job is the end of its placement groups' ids
        self._key = f"{self._job}/{context.get_worker_id()}"
        self._line: dict[str, Any] = {}
        self._turns = Turns()
        self._heard: dict[str, tuple[bytes, float]] = {}  # the lines, and when each was new
        self._strangers: dict[str, float] = {}  # a group of theirs that waits → when it was first seen
        self._for_gpus: set[str] = set()  # the groups that wait for a GPU, anybody's
        self._free: dict[str, float] = {}
        self._works: tuple[float, Amount] = time.monotonic(), {}
        self._worked: Amount = {}
        self._tasks_worked: dict[str, Amount] = {}  # what studies' remote tasks have done, by job
        self._places = 0
        self._alone, self.gpus_awaited = True, False
        self._looked = self._told = -math.inf
        self._compared = 0.0

    def tell(
        self, need: Amount | None, flying: Amount = MappingProxyType({}), works: Amount = MappingProxyType({})
    ) -> None:
        """Say what the next thing to start needs, None for nothing, and what is asked for by remote tasks under way.

        ``works`` is what trials work with, of the places that they have. To be called often, also when nothing changed.
        """
        now = time.monotonic()
        self._worked = _sum([self._worked, _times(self._works[1], now - self._works[0])])
        self._works = now, works
        line = {"priority": self._priority, "need": need, "flying": dict(flying), "worked": self._worked}
        if now - self._told > _TELL_SECONDS or (self._line["need"] is None) != (need is None):
            self._told, self._line = now, line
            _internal_kv_put(self._key, json.dumps({**line, "at": time.time()}), namespace=_LEDGER)
        self._look(now, _TELL_SECONDS)

    def gives_way(self, need: Amount, tasks: int, spare_gpus: bool = False) -> bool:
        """Whether no further remote tasks, so many that each need so much, are to be started: others have their turn.

        ``spare_gpus``: they would be on nodes without GPUs, which whoever waits for one does not need.
        """
        now = time.monotonic()
        self._look(now, _LOOK_SECONDS)
        return self._strangers_wait(now, spare_gpus) or self._turns.gives_way(need, 1, 1 + tasks, spare_gpus)

    def may_begin(self, need: Amount, live: int) -> bool:
        """Whether a trial may begin while ``live`` others of this study are under way.

        Beside other studies only where there is a place: one that waited in Ray's queue would take, out of turn, the
        next that becomes free.
        """
        now = time.monotonic()
        self._look(now, _LOOK_SECONDS)
        if self._strangers_wait(now):
            return False
        if self._alone:
            return True
        lacks = live + 1 - self._places
        if self._turns.gives_way(need, max(0, 1 - lacks)):
            return False
        return all(self._free.get(resource, 0) >= lacks * n for resource, n in need.items())

    def close(self) -> None:
        """Nothing more is wanted, for now."""
        if self._line:
            self._line, self._told = {}, -math.inf
            _internal_kv_del(self._key, namespace=_LEDGER)

    def _strangers_wait(self, now: float, spare_gpus: bool = False) -> bool:
        return any(
            now - since < _GIVE_WAY_SECONDS and not (spare_gpus and id in self._for_gpus)
            for id, since in self._strangers.items()
        )

    def _look(self, now: float, patience: float) -> None:
        if now - self._looked < patience:
            return
        self._looked = now
        lines = self._lines(now)
        groups = {
            (id[-len(self._job) :], id): (group["state"], _sum(group["bundles"].values()))
            for id, group in ray.util.placement_group_table().items()
            if group["state"] in ("CREATED", "PENDING")
        }
        waiting = {(job, id): need for (job, id), (state, need) in groups.items() if state == "PENDING"}
        self._for_gpus = {id for (_, id), need in waiting.items() if need["GPU"]}
        told = [line["need"] for of in lines.values() for line in of if line["need"]]
        self.gpus_awaited = bool(self._for_gpus) or any(need.get("GPU") for need in told)
        strange = [id for job, id in waiting if job not in lines and job != self._job]
        self._strangers = {id: self._strangers.get(id, now) for id in strange}
        self._places = sum(job == self._job and state == "CREATED" for (job, _), (state, _) in groups.items())
        self._alone = set(lines) <= {self._job}
        if not self._alone:
            held = [(job, need) for (job, _), (state, need) in groups.items() if state == "CREATED"]
            self._compare(now, lines, held, {job: need for (job, _), need in waiting.items() if any(need.values())})

    def _compare(
        self,
        now: float,
        lines: Mapping[str, list[dict[str, Any]]],
        groups: Sequence[tuple[str, Amount]],
        waiting: Mapping[str, Amount],
    ) -> None:
        elapsed = now - self._compared if self._compared else 0.0
        self._compared = now
        total, self._free = _sum([ray.cluster_resources()]), _sum([ray.available_resources()])
        grouped = _sum(amount for _, amount in groups)
        loose = {r: max(0.0, total[r] - self._free[r] - grouped[r]) for r in total}  # held by remote tasks
        tasks = {job: _sum(line["flying"] for line in of) for job, of in lines.items()}
        asked = _sum(tasks.values())
        claims = {}
        for job, of in lines.items():
            of_loose = {r: loose[r] * tasks[job][r] / asked[r] for r in total if asked[r]}
            held = _sum([*(amount for owner, amount in groups if owner == job), of_loose])
            self._tasks_worked[job] = _sum([self._tasks_worked.get(job, {}), _times(of_loose, elapsed)])
            worked = _sum([*(line["worked"] for line in of), self._tasks_worked[job]])
            needs = [line["need"] for line in of if line["need"]]
            need = waiting.get(job) or (needs[0] if needs else None)
            claims[job] = Claim(held, need, max(line["priority"] for line in of), worked)
        own = claims.pop(self._job, Claim())
        self._turns.look(now, own, claims, total, self._free)

    def _lines(self, now: float) -> dict[str, list[dict[str, Any]]]:
        """What studies say of themselves, by job; who has said nothing for long has died."""
        said = {
            key.decode(): _internal_kv_get(key, namespace=_LEDGER) for key in _internal_kv_list("", namespace=_LEDGER)
        }
        self._heard = {
            key: self._heard[key] if key in self._heard and self._heard[key][0] == line else (line, now)
            for key, line in said.items()
            if line is not None
        }
        lines: dict[str, list[dict[str, Any]]] = {}
        for key, (line, since) in self._heard.items():
            if now - since < _STALE_SECONDS:
                lines.setdefault(key.partition("/")[0], []).append(json.loads(line))
            elif now - since > 2 * _STALE_SECONDS:
                _internal_kv_del(key, namespace=_LEDGER)
        return lines


def _sum(amounts: Iterable[Amount]) -> dict[str, float]:
    amounts = list(amounts)
    return {resource: sum(amount.get(resource, 0.0) for amount in amounts) for resource in ("CPU", "GPU")}


def _times(amount: Amount, factor: float) -> Amount:
    return {resource: factor * n for resource, n in amount.items()}
