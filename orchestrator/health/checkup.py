"""Gathers what `doctor` judges: facts of this machine, of each node of a Ray cluster, or of a cluster file's hosts."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.health.checks_places import GCS_PORT, HEAD_PORTS
from orchestrator.health.findings import Examined, Expected
from orchestrator.history.folder import Runs
from orchestrator.machines import ssh
from orchestrator.machines.clusterfile import ClusterFile
from orchestrator.probe.probe import Mark, Question, probe
from orchestrator.studies import yamlfile
from orchestrator.studies.registry import study_path
from orchestrator.studies.study import BUILTIN, NO_DATA
from orchestrator.studies.studyfile import load_study

HERE = "this machine"
_NO_COMMAND = (126, 127)  # how a shell says that what it should run is not there
_NO_ANSWER = "it did not answer"


@dataclass(frozen=True)
class Asked:
    """What a study needs of machines. ``data`` is as it was written, and may be missing here; None is built in."""

    data: str | None = None
    tracker: str | None = None
    gpus: float = 0.0

    @classmethod
    def of(cls, ref: str, overrides: Sequence[str]) -> Asked:
        """Raises `StudyError` where the study is wrong for other reasons than where its data is."""
        written = _written_data(ref, overrides)
        study = load_study(ref, [*overrides, f"data={BUILTIN}"] if written else overrides)
        return cls(written, study.tracking.uri, study.resources.gpus)


def examine(asked: Asked, runs: Runs, cluster: ClusterFile | None = None) -> tuple[list[Examined], Expected]:
    """The machines, the head or this one first, and what is expected of them.

    With a cluster's file over SSH; else this machine, and each node of the cluster of ``RAY_ADDRESS``.
    """
    environment = cluster.environment if cluster else os.environ
    question = Question(
        asked_at=time.time(),
        salt=secrets.token_hex(16),
        data=_places(asked.data, environment, at_home=cluster is None),
        tracker=asked.tracker or environment.get("MLFLOW_TRACKING_URI"),
        environment={name: value for name, value in environment.items() if name.startswith("MLFLOW_TRACKING_")},
    )
    if cluster is not None:
        return _over_ssh(question, cluster), _expected(cluster, asked)
    question = replace(question, runs=str(runs.root))
    joined = bool(os.environ.get("RAY_ADDRESS"))
    hosts = _over_ray(question) if joined else [_here(question)]
    return hosts, Expected(head=HERE, joined=joined, gpus=asked.gpus)


# ------------------------------------------------------------------------------------------------------ a study's data


def _written_data(ref: str, overrides: Sequence[str]) -> str | None:
    given = [override.removeprefix("data=") for override in overrides if override.startswith("data=")]
    value = (
        yamlfile.parse_value(given[-1], f"data={given[-1]}") if given else yamlfile.load(study_path(ref))[0].get("data")
    )
    return None if value in (None, BUILTIN, NO_DATA) else str(value)


def _places(data: str | None, environment: Mapping[str, str], at_home: bool) -> tuple[str, ...]:
    """Where a study looks for its data; in an object store no machine has it at a path."""
    if data is None or "://" in data:
        return ()
    root = environment.get("ORCHESTRATOR_DATA") or ("data" if at_home else None)
    places = dict.fromkeys([data, *([str(Path(root) / data)] if root else [])])
    return tuple(str(Path(place).expanduser().absolute()) if at_home else place for place in places)


# ---------------------------------------------------------------------------------------- this machine, and Ray's nodes


def _here(question: Question) -> Examined:
    return Examined(HERE, probe(replace(question, asked_at=time.time())), time.time())


def _over_ray(question: Question) -> list[Examined]:
    """This machine, whose driver the nodes serve, and every node."""
    here = _here(replace(question, mark=Mark.LEAVE, marker=_marker(question)))
    try:
        return [here, *_nodes(replace(question, tracker=None, **_found(here)))]
    finally:
        if (left := _found(here, Mark.REMOVE))["mark"] is Mark.REMOVE:
            _here(replace(question, **left))


def _nodes(question: Question) -> list[Examined]:
    from orchestrator.machines import cluster

    address = os.environ["RAY_ADDRESS"]
    try:
        with cluster.connect():
            question = replace(question, asked_at=time.time(), environment={})
            answers = cluster.on_every_node(probe, question)
            received = time.time()
    except EnvironmentProblem as problem:
        fix = shlex.join(["ray", "status", "--address", address])
        return [Examined(address, None, reached=False, trouble=str(problem), fix=fix)]
    except Exception as error:  # what a node could not import, or what Ray refuses, is a finding, too
        named = re.search(r"\bip=([\w.:]+)", str(error))
        host, why = named.group(1) if named else address, str(error).strip().splitlines()[-1]
        return [Examined(host, None, login=("ssh", host), trouble=why)]
    several = Counter(node.name for node, _ in answers)
    seen: Counter[str] = Counter()
    found = []
    for node, facts in answers:
        seen[node.name] += 1
        name = f"{node.name}#{seen[node.name]}" if several[node.name] > 1 else node.name
        found.append(
            Examined(name, facts, received, ("ssh", node.name), facts is not None, "" if facts else _NO_ANSWER)
        )
    return found


# ----------------------------------------------------------------------------------------------- a cluster file's hosts


def _over_ssh(question: Question, cluster: ClusterFile) -> list[Examined]:
    """The head first: it leaves a file in the folder of runs, for which the workers look."""
    if cluster.head is None:
        there = f"ray exec {cluster.path} 'RAY_ADDRESS=auto orchestrator doctor'"
        raise UserError(f"{cluster.path}: its hosts come and go with '{cluster.provider}'", f"ask the head: {there}")
    runs = None if "://" in cluster.runs else cluster.runs
    question = replace(question, runs=runs)
    asked = replace(question, ports=tuple(HEAD_PORTS), mark=Mark.LEAVE, marker=_marker(question))
    head = _host(cluster.head, cluster, asked)
    rest = replace(question, tracker=None, environment={}, head=f"{cluster.head}:{GCS_PORT}", **_found(head))
    try:
        with ThreadPoolExecutor(max(1, len(cluster.workers))) as pool:
            return [head, *pool.map(lambda host: _host(host, cluster, rest), cluster.workers)]
    finally:
        if (left := _found(head, Mark.REMOVE))["mark"] is Mark.REMOVE:
            _host(cluster.head, cluster, replace(question, **left))


def _host(host: ssh.Host, cluster: ClusterFile, question: Question) -> Examined:
    question = replace(question, asked_at=time.time())
    request = json.dumps({"do": "probe", "question": question.to_plain()}) + "\n"
    answer = ssh.ask(host, cluster.command, request.encode())
    received, login = time.time(), _login(host)
    if answer.unreachable is not None:
        return Examined(host.address, None, login=login, reached=False, trouble=answer.unreachable)
    said = [line for line in answer.out.splitlines() if line.startswith("{")]
    if answer.status == 0 and said:
        return Examined(host.address, json.loads(said[-1]), received, login)
    why = (answer.err.strip() or _NO_ANSWER).splitlines()[-1]
    if answer.status in _NO_COMMAND:
        why = f"there is no {cluster.python}"
    return Examined(host.address, None, login=login, trouble=why)


def _login(host: ssh.Host) -> tuple[str, ...]:
    """What to type before a command."""
    words = ["ssh", *(["-i", str(host.key)] if host.key else [])]
    words += ["-o", f"ProxyCommand={host.proxy}"] if host.proxy else []
    return (*words, f"{host.user}@{host.address}" if host.user else host.address)


def _expected(cluster: ClusterFile, asked: Asked) -> Expected:
    return Expected(str(cluster.path), str(cluster.head), joined=True, gpus=asked.gpus)


def _marker(question: Question) -> str:
    return f".orchestrator-doctor-{question.salt[:12]}"


def _found(head: Examined, mark: Mark = Mark.FIND) -> dict[str, Any]:
    """What to ask of the others about the file that the head left; nothing when it could leave none."""
    runs = head.section("runs")
    if not runs or not runs["marked"]:
        return {"mark": Mark.NONE, "marker": ""}
    return {"mark": mark, "marker": runs["marker"] if mark is Mark.REMOVE else Path(runs["marker"]).name}
