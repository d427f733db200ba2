"""Provenance: what code, packages and machine a study ran on; never environment variables, nor secrets."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.redaction import redacted, redacted_words

PACKAGES = ("ray", "torch", "torchvision", "timm", "numpy", "scipy", "mlflow", "optuna", "pydantic", "safetensors")
SOURCE = Path(__file__).resolve().parents[2]
PROVENANCE = "provenance.json"
"""Beside the packages, where these were shipped: the state of the checkout that they come from."""
# Files that are for secrets are not for the record, even where somebody has committed one.
_PRIVATE_FILES = [
    f":(exclude,icase,glob)**/{name}" for name in (".env*", "*secret*", "*credential*", "*.pem", "*.key", "id_*")
]


def describe_environment() -> dict[str, Any]:
    """Plain values for ``environment.json``."""
    return {
        "orchestrator": __version__,
        "command": [Path(sys.argv[0]).name, *redacted_words(sys.argv[1:])],
        "git": git_state(),
        "lock_sha256": sha256(SOURCE / "requirements.lock"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _run(
            "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
        ).splitlines(),
    }


def git_state() -> dict[str, str] | None:
    """Commit and uncommitted changes of the checkout this code comes from; None when it was installed as a package."""
    if (SOURCE / PROVENANCE).exists():
        shipped: dict[str, str] | None = json.loads((SOURCE / PROVENANCE).read_text(encoding="utf-8"))
        return shipped
    if not (SOURCE / ".git").exists():
        return None
    return {
        "commit": _run("git", "-C", str(SOURCE), "rev-parse", "HEAD").strip(),
        "diff": redacted(_run("git", "-C", str(SOURCE), "diff", "HEAD", "--", ".", *_PRIVATE_FILES)),
    }


def _run(*command: str) -> str:
    """What a command prints; nothing when it does not exist or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
