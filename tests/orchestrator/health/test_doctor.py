"""Every check, on planted facts: what is wrong is found on the machine where it is, with something to type."""

from __future__ import annotations

import copy
import json

import pytest

from orchestrator.health import doctor
from orchestrator.health.findings import Examined, Expected, Finding, Level

HEAD, WORKER, OTHER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
EXPECTED = Expected(cluster="cluster.yaml", head=HEAD, joined=True, gpus=1.0)
NOW = 1_000_000.0
DISK = "Ray's temporary files"


def clock(ahead: float) -> dict:
    """Of a machine whose clock is ahead by so many seconds, and whose answer took a second in all."""
    return {"asked_at": NOW, "began": NOW + ahead + 0.4, "ended": NOW + ahead + 0.6}


def good(head: bool) -> dict:
    """The facts of a machine as it should be."""
    disk = {"path": "/somewhere", "total": 1e12, "free": 5e11}
    gcs = {"addresses": ["every address"], "pid": 7, "command": "gcs_server", "is_ray": True}
    ray = {
        "servers": [{"name": "raylet", "pid": 8, "auth_mode": "token", "readable": True}],
        "ports": {},
        "head": "open",
    }
    token = {"auth_mode": None, "place": "/h/.ray/auth_token", "mode": "0600", "fingerprint": "f1", "trouble": None}
    return {
        "failed": {},
        "host": {"name": "h", "address": HEAD if head else WORKER, "system": "Linux", "cpus": 8},
        "python": {"version": "3.11.7", "executable": "/venv/bin/python", "source": "/project"},
        "versions": {"orchestrator": "0.1.0", "ray": "2.60.0", "torch": "2.15.0", "numpy": "2.4.0"},
        "code": {"sha256": "c0de", "lock_sha256": "10cc"},
        "token": token,
        "ray": {**ray, "ports": {"6379": gcs}, "head": None} if head else ray,
        "disks": {use: dict(disk) for use in ("home", DISK, "runs")},
        "memory": {"total": 64e9, "shm": 32e9, "shm_free": 31e9},
        "limits": {"files": 65536, "files_now": 1024},
        "runs": {"path": "/shared/runs", "there": "/shared/runs", "trouble": None, "marker": "/m", "marked": True},
        "data": {"path": "/shared/d", "exists": True, "trouble": None, "fingerprint": "da", "entries": 3},
        "gpus": {
            "devices": 1, "names": ["A100, 40960 MiB"], "driver": "580.1", "driver_cuda": "13.0",
            "trouble": None, "busy": [], "torch_cuda": "13.2",
        },
        "tracker": {"uri": "http://tracker:5000", "answer": "ok", "detail": ""} if head else None,
        "clock": clock(0.0),
    }  # fmt: skip


def examined(host: str, facts: dict | None, **more) -> Examined:
    return Examined(host, facts, NOW + 1.0, ("ssh", f"ann@{host}"), **more)


def judged(change=lambda head, worker: None, expected: Expected = EXPECTED) -> list[Finding]:
    """The findings on a head and two workers, of which the first was changed."""
    head, worker = copy.deepcopy(good(head=True)), copy.deepcopy(good(head=False))
    change(head, worker)
    hosts = [examined(HEAD, head), examined(WORKER, worker), examined(OTHER, good(head=False))]
    return doctor.findings(hosts, expected)


def put(path: str, value, machine: str = "worker"):
    """A change: the value at a dotted path in the facts of a machine."""
    *above, last = path.split(".")

    def change(head: dict, worker: dict) -> None:
        facts = head if machine == "head" else worker
        for name in above:
            facts = facts[name]
        facts[last] = value

    return change


def test_a_cluster_as_it_should_be_has_nothing_but_what_is_fine():
    found = judged()
    assert {finding.level for finding in found} == {Level.FINE}
    assert len(found) == len(doctor._CHECKS)
    assert doctor.count_breaking(found) == 0


