"""Another machine over SSH: the only place that starts ``ssh``.

What is run there is a fixed command; everything that a user wrote travels on its standard input, never in a shell's
words.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_UNREACHABLE = 255  # what ssh itself ends with when it cannot connect
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Host:
    """A machine and how to log in there."""

    address: str
    user: str | None = None
    key: Path | None = None
    proxy: str | None = None  # ssh's ProxyCommand

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True)
class Answer:
    """How a command on another machine ended; ``unreachable`` says in ssh's words why it never began."""

    status: int
    out: str
    err: str

    @property
    def unreachable(self) -> str | None:
        if self.status != _UNREACHABLE:
            return None
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else "ssh gave no reason"


def ask(host: Host, command: str, said: bytes = b"", timeout: float = 60.0) -> Answer:
    """Run a fixed command there, hand it ``said``, and return what it answered. Too late is unreachable, too."""
    try:
        done = subprocess.run(_words(host, command), input=said, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Answer(_UNREACHABLE, "", f"no answer within {timeout:g} s")
    except FileNotFoundError:
        return Answer(_UNREACHABLE, "", "there is no ssh here (Debian and Ubuntu: apt-get install openssh-client)")
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def attach(host: Host, command: str, forward: int | None = None) -> subprocess.Popen[bytes]:
    """Start a fixed command there whose output is this process's; write to its ``stdin`` and wait for it.

    ``forward`` is a port of its 127.0.0.1 that is to be the same port of this machine's.
    """
    return subprocess.Popen(_words(host, command, forward), stdin=subprocess.PIPE)


def _words(host: Host, command: str, forward: int | None = None) -> list[str]:
    """``BatchMode``: a question for a password would hang a program. A host's key is taken on trust the first time."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(_CONNECT_SECONDS),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": str(Path.home() / ".ssh" / "known_hosts"),  # ssh itself does not look at $HOME
        "LogLevel": "ERROR",
    }
    words = ["ssh", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    if forward is not None:
        words += ["-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{forward}:127.0.0.1:{forward}"]
    if host.key is not None:
        words += ["-i", str(host.key), "-o", "IdentitiesOnly=yes"]
    if host.proxy is not None:
        words += ["-o", f"ProxyCommand={host.proxy}"]
    return [*words, f"{host.user}@{host.address}" if host.user else host.address, "--", command]
