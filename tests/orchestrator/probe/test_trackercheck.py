"""Servers that answer as MLflow does when something is wrong, and one that never answers."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.probe import trackercheck
from orchestrator.probe.trackercheck import Answer

REBINDING = "Invalid Host header - possible DNS rebinding attack detected"


@contextmanager
def server(status: int, body: str, user: str | None = None):
    """Answers its health to anyone, and its API with this; only to ``user`` (name:password), if one is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            code, text = (200, "OK") if self.path == "/health" else (status, body)
            given = self.headers.get("Authorization", "").removeprefix("Basic ")
            if user is not None and self.path != "/health" and base64.b64decode(given).decode() != user:
                code, text = 401, "You are not authenticated"
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made.server_address[1]
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, '{"experiments": []}', Answer.OK),
        (200, "<html>another server</html>", Answer.NOT_MLFLOW),
        (401, "You are not authenticated", Answer.UNAUTHORIZED),
        (403, REBINDING, Answer.HOST_REFUSED),
        (403, "Permission denied", Answer.FORBIDDEN),
        (404, "nothing here", Answer.NOT_MLFLOW),
        (500, "it broke", Answer.FAILED),
    ],
)
def test_what_a_server_answers_is_told_apart(status, body, answer):
    with server(status, body) as port:
        found = trackercheck.ask(f"http://127.0.0.1:{port}", {})
    assert found["answer"] == answer
    assert bool(found["detail"]) == (answer is not Answer.OK)


def test_a_login_comes_from_the_environment_or_from_the_uri_and_is_not_shown():
    login = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "se:cret"}
    with server(200, "{}", user="ann:se:cret") as port:
        assert trackercheck.ask(f"http://127.0.0.1:{port}", {})["answer"] == Answer.UNAUTHORIZED
        assert trackercheck.ask(f"http://127.0.0.1:{port}/", login)["answer"] == Answer.OK
    with server(200, "{}", user="ann:secret") as port:
        found = trackercheck.ask(f"http://ann:secret@127.0.0.1:{port}", {})
    assert found == {"uri": f"http://127.0.0.1:{port}", "answer": "ok", "detail": ""}


def test_a_server_that_hangs_and_one_that_is_not_there(monkeypatch):
    monkeypatch.setattr(trackercheck, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hanging = trackercheck.ask(f"http://127.0.0.1:{port}", {})
        database = trackercheck.ask(f"postgresql://ann:secret@127.0.0.1:{port}/mlflow", {})
    closed = trackercheck.ask(f"http://127.0.0.1:{port}", {})
    assert hanging["answer"] == Answer.TIMEOUT
    assert "0.2 s" in hanging["detail"]
    assert database == {"uri": f"postgresql://127.0.0.1:{port}/mlflow", "answer": "ok", "detail": ""}
    assert closed["answer"] == Answer.REFUSED
    assert trackercheck.ask("http://no-such-machine.invalid:5000", {})["answer"] == Answer.UNRESOLVED


def test_a_file_is_no_server():
    assert trackercheck.ask("sqlite:////shared/mlflow.db", {})["answer"] == Answer.OK
