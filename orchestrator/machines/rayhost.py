"""Ray's own processes on this host, looked at and ended without Ray: it may be what does not work."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

from orchestrator.probe import procfs

_LOGS = Path("/tmp/ray/session_latest/logs")  # noqa: S108 - where Ray writes them
_COMPLAINTS = re.compile(r"error|fail|invalid|refused|mismatch|denied|no such|timed out", re.IGNORECASE)
_STOP_SECONDS = 30


def stop() -> str | None:
    """End Ray here; returns what is left of it, None when nothing is."""
    ray = Path(sys.executable).with_name("ray")
    for words in (["stop", f"--grace-period={_STOP_SECONDS // 3}"], ["stop", "--force"]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([ray, *words], capture_output=True, timeout=_STOP_SECONDS, check=False)
        if not procfs.ray_processes():
            return None
    return f"these processes do not end: {', '.join(procfs.ray_processes())}"


def why_not_joined() -> str:
    """What this host knows of why it is no part of its cluster."""
    if not (Path.home() / ".ray" / "auth_token").exists():
        return "it has no token: set-up has not come there, or ~/.ray/auth_token was removed"
    complaint = _last_complaint()
    if any(server["name"] == "raylet" for server in procfs.ray_servers()):
        return f"Ray runs there and is not let in: {complaint or 'its log says nothing'}"
    return f"Ray does not run there{f'; it last said: {complaint}' if complaint else ': it was never started'}"


def _last_complaint() -> str | None:
    """The last line of Ray's logs that sounds like an error."""
    newest = sorted(_LOGS.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest:
        if path.name.startswith(("raylet.", "gcs_server.", "dashboard_agent.", "runtime_env_agent.")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-200:]
            if found := next((line for line in reversed(lines) if _COMPLAINTS.search(line)), None):
                return found.strip()[:300]
    return None
