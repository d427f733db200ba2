"""The memory of a worker: the most it held, and giving it back."""

from __future__ import annotations

import contextlib
import gc
import sys
from pathlib import Path


def peak_bytes() -> int:
    """The most memory that this process has held since the attempt began."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # no Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> None:
    """Start the peak anew: workers are reused, and the trial before may have been a larger one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def gpu_peak() -> str:
    """The most that this process has held on its GPU, in words."""
    import torch

    held, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    return f"the trial's peak was {held / 2**30:.1f} of {total / 2**30:.1f} GiB"


def free_memory() -> None:
    """Give back what a dead trial holds on the GPU: the process is reused, and others may share the card."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
