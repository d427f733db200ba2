"""What real processes of ours open to others: ports, Ray's token, passwords in what they write."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path

import pytest
from running import PATIENCE_SECONDS, Bench
from sockets import Listener, descendants, listeners

from orchestrator.history.states import State

pytestmark = pytest.mark.faults

SLOW = {
    "params": {"steps": 100_000, "pace": 0.1},
    "search": {"algorithm": "random", "trials": 2, "space": {"x": {"uniform": [-1, 1]}}},
}
SOON = {"search": {"algorithm": "random", "trials": 2, "space": {"x": {"uniform": [-1, 1]}}}}


@pytest.fixture
def ray_folder():
    """Ray's own folder for one test, with a short path: its sockets' names have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as asked:
        asked.bind((address, 0))
        return asked.getsockname()[1]


def end(process: subprocess.Popen) -> tuple[str, str]:
    """In order, and all that it started with it."""
    below = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        kill_all(below)


def end_server(process: subprocess.Popen) -> tuple[str, str]:
    """At once; its own workers hold what it prints to."""
    kill_all(descendants(process.pid))
    return process.communicate(timeout=PATIENCE_SECONDS)


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --------------------------------------------------------------------------------------------------------- listening


def wide(process: subprocess.Popen) -> list[Listener]:
    return [one for one in listeners(descendants(process.pid)) if not one.is_local]


def test_a_socket_of_everybody_s_is_seen():
    """What the tests below would find."""
    with socket.socket() as narrow, socket.socket() as open_to_all, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for one, address in ((narrow, "127.0.0.1"), (open_to_all, ""), (datagrams, "")):
            one.bind((address, 0))
        narrow.listen()
        open_to_all.listen()
        ports = {one.getsockname()[1]: one for one in (narrow, open_to_all, datagrams)}
        seen = {one.port: one.is_local for one in listeners([os.getpid()]) if one.port in ports}
    assert seen == {narrow_port: one is narrow for narrow_port, one in ports.items()}


def test_a_study_listens_to_this_machine_alone(tmp_path):
    bench = Bench(tmp_path, "s", **SLOW)
    process = bench.start()
    try:
        works = lambda: bench.events() and sum(t.steps > 5 for t in bench.record.trials.values()) == 2  # noqa: E731
        assert bench.until(works, process), process.communicate()
        assert {one.command.split()[0] for one in listeners(descendants(process.pid))} >= {"ray::DashboardAgent"}
        assert wide(process) == []
    finally:
        out, err = end(process)
    assert bench.record.state is State.STOPPED, out + err


def test_a_demo_listens_to_this_machine_alone(tmp_path):
    bench = Bench(tmp_path, "dogs-demo")
    process, found, looks = bench.start("demo"), [], 0
    try:
        while process.poll() is None and not (bench.events() and len(bench.record.trials) > 2):
            found += wide(process)
            looks += bool(listeners(descendants(process.pid)))
            time.sleep(0.2)
    finally:
        end(process)
    assert looks > 3
    assert found == []


def test_the_ui_listens_to_this_machine_alone(tmp_path):
    bench = Bench(tmp_path, "s", **SOON)
    bench.finish()
    port = free_port()
    process = bench.start("ui", "--port", str(port))
    try:
        assert answers(process, "127.0.0.1", port)
        assert ask("127.0.0.1", port)[0] == 200
        assert ask("127.0.0.1", port, host="evil.example")[0] == 403
        assert {one.port for one in listeners(descendants(process.pid))} >= {port}
        assert wide(process) == []
    finally:
        end_server(process)


# ------------------------------------------------------------------------------------------------------ MLflow's login

ASKED = "/api/2.0/mlflow/experiments/search?max_results=1"


