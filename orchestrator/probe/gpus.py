"""The GPUs of this machine, their driver, and the CUDA that torch was built for; torch is not imported for it."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PATIENCE = 10.0


def describe() -> dict[str, Any]:
    """Plain values.

    ``devices``: how many device files there are, driver or no driver; ``names``, ``driver``, ``driver_cuda`` (the
    newest CUDA it can serve) and ``trouble`` (why it gave none) as ``nvidia-smi`` says them; ``busy``: processes that
    hold GPU memory, as ``{pid, mib}``; ``torch_cuda``: None for a build without CUDA, or without torch.
    """
    listed, trouble = _smi("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.count(",") == 2]
    header = _smi()[0] if rows else ""
    return {
        "devices": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "names": [f"{name}, {memory}" for name, _, memory in rows],
        "driver": rows[0][1] if rows else None,
        "driver_cuda": cuda_of(header),
        "trouble": None if rows else trouble,
        "busy": _busy() if rows else [],
        "torch_cuda": _torch_cuda(),
    }


def cuda_of(header: str) -> str | None:
    """The newest CUDA that the driver serves, as the first lines of ``nvidia-smi`` say it.

    >>> cuda_of("| NVIDIA-SMI 580.82.07   Driver Version: 580.82.07   CUDA Version: 13.0 |")
    '13.0'
    """
    found = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", header)
    return found.group(1) if found else None


def _busy() -> list[dict[str, int]]:
    rows = [
        line.split(",")
        for line in _smi("--query-compute-apps=pid,used_memory", "--format=csv,noheader")[0].splitlines()
    ]
    found = [(row[0].strip(), re.match(r"\s*(\d+)", row[1])) for row in rows if len(row) == 2]
    return [{"pid": int(pid), "mib": int(used.group(1))} for pid, used in found if used and pid.isdecimal()]


def _smi(*options: str) -> tuple[str, str | None]:
    """What ``nvidia-smi`` prints, and what is wrong where it prints nothing."""
    try:
        done = subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except FileNotFoundError:
        return "", "there is no nvidia-smi"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return "", said[0] if said else f"nvidia-smi ended with {done.returncode}"
    return done.stdout, None


def _torch_cuda() -> str | None:
    try:
        path = metadata.distribution("torch").locate_file("torch/version.py")
        text = Path(str(path)).read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None
