"""The MLflow server over a folder of runs: its command line and environment, for this machine alone or for others.

For others it asks for a password, which is made once and kept, with what else is private, in a folder of the runs that
only its owner can read. MLflow itself runs in the process that takes this one's place.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.history.folder import LoginFolder, Runs

ADMIN = "admin"
_LOCAL = ("127.0.0.1", "localhost", "::1")
_ALL = ("0.0.0.0", "::")  # noqa: S104 - asked for by name
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")  # a name, IPv4 or IPv6; no option
_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]*(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")


@dataclass(frozen=True)
class Server:
    """What to execute, in which environment, and what to say first: never a password."""

    command: list[str]
    environment: dict[str, str]
    words: list[str]

    def start(self) -> None:
        """Become the server; does not return."""
        os.execve(self.command[0], self.command, self.environment)


def make_server(runs: Runs, host: str, port: int, allowed: Sequence[str] = (), login: bool = True) -> Server:
    """A server that listens at ``host``:``port``; on any but a loopback address it asks for a password if ``login``.

    ``allowed`` are the names by which browsers may call it, besides its address and this machine's names. Makes the
    password when there is none yet. Raises `UserError`.
    """
    _check(runs, host, allowed)
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{runs.tracker}"]
    environment, url = dict(os.environ), f"http://{_with_port(host, port)}"
    if host in _LOCAL and not allowed:
        words = [f"MLflow UI: {url}  (Ctrl-C ends it)"]
        return Server([*command, "--default-artifact-root", str(runs.tracker_artifacts)], environment, words)
    runs.root.mkdir(parents=True, exist_ok=True)
    names = [*allowed, *_own_names(host)]
    origins = [f"{scheme}://{_with_port(name, port)}" for name in names for scheme in ("http", "https")]
    origins += [f"https://{name}" for name in allowed]
    command += ["--artifacts-destination", str(runs.tracker_artifacts)]  # who is elsewhere sends files through it
    command += ["--allowed-hosts", _listed([*names, *(_with_port(name, port) for name in names)])]
    command += ["--cors-allowed-origins", _listed(origins)]
    words = [f"MLflow server: {url}  (Ctrl-C ends it)"]
    if host in _LOCAL:
        return Server(command, environment, words)
    if not login:
        words.append(f"warning: no login: whoever reaches {url} reads, changes and deletes everything in {runs.root}")
        return Server(command, environment, words)
    _make_login(runs.login)
    environment |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(runs.login.settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    }
    for name in ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"):  # they would overrule the file
        environment.pop(name, None)
    words += [
        f"login: user '{ADMIN}', whose password is in {runs.login.password}",
        f"studies elsewhere track to it with MLFLOW_TRACKING_URI={url}, MLFLOW_TRACKING_USERNAME={ADMIN} and "
        "MLFLOW_TRACKING_PASSWORD in their environment",
        "it speaks HTTP: where others can listen on the network, put a proxy with TLS before it and name that with "
        "--allowed-host",
    ]
    return Server([*command, "--app-name", "basic-auth"], environment, words)


def _check(runs: Runs, host: str, allowed: Sequence[str]) -> None:
    if not _HOST.fullmatch(host):
        raise UserError(f"{host!r} is no address to listen at", "for example --host 127.0.0.1 or --host 0.0.0.0")
    for name in allowed:
        if not _ALLOWED.fullmatch(name):
            raise UserError(f"{name!r} is no host name", "for example --allowed-host tracker.example.org")
    if host in _LOCAL and not runs.tracker.exists():
        raise UserError(f"nothing has been tracked in {runs.root} yet", "run a study first: orchestrator demo")


def _make_login(folder: LoginFolder) -> None:
    """The admin's password and MLflow's settings, readable by their owner alone; what is there already stays.

    MLflow stores a hash of the password when it first starts: a password that is lost cannot be made again.
    """
    folder.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.root.chmod(0o700)
    if not folder.password.exists():
        if folder.users.exists():
            hint = f"to begin with new users, remove {folder.users}"
            raise EnvironmentProblem(f"the password of {folder.users} is gone from {folder.password}", hint)
        _write_private(folder.password, secrets.token_urlsafe(24) + "\n")
    settings = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{folder.users}",
        "admin_username": ADMIN,
        "admin_password": folder.password.read_text(encoding="utf-8").strip(),
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    lines = [f"{key} = {value.replace('%', '%%')}" for key, value in settings.items()]
    _write_private(folder.settings, "\n".join(["[mlflow]", *lines, ""]))
    folder.users.touch(mode=0o600)


def _write_private(path: os.PathLike[str], text: str) -> None:
    """Never readable by others, not for a moment, whatever was there."""
    aside = f"{os.fspath(path)}.tmp"
    if os.path.lexists(aside):
        os.unlink(aside)
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(aside, path)


def _own_names(host: str) -> list[str]:
    """By what a server at this address may be called: the address, and for all addresses this machine's too."""
    names = [socket.gethostname(), socket.getfqdn()]
    if host not in _ALL:
        return [_bracketed(host), *names]
    return [*names, *_outward_addresses(), *(_bracketed(name) for name in _LOCAL)]


def _outward_addresses() -> Iterator[str]:
    """This machine's addresses as others see them; asking for the way there sends nothing."""
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((elsewhere, 9))
            yield _bracketed(str(asking.getsockname()[0]))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _with_port(host: str, port: int) -> str:
    host = _bracketed(host) if not re.fullmatch(r"[A-Za-z0-9.\-]+:\d+", host) else host
    return host if re.search(r"[^:\]]:\d+$|\]:\d+$", host) else f"{host}:{port}"


def _listed(values: Sequence[str]) -> str:
    return ",".join(dict.fromkeys(values))
