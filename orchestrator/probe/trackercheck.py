"""Whether a tracker answers from this machine, asked with the standard library alone."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

_PATIENCE = 3.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # where MLflow's client talks to a database itself
_INVALID_HOST = "Invalid Host header"


class Answer(StrEnum):
    OK = "ok"
    UNRESOLVED = "unresolved"  # no machine has this name
    REFUSED = "refused"  # nothing listens there
    TIMEOUT = "timeout"
    HOST_REFUSED = "host_refused"  # MLflow's allow-list of hosts
    UNAUTHORIZED = "unauthorized"  # a wrong password, or none
    FORBIDDEN = "forbidden"
    FAILED = "failed"
    NOT_MLFLOW = "not_mlflow"


def ask(uri: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """``{uri, answer, detail}``; the URI without its password. ``environment`` may hold ``MLFLOW_TRACKING_…``."""
    answer, detail = _ask(uri, environment)
    return {"uri": shown(uri), "answer": answer.value, "detail": detail.replace(uri, shown(uri))}


def shown(uri: str) -> str:
    """The URI without what only the tracker should know.

    >>> shown("postgresql://ann:secret@db:5432/mlflow?password=x")
    'postgresql://db:5432/mlflow'
    """
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _ask(uri: str, environment: Mapping[str, str]) -> tuple[Answer, str]:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
        if not parts.hostname or port is None:
            return Answer.OK, "a file, or a service that is not asked"
        return _tried(lambda: _connect(parts.hostname or "", port))
    base = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    answer, detail = _tried(lambda: _get(f"{base}/health", parts, environment))
    if answer not in (Answer.OK, Answer.NOT_MLFLOW, Answer.FORBIDDEN, Answer.UNAUTHORIZED):
        return answer, detail
    # A server's health is shown to anyone; what may be done there shows in its API.
    answer, detail = _tried(lambda: _get(f"{base}/api/2.0/mlflow/experiments/search?max_results=1", parts, environment))
    if answer is Answer.OK and not _is_object(detail):
        return Answer.NOT_MLFLOW, f"no JSON came back, but {detail[:80]!r}"
    return answer, "" if answer is Answer.OK else detail


def _connect(host: str, port: int) -> str:
    socket.create_connection((host, port), timeout=_PATIENCE).close()
    return ""


def _get(url: str, parts: Any, environment: Mapping[str, str]) -> str:
    request = urllib.request.Request(url)  # noqa: S310 - http and https, see above
    user, password = (value and unquote(value) for value in (parts.username, parts.password))
    user = user or environment.get("MLFLOW_TRACKING_USERNAME")
    password = password or environment.get("MLFLOW_TRACKING_PASSWORD")
    if user is not None and password is not None:
        request.add_unredirected_header(
            "Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        )
    elif token := environment.get("MLFLOW_TRACKING_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    context = None
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
        if environment.get("MLFLOW_TRACKING_INSECURE_TLS") == "true":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(request, timeout=_PATIENCE, context=context) as answer:  # noqa: S310 - as above
        return answer.read(100_000).decode(errors="replace")


def _tried(ask: Any) -> tuple[Answer, str]:
    try:
        return Answer.OK, ask()
    except urllib.error.HTTPError as error:
        body = error.read(1000).decode(errors="replace").strip()
        if error.code == 403 and _INVALID_HOST in body:
            return Answer.HOST_REFUSED, body
        kinds = {401: Answer.UNAUTHORIZED, 403: Answer.FORBIDDEN, 404: Answer.NOT_MLFLOW}
        return kinds.get(error.code, Answer.FAILED), f"{error.code} {error.reason}"
    except urllib.error.URLError as error:
        return _reason(error.reason)
    except (OSError, ValueError) as error:
        return _reason(error)


def _reason(error: Any) -> tuple[Answer, str]:
    if isinstance(error, TimeoutError):
        return Answer.TIMEOUT, f"no answer within {_PATIENCE:g} s"
    if isinstance(error, ConnectionRefusedError):
        return Answer.REFUSED, "nothing listens there"
    if isinstance(error, socket.gaierror):
        return Answer.UNRESOLVED, "no machine is known by this name"
    return Answer.FAILED, str(error)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