def ask(address: str, port: int, *, login: str | None = None, host: str | None = None, path: str = ASKED):
    """A request's status and body."""
    headers = {"Host": host or f"{address}:{port}"}
    if login is not None:
        headers["Authorization"] = "Basic " + b64encode(login.encode()).decode()
    connection = http.client.HTTPConnection(address, port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answers(process: subprocess.Popen, address: str, port: int) -> bool:
    """Wait until it does; False when the process ends first."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None:
        with contextlib.suppress(OSError):
            return ask(address, port, path="/health")[0] == 200
        assert time.monotonic() < deadline, "no server came up"
        time.sleep(0.1)
    return False


def test_a_server_for_others_asks_for_a_password(tmp_path):
    """127.0.0.2 stands for an address on the network: nobody but this machine reaches it in a test."""
    bench, port = Bench(tmp_path, "s", **SOON), free_port("127.0.0.2")
    login, url = bench.runs.login, f"http://127.0.0.2:{port}"
    process = bench.start("ui", "--host", "127.0.0.2", "--port", str(port), "--allowed-host", "tracker.example")
    try:
        assert answers(process, "127.0.0.2", port)
        password = login.password.read_text().strip()
        assert ask("127.0.0.2", port)[0] == 401
        assert ask("127.0.0.2", port, login="admin:wrong")[0] == 401
        assert ask("127.0.0.2", port, login="admin:password1234")[0] == 401
        for path in ("/", "/api/2.0/mlflow-artifacts/artifacts", "/openapi.json", "/v1/traces", "/ajax-api/3.0/jobs/x"):
            assert ask("127.0.0.2", port, path=path)[0] == 401, path
        assert ask("127.0.0.2", port, login=f"admin:{password}")[0] == 200
        assert ask("127.0.0.2", port, login=f"admin:{password}", host="tracker.example")[0] == 200
        assert ask("127.0.0.2", port, login=f"admin:{password}", host="evil.example")[0] == 403
        for path in (login.password, login.settings, login.users):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(login.root.stat().st_mode) == 0o700

        track = Bench(tmp_path / "elsewhere", "s", **SOON)
        track.environment |= {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_USERNAME": "admin"}
        refused = track.finish("run", str(track.file))
        assert "not everything is tracked" in refused
        track.environment["MLFLOW_TRACKING_PASSWORD"] = password
        track.finish("track", "s")
        found = ask("127.0.0.2", port, login=f"admin:{password}", path=f"{ASKED[:-1]}100")[1]
        assert b'"name": "s"' in found
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(process.pid)]
    finally:
        out, err = end_server(process)
    assert password not in out + err
    assert str(login.password) in out
    assert not any(password.encode() in command for command in commands)
    assert files_with(password, tmp_path) == {login.password, login.settings}


# ---------------------------------------------------------------------------------------------------------- Ray's token


def other(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Python of somebody else's on this machine, without what our environment says of Ray.

    Ray would look for 127.0.0.1 at the machine's address; the switch is how `machines.cluster` keeps it from that.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ORCHESTRATOR_"))}
    own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return subprocess.run(
        [sys.executable, "-c", code], env={**own, **environment}, capture_output=True, text=True, check=False,
        timeout=3 * PATIENCE_SECONDS,
    )  # fmt: skip


JOIN = "import ray; ray.init({address!r}, log_to_driver=False); print('NODES', len(ray.nodes()))"
SUBMIT = (
    "from ray.job_submission import JobSubmissionClient as C; "
    "print('JOB', C({address!r}).submit_job(entrypoint='touch {mark}'))"
)
SUBMIT_AND_WAIT = (
    "import time; from ray.job_submission import JobSubmissionClient as C; c = C({address!r}); "
    "j = c.submit_job(entrypoint='touch {mark}')\n"
    "while not c.get_job_status(j).is_terminal(): time.sleep(0.2)\n"
    "print('JOB', c.get_job_status(j).value)"
)


@pytest.fixture
def head(tmp_path, ray_folder):
    """A Ray head as `ray up` starts it, on loopback with ports of its own: its GCS, its job server, its token."""
    token = tmp_path / "token"
    token.write_text("a" * 64)
    gcs, jobs, client, agent, metrics = (free_port() for _ in range(5))
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1",
         "--node-ip-address=127.0.0.1", f"--port={gcs}", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
         f"--dashboard-port={jobs}", f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
         f"--metrics-export-port={metrics}", f"--temp-dir={ray_folder}"],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
             "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        up = f"from ray.job_submission import JobSubmissionClient as C; C('http://127.0.0.1:{jobs}').list_jobs()"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while other(up, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)).returncode:
            assert process.poll() is None, "the head did not start"
            assert time.monotonic() < deadline, "the head's job server does not answer"
        yield f"127.0.0.1:{gcs}", f"http://127.0.0.1:{jobs}", token
    finally:
        kill_all(descendants(process.pid))
        process.wait()


def test_nobody_uses_a_head_without_its_token(head, tmp_path):
    gcs, jobs, token = head
    wrong = tmp_path / "wrong"
    wrong.write_text("b" * 64)
    mark = tmp_path / "was-here"
    strangers = [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)},
                 {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}]  # fmt: skip
    for stranger in strangers:
        for code in (JOIN.format(address=gcs), SUBMIT.format(address=jobs, mark=mark)):
            done = other(code, **stranger)
            assert done.returncode != 0, stranger
            assert "JOB" not in done.stdout
            assert "NODES" not in done.stdout
            assert any(word in done.stderr for word in ("oken", "nauthenticated", "401", "403")), done.stderr[-1000:]
    assert not mark.exists()
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    done = other(JOIN.format(address=gcs), **known)
    assert "NODES 1" in done.stdout, done.stderr
    done = other(SUBMIT_AND_WAIT.format(address=jobs, mark=mark), **known)
    assert "JOB SUCCEEDED" in done.stdout, done.stderr
    assert mark.exists()


def test_nobody_joins_a_running_study_without_the_token(tmp_path, ray_folder):
    """Nor reads it: other users of this machine reach its ports, but not the file."""
    bench = Bench(tmp_path, "s", **SLOW)
    home = tmp_path / "home"
    home.mkdir()
    bench.environment |= {"HOME": str(home), "RAY_TMPDIR": str(ray_folder)}
    process = bench.start()
    try:
        assert bench.until(lambda: bench.events() and any(t.pid for t in bench.record.trials.values()), process)
        gcs = next(one for one in listeners(descendants(process.pid)) if "gcs_server" in one.command)
        code = JOIN.format(address=f"127.0.0.1:{gcs.port}")
        for stranger in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "c" * 64}):
            done = other(code, **stranger)
            assert done.returncode != 0
            assert "NODES" not in done.stdout
        done = other(code, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(home / ".ray" / "auth_token"))
        assert process.poll() is None
        assert "NODES 1" in done.stdout, done.stderr
        assert stat.S_IMODE((home / ".ray").stat().st_mode) == 0o700
    finally:
        end(process)


# ------------------------------------------------------------------------------------------------------ planted secrets


def files_with(secret: str, *roots: Path) -> set[Path]:
    return {
        path for root in roots for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["well", "raise", "die"])
@pytest.mark.parametrize("by_file", [False, True])
def test_planted_secrets_are_written_nowhere(tmp_path, ray_folder, kind, by_file):
    """Not by us, not by Ray, not by MLflow: whether the study goes well, a trial raises or its process dies."""
    secrets = {
        "RAY_AUTH_TOKEN": "rayrayray" + "1" * 55,
        "AWS_SECRET_ACCESS_KEY": "awsawsaws222222222222",
        "MLFLOW_TRACKING_PASSWORD": "mlflowpass3333333",
        "HF_TOKEN": "hftoken4444444",
        "MLFLOW_TRACKING_URI": "http://ann:urlpass5555@127.0.0.1:9",
    }
    bench = Bench(tmp_path / "bench", "s", **SOON, params={"mood": kind}, failures={"retries": 0})
    bench.environment |= {**secrets, "MLFLOW_TRACKING_USERNAME": "ann", "RAY_TMPDIR": str(ray_folder)}
    planted = [*list(secrets.values())[:-1], "urlpass5555", "filetoken6666"]
    if by_file:
        token = tmp_path / "token"
        token.write_text("filetoken6666" + "7" * 51)
        bench.environment["RAY_AUTH_TOKEN_PATH"] = str(token)
        del bench.environment["RAY_AUTH_TOKEN"], bench.environment["MLFLOW_TRACKING_URI"]
    process = bench.start()
    out, err = process.communicate(timeout=4 * PATIENCE_SECONDS)
    assert process.returncode == (0 if kind == "well" else 1), out + err
    said = [
        bench.start(*words).communicate(timeout=PATIENCE_SECONDS) for words in (["show", "s"], ["logs", "s", "t0000"])
    ]
    assert len(list(ray_folder.rglob("*.log"))) > 3
    assert bench.runs.tracker.exists() == by_file
    for secret in planted:
        assert not any(secret in text for text in (out, err, *(text for pair in said for text in pair)))
        assert files_with(secret, bench.runs.root, ray_folder, tmp_path / "bench") == set()