def taken(pid):
    return {"addresses": ["every address"], "pid": pid, "command": "redis-server", "is_ray": False}


RAYLET_OPEN = [{"name": "raylet", "pid": 8, "auth_mode": "disabled", "readable": True}]
GCS_LOCAL = {"6379": {"addresses": ["127.0.0.1"], "pid": 7, "command": "gcs_server", "is_ray": True}}
UP = "orchestrator cluster up cluster.yaml"


@pytest.mark.parametrize(
    ("change", "level", "host", "says", "fix"),
    [
        (put("token.fingerprint", None), "breaks", WORKER, "has no Ray token at /h/.ray/auth_token", UP),
        (put("token.fingerprint", "f2"), "breaks", WORKER, f"token differs from that of {HEAD}", UP),
        (put("token.trouble", "Permission denied"), "breaks", WORKER, "cannot be read: Permission denied", "ls -ld"),
        (put("token.mode", "0640"), "warns", WORKER, "has mode 0640", "'chmod 600 /h/.ray/auth_token'"),
        (put("token.fingerprint", None, "head"), "breaks", HEAD, "has no Ray token", UP),
        (put("ray.servers", RAYLET_OPEN), "breaks", WORKER, f"is 'disabled', on {HEAD} it is 'token'", UP),
        (put("versions.ray", "2.59.0"), "breaks", WORKER, f"has ray 2.59.0, {HEAD} has 2.60.0", UP),
        (put("versions.torch", "2.14.0"), "warns", WORKER, f"has torch 2.14.0, {HEAD} has 2.15.0", UP),
        (put("versions.torch", None), "breaks", WORKER, f"has no torch, {HEAD} has 2.15.0", UP),
        (put("versions.numpy", None, "head"), "breaks", HEAD, "has no numpy", UP),
        (put("python.version", "3.12.1"), "breaks", WORKER, f"has Python 3.12.1, {HEAD} has 3.11.7", UP),
        (put("python.version", "3.11.2"), "warns", WORKER, f"has Python 3.11.2, {HEAD} has 3.11.7", UP),
        (put("code.sha256", "other"), "breaks", WORKER, f"code differs from that of {HEAD}", UP),
        (put("code.lock_sha256", "other"), "warns", WORKER, "requirements.lock differs", UP),
        (put("clock", clock(+40.0)), "breaks", WORKER, f"its clock is 40 s ahead of that of {HEAD}", "set-ntp true"),
        (put("clock", clock(-5.0)), "warns", WORKER, f"its clock is 5 s behind that of {HEAD}", "set-ntp true"),
        (put("gpus.driver_cuda", "12.8"), "breaks", WORKER, "CUDA up to 12.8, torch is built for 13.2", "cuda-drivers"),
        (put("gpus.torch_cuda", None), "breaks", WORKER, "torch is built without CUDA", "torch==2.15.0"),
        (put("gpus.trouble", "Driver/library version mismatch"), "breaks", WORKER, "version mismatch", "reboot"),
        (put(f"disks.{DISK}.free", 3e10), "warns", WORKER, f"30.0 GB of 1000 GB are left for {DISK}", "du -xh"),
        (put("disks.runs.free", 1e8), "breaks", WORKER, "0.1 GB of 1000 GB are left for runs", "du -xh"),
        (put("memory.shm", 64e6), "warns", WORKER, "/dev/shm has 0.064 GB, Ray's object store wants 19 GB", "size=19G"),
        (put("memory.shm_free", 1e6), "warns", WORKER, "/dev/shm is full", "ls -lS /dev/shm"),
        (put("limits.files", 1024), "warns", WORKER, "may open 1024 files", "nofile"),
        (put("ray.ports", {"6379": taken(41)}, "head"), "breaks", HEAD, "taken by redis-server, process 41", "kill 41"),
        (put("ray.ports", {"8265": taken(41)}, "head"), "warns", HEAD, "port 8265", "kill 41"),
        (put("ray.head", "timeout"), "breaks", WORKER, f"cannot reach port 6379 of {HEAD}: timeout", "ufw allow"),
        (put("runs.trouble", "Permission denied"), "breaks", WORKER, "cannot write runs in /shared/runs", "chown"),
        (put("runs.trouble", "Read-only file system", "head"), "breaks", HEAD, "cannot write runs in", "chown"),
        (put("runs.marked", False), "breaks", WORKER, f"is not the folder that {HEAD} sees", "mount -t nfs 10.0.0.1:"),
        (put("data.exists", False), "breaks", WORKER, "there is no data at /shared/d", "rsync -a /shared/d/ 10.0.0.2:"),
        (put("data.fingerprint", "db"), "breaks", WORKER, f"is not that of {HEAD}", "rsync -a /shared/d/ 10.0.0.2:"),
        (put("data.trouble", "Permission denied"), "breaks", WORKER, "cannot read the data at /shared/d", "a+rX"),
        (put("failed.gpus", "TimeoutError: 10 s"), "warns", WORKER, "its gpus could not be looked at", "doctor"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_where_it_is(change, level, host, says, fix):
    found = [finding for finding in judged(change) if finding.level is not Level.FINE]
    assert [(finding.level, finding.host) for finding in found] == [(level, host)] * len(found)
    assert says in found[0].what
    assert fix in found[0].fix
    assert len(found) == 1 or (host == HEAD and "token" in says)  # without the head's token nothing is to compare


@pytest.mark.parametrize(
    ("answer", "says", "fix"),
    [
        ("host_refused", "allowed hosts refuses us", "--allowed-hosts 'tracker,tracker:*,localhost,localhost:*'"),
        ("unauthorized", "refuses our login", "MLFLOW_TRACKING_PASSWORD"),
        ("forbidden", "forbids", "MLFLOW_TRACKING_USERNAME"),
        ("refused", "refuses the connection", "mlflow server --host tracker --port 5000"),
        ("timeout", "does not answer", "curl -v http://tracker:5000/health"),
        ("unresolved", "name is unknown", "getent hosts tracker"),
        ("failed", "asking it fails", "curl"),
        ("not_mlflow", "is not MLflow", "curl"),
    ],
)
def test_a_tracker_that_is_of_no_use_is_named_with_the_reason(answer, says, fix):
    tracker = {"uri": "http://tracker:5000", "answer": answer, "detail": "…"}
    found = judged(put("tracker", tracker, "head"))
    assert (found[0].level, found[0].host) == ("breaks", HEAD)
    assert says in found[0].what
    assert fix in found[0].fix


def test_a_head_that_listens_to_itself_only_is_found_on_every_worker():
    def change(head, worker):
        head["ray"]["ports"] = GCS_LOCAL
        worker["ray"]["head"] = "refused"

    found = judged(change)
    assert (found[0].level, found[0].host) == ("breaks", WORKER)
    assert "127.0.0.1 only" in found[0].why


def test_before_ray_runs_a_refused_connection_is_as_it_should_be():
    def change(head, worker):
        head["ray"]["ports"], head["ray"]["servers"] = {}, []
        worker["ray"]["head"], worker["ray"]["servers"] = "refused", []

    assert doctor.count_breaking(judged(change)) == 0


def test_ray_open_to_everybody_is_a_warning():
    def change(head, worker):
        head["ray"]["servers"] = worker["ray"]["servers"] = RAYLET_OPEN

    hosts = [examined(HEAD, good(head=True)), examined(WORKER, good(head=False))]
    change(hosts[0].facts, hosts[1].facts)
    found = [finding for finding in doctor.findings(hosts, EXPECTED) if finding.level is not Level.FINE]
    assert [(finding.level, finding.host) for finding in found] == [("warns", HEAD), ("warns", WORKER)]


def test_memory_that_somebody_holds_on_a_gpu_is_found_while_no_ray_runs():
    def change(head, worker):
        worker["gpus"]["busy"] = [{"pid": 99, "mib": 2048}]
        worker["ray"]["servers"] = []

    found = judged(change)
    assert "process 99 holds 2048 MiB" in found[0].what
    assert "ps -fp 99" in found[0].fix


def test_what_the_way_leaves_open_of_a_clock_is_no_finding():
    slow = {"asked_at": NOW, "began": NOW + 9.0, "ended": NOW + 9.2}  # an answer took 10 s: its clock may be right
    worker = good(head=False) | {"clock": slow}
    hosts = [examined(HEAD, good(head=True)), Examined(WORKER, worker, NOW + 10.0)]
    assert not [finding for finding in doctor.findings(hosts, EXPECTED) if "clock is" in finding.what]


def test_a_host_that_is_silent_does_not_hide_the_others():
    worker = good(head=False)
    worker["versions"]["ray"] = "2.59.0"
    hosts = [
        examined(HEAD, None, reached=False, trouble="Connection refused"),
        examined(WORKER, good(head=False)),
        examined(OTHER, worker),
        examined("10.0.0.4", None, trouble="No module named orchestrator"),
    ]
    found = {(f.host, f.what): f.fix for f in doctor.findings(hosts, EXPECTED) if f.level is Level.BREAKS}
    assert found[(HEAD, "cannot be reached: Connection refused")] == f"ssh ann@{HEAD} hostname"
    assert found[("10.0.0.4", "cannot run this project: No module named orchestrator")] == UP
    assert (OTHER, f"has ray 2.59.0, {WORKER} has 2.60.0") in found
    assert len(found) == 3


def test_a_machine_alone_needs_no_token_and_compares_with_nobody():
    facts = good(head=True)
    facts["token"] |= {"fingerprint": None, "mode": None}
    facts["ray"] = {"servers": [], "ports": {}, "head": None}
    facts["data"] = facts["tracker"] = None
    found = doctor.findings([Examined("this machine", facts, NOW + 1)], Expected(head="this machine"))
    assert {finding.level for finding in found} == {Level.FINE}
    assert not [f for f in found if any(word in f.what for word in ("clocks", "tracker", "data", "ports", "code"))]


def test_without_a_cluster_file_the_fix_is_for_the_machine_itself():
    expected = Expected(head="this machine", joined=True)
    worker = good(head=False)
    worker["versions"]["torch"] = "2.14.0"
    worker["token"]["fingerprint"] = "f2"
    hosts = [Examined("this machine", good(head=True), NOW + 1), Examined(WORKER, worker, NOW + 1, ("ssh", WORKER))]
    fixes = {finding.what.split(",")[0]: finding.fix for finding in doctor.findings(hosts, expected)}
    assert fixes["has torch 2.14.0"] == f"ssh {WORKER} '/venv/bin/python -m pip install torch==2.15.0'"
    assert fixes["Ray's token differs from that of this machine"] == f"scp ~/.ray/auth_token {WORKER}:.ray/auth_token"


def test_json_holds_the_findings_and_the_facts():
    hosts = [examined(HEAD, good(head=True)), examined(WORKER, None, reached=False, trouble="no route")]
    plain = json.loads(json.dumps(doctor.to_plain(hosts, doctor.findings(hosts, EXPECTED))))
    assert plain["breaks"] == 1
    assert plain["findings"][0] == {
        "level": "breaks", "host": WORKER, "what": "cannot be reached: no route", "why": "",
        "fix": f"ssh ann@{WORKER} hostname",
    }  # fmt: skip
    assert [host["host"] for host in plain["hosts"]] == [HEAD, WORKER]
    assert plain["hosts"][1] == {"host": WORKER, "trouble": "no route", "facts": None}


def test_a_finding_without_something_to_type_cannot_be_made():
    with pytest.raises(ValueError, match="needs a fix"):
        Finding(Level.WARNS, HEAD, "something is wrong")
