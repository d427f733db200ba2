"""The Ray cluster: connecting to it or starting one here, its nodes, and giving others their turn on it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.errors import EnvironmentProblem
from orchestrator.plan import Node
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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

T = TypeVar("T")
_HEAD_RESOURCE = "node:__internal_head__"
_SHOWN = ("CPU", "GPU", "memory")
_LOOK_AROUND_SECONDS = 0.2
_GIVE_WAY_SECONDS = 5.0


@contextlib.contextmanager
def connect() -> Iterator[list[Node]]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one on this machine and end it after. Yields its nodes."""
    address = os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        _check_answers(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    local = {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
    is_local = address in (None, "", "local")
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
    """Whether some live node other than this one can hold a trial."""
    return any(node.holds(need) for id, node in nodes().items() if id != node_id)


class Sharing:
    """Lets other studies on the cluster have a turn.

    Tune keeps a worker and its place from trial to trial, so whoever came first would hold the cluster to its end.
    While somebody else's placement group waits, a place that becomes free is given up, and asked for again behind
    theirs. A group that does not come to its place even so (it is too large, say) is not waited for twice.
    """

    def __init__(self) -> None:
        self._own = ray.get_runtime_context().get_job_id()  # the end of the id of each of our placement groups
        self._seen: dict[str, float] = {}  # a group of others that waits → when it was first seen
        self._looked = -math.inf

    def gives_way(self) -> bool:
        now = time.monotonic()
        if now - self._looked > _LOOK_AROUND_SECONDS:
            self._looked = now
            groups = ray.util.placement_group_table().items()
            waiting = [id for id, g in groups if g["state"] == "PENDING" and not id.endswith(self._own)]
            self._seen = {id: self._seen.get(id, now) for id in waiting}
        return any(now - since < _GIVE_WAY_SECONDS for since in self._seen.values())
