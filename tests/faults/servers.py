"""Real trackers for tests, and ways to make them fail: an MLflow server, PostgreSQL, S3, a proxy that misbehaves.

All listen on 127.0.0.1 on free ports and end with their ``with``.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Until the condition holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


class Server:
    """A real ``mlflow server``; ``kill`` and ``start`` it as often as wanted, on the same port and store."""

    def __init__(self, folder: Path, backend: str = "sqlite", artifacts: str | None = None, port: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        store = f"sqlite:///{folder}/mlflow.db" if backend == "sqlite" else backend
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--workers", "1", "--backend-store-uri", store]
        self._command += ["--artifacts-destination", artifacts or str(folder / "artifacts")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        wait_for(self._is_healthy, f"{self.uri} (see {self._log})")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it and the workers it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)  # its own session: nothing of anybody else's is in it
            self._process.wait()
            self._process = None

    def _is_healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended: {self._log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:  # noqa: S310 - our own
                return answer.status == 200
        except OSError:
            return False


@contextlib.contextmanager
def mlflow_server(
    folder: Path, backend: str = "sqlite", artifacts: str | None = None, port: int | None = None, wait: bool = True
) -> Iterator[Server]:
    """``backend`` is ``sqlite`` or a SQLAlchemy URI; ``artifacts`` a path or ``s3://…``, served by the server."""
    server = Server(folder, backend, artifacts, port)
    server.start(wait)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own; yields its SQLAlchemy URI. Skips where it is not installed."""
    pytest.importorskip("psycopg2")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    as_user = {}
    if os.getuid() == 0:  # it refuses to run as root
        try:
            import pwd

            entry = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    bin, port = found[-1].parent, free_port()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # pytest's folders are closed to other users
    process = None
    try:
        if as_user:
            shutil.chown(folder, "postgres")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **as_user}
        user = "postgres" if as_user else getpass.getuser()
        initdb = [bin / "initdb", "-D", folder / "data", "-A", "trust", "-U", user, "--no-sync"]
        subprocess.run(initdb, check=True, timeout=START_SECONDS, **quiet)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
        process = subprocess.Popen([bin / "postgres", "-D", folder / "data", "-p", str(port), *options], **quiet)
        wait_for(lambda: _postgres_answers(port, user), "PostgreSQL")
        yield f"postgresql+psycopg2://{user}@127.0.0.1:{port}/postgres"
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)  # it ends its own children
            process.wait(START_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_answers(port: int, user: str) -> bool:
    import psycopg2

    try:
        psycopg2.connect(host="127.0.0.1", port=port, user=user, dbname="postgres", connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


@contextlib.contextmanager
def s3(bucket: str = "mlflow") -> Iterator[str]:
    """An S3 with one bucket, whose place all processes started meanwhile have in their environment; yields its URL."""
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": endpoint,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        import boto3

        boto3.client("s3").create_bucket(Bucket=bucket)
        yield endpoint
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass(frozen=True)
class _Behaviour:
    mode: str = "pass"
    seconds: float = 0.0
    only: str = ""


class Proxy:
    """Stands before a server and misbehaves as told, from one request to the next.

    ``pass``; ``slow`` (waits, then forwards, even when nobody listens any more); ``error500``; ``error500_after``
    (forwards, then says it failed); ``hang`` (forwards nothing and never answers); ``refuse`` (cuts the
    connection). ``only`` narrows it to paths that contain it. ``requests`` are the methods and paths so far.
    """

    def __init__(self, target: str) -> None:
        self._target = target.removeprefix("http://")
        self._behaviour = _Behaviour()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._open = 0
        self.requests: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):  # the client went away
                    super().handle_one_request()
                    return
                self.close_connection = True

            def _any(self) -> None:
                with proxy._count():
                    proxy._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def behave(self, mode: str, seconds: float = 0.0, only: str = "") -> None:
        assert mode in ("pass", "slow", "error500", "error500_after", "hang", "refuse")
        self._behaviour = _Behaviour(mode, seconds, only)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being dealt with, not even one whose sender has gone."""
        return self._open == 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def _count(self) -> Iterator[None]:
        with self._lock:
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body(request)
        self.requests.append((request.command, request.path.split("?")[0]))
        now = self._behaviour if self._behaviour.only in request.path else _Behaviour()
        if now.mode == "refuse":
            request.close_connection = True
        elif now.mode == "hang":
            self._closed.wait(START_SECONDS)
            request.close_connection = True
        elif now.mode == "error500":
            _answer(request, 500, b'{"error_code": "INTERNAL_ERROR", "message": "told to fail"}')
        else:
            self._closed.wait(now.seconds if now.mode == "slow" else 0)
            status, answer, kind = self._forward(request, body)
            _answer(request, 500 if now.mode == "error500_after" else status, answer, kind)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(self._target, timeout=START_SECONDS)
        try:
            own = ("host", "connection", "transfer-encoding", "content-length")
            headers = {k: v for k, v in request.headers.items() if k.lower() not in own}
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type", "application/json")
        except (OSError, http.client.HTTPException) as error:
            return 502, str(error).encode(), "text/plain"
        finally:
            connection.close()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    """What a request carries; an empty file comes in chunks of no stated length."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def _answer(request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "application/json") -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
